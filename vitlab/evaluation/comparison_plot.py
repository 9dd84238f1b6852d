"""A comparison as a plot: dots with intervals, and paired differences next to them."""

from pathlib import Path
from textwrap import wrap

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitlab.evaluation.comparison_text import footnotes, title

# of Okabe and Ito's colors, which color-blind readers can tell apart
OURS, BASELINE, SEED = "#0072B2", "#D55E00", "#7f7f7f"
LONGEST = 40  # letters of a label
CAPTION = (
    "Lines: 95 % interval by the bootstrap over test images. Rings: seeds, whose mean is the dot. "
    "Diamond: the baseline of the differences."
)


def save(comparison: pd.DataFrame, out: Path) -> None:
    """Write the plot as out.png and out.svg."""
    figure = draw(comparison)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "vitlab"}):
        figure.savefig(out.with_name(f"{out.name}.png"), dpi=150)
        figure.savefig(out.with_name(f"{out.name}.svg"), metadata={"Date": None})


def draw(comparison: pd.DataFrame) -> Figure:
    """Return a figure with a line of panels for each table: scores, and differences if any.

    A dot is a score, or the mean of seeds; a line its 95 % interval over test images; small rings
    are the seeds. Published numbers are not drawn.
    """
    ours = comparison[comparison.weights.notna()].reset_index(drop=True)
    blocks = [block for _, block in ours.groupby("table", sort=False)]
    paired = "difference" in ours and bool(ours.difference.notna().any())
    columns, counts = 2 if paired else 1, [len(block) for block in blocks]
    figure = Figure(
        figsize=(4.4 + 3.6 * columns, 0.5 + sum(1.25 + 0.32 * n for n in counts)),
        layout="constrained",
    )
    panels = figure.subplots(
        len(blocks), columns, squeeze=False, gridspec_kw={"height_ratios": [n + 2 for n in counts]}
    )
    notes = [CAPTION]
    for number, (block, line) in enumerate(zip(blocks, panels, strict=True), 1):
        marks = footnotes(block)
        notes += [f"{number}. {mark} {text}" for mark, text in marks.items()]
        texts = {text: mark for mark, text in marks.items()}
        _scores(line[0], block, number, texts)
        if paired:
            _differences(line[1], block, texts)
    lines = [part for note in notes for part in wrap(note, 75 * columns)]
    figure.supxlabel(_plain("\n".join(lines)), fontsize=8, x=0.01, ha="left", color="0.3")
    return figure


def _scores(panel: Axes, block: pd.DataFrame, number: int, marks: dict[str, str]) -> None:
    labels = []
    for place, (_, row) in enumerate(block.iterrows()):
        style = (BASELINE, "D") if row.weights == row.baseline else (OURS, "o")
        _dot(panel, place, row, "", *style)
        labels.append(_plain(_short(row.weights) + "".join(marks[text] for text in row.remarks)))
    _lines(panel, labels)
    panel.set_xlabel(_plain(f"{block.score.iloc[0]}, %"))
    heading = wrap(_plain(f"{number}. {title(block)}"), 62)
    panel.set_title("\n".join(heading), fontsize=9, loc="left")


def _differences(panel: Axes, block: pd.DataFrame, marks: dict[str, str]) -> None:
    if not block.difference.notna().any():
        panel.set_axis_off()
        return
    panel.axvline(0, color=BASELINE, linewidth=1)
    for place, (_, row) in enumerate(block.iterrows()):
        if pd.notna(row.difference):
            _dot(panel, place, row, "difference_", OURS, "o")
        elif row.weights != row.baseline:
            text = "no difference" + "".join(marks[each] for each in row.difference_remarks)
            panel.annotate(text, (0, place), (4, 0), textcoords="offset points", va="center")
    _lines(panel, [""] * len(block))
    panel.set_xlabel("paired difference, points")
    to = _plain(f"to {_short(block.baseline.iloc[0])}")
    panel.set_title("\n".join(wrap(to, 44)), fontsize=9, loc="left")


def _dot(panel: Axes, place: int, row: pd.Series, name: str, color: str, shape: str) -> None:
    """Draw an estimate on a line of a panel."""
    value, seeds = row[name.rstrip("_") or "percent"], row[f"{name}by_seed"]
    interval = row[[f"{name}low", f"{name}high"]]
    panel.plot(interval, [place] * 2, color=color, linewidth=2, solid_capstyle="round")
    panel.plot(value, place, shape, color=color, markersize=7)
    if len(seeds) > 1:
        # below the line, not to be hidden by it
        below = [place + 0.25] * len(seeds)
        panel.plot(seeds, below, "o", color=SEED, markersize=4, fillstyle="none")


def _lines(panel: Axes, labels: list[str]) -> None:
    """Let rows read downward, on faint lines."""
    panel.set_yticks(range(len(labels)), labels)
    panel.set_ylim(len(labels) - 0.4, -0.6)
    panel.grid(axis="x", alpha=0.3)
    panel.tick_params(axis="y", length=0)
    panel.spines[["top", "right", "left"]].set_visible(False)


def _short(label: str) -> str:
    """Return the end of a long label, where paths differ."""
    return label if len(label) <= LONGEST else f"...{label[3 - LONGEST :]}"


def _plain(text: str) -> str:
    """Return a text in which matplotlib reads no formula."""
    return text.replace("$", r"\$")
