"""A comparison as a plot: dots with intervals, and paired differences next to them."""

from pathlib import Path
from textwrap import fill

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitlab.evaluation.comparison_text import footnotes, title

# of Okabe and Ito's colors, which color-blind readers can tell apart
OURS, BASELINE, SEED = "#0072B2", "#D55E00", "#7f7f7f"
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
    ours = comparison[comparison.weights.notna()]
    blocks = [block for _, block in ours.groupby("table", sort=False)]
    paired = "difference" in ours and bool(ours.difference.notna().any())
    counts = [len(block) for block in blocks]
    figure = Figure(
        figsize=(12 if paired else 8, 0.5 + sum(1.25 + 0.32 * n for n in counts)),
        layout="constrained",
    )
    panels = figure.subplots(
        len(blocks), 1 + paired, squeeze=False, height_ratios=[n + 2 for n in counts]
    )
    notes = [CAPTION]
    for block, line in zip(blocks, panels, strict=True):
        number, base = block.table.iloc[0], block.baseline.iloc[0]
        notes += [f"{number}. {text}" for text in footnotes(block)]
        _panel(line[0], block, "percent", "", title(block), f"{block.score.iloc[0]}, %")
        if paired and block.difference.notna().any():
            _panel(line[1], block, "difference", "difference_", f"to {base}", "paired difference")
            line[1].axvline(0, color=BASELINE, linewidth=1)
        elif paired:
            line[1].set_axis_off()
    text = "\n".join(fill(note, 75 * (1 + paired)) for note in notes)
    figure.supxlabel(_plain(text), fontsize=8, x=0.01, ha="left", color="0.3")
    return figure


def _panel(
    panel: Axes, block: pd.DataFrame, name: str, prefix: str, heading: str, unit: str
) -> None:
    """Draw an estimate of each row of a table, downward."""
    for place, (_, row) in enumerate(block.iterrows()):
        if pd.isna(row[name]):
            continue
        color, shape = (BASELINE, "D") if row.weights == row.baseline else (OURS, "o")
        interval = row[[f"{prefix}low", f"{prefix}high"]]
        panel.plot(interval, [place] * 2, color=color, linewidth=2, solid_capstyle="round")
        panel.plot(row[name], place, shape, color=color, markersize=7)
        seeds = row[f"{prefix}by_seed"]
        if len(seeds) > 1:  # below the line, not to be hidden by it
            below = [place + 0.25] * len(seeds)
            panel.plot(seeds, below, "o", color=SEED, markersize=4, fillstyle="none")
    labels = [_plain(label[-40:]) for label in block.weights] if not prefix else []
    panel.set_yticks(range(len(block)), labels or [""] * len(block))
    panel.set_ylim(len(block) - 0.4, -0.6)
    panel.grid(axis="x", alpha=0.3)
    panel.tick_params(axis="y", length=0)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.set_xlabel(_plain(unit))
    panel.set_title(_plain(fill(heading, 62)), fontsize=9, loc="left")


def _plain(text: str) -> str:
    """Return a text in which matplotlib reads no formula."""
    return text.replace("$", r"\$")
