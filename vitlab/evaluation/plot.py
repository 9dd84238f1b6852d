"""Blocks of results as a plot: dots with intervals, and paired differences beside them."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitlab.evaluation.blocks import Block
from vitlab.evaluation.rows import Estimate

# of Okabe and Ito's colors, which color-blind readers can tell apart
OURS, BASELINE, SEED = "#0072B2", "#D55E00", "#7f7f7f"
LONGEST = 40  # letters of a label
CAPTION = (
    "Lines: 95 % interval by the bootstrap over test images. Rings: seeds, whose mean is the dot. "
    "Diamond: the baseline of the differences."
)


def save(blocks: Sequence[Block], out: Path) -> None:
    """Write the plot as out.png and out.svg."""
    figure = draw(blocks)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "vitlab"}):
        figure.savefig(out.with_name(f"{out.name}.png"), dpi=150)
        figure.savefig(out.with_name(f"{out.name}.svg"), metadata={"Date": None})


def draw(blocks: Sequence[Block]) -> Figure:
    """Return a figure with a line of panels for each block: scores, and differences if any.

    A dot is a score, or the mean of seeds; a line its 95 % interval over test images; small rings
    are the seeds.
    """
    paired = any(row.difference for block in blocks for row in block.rows)
    columns = 2 if paired else 1
    counts = [len(block.rows) for block in blocks]
    figure = Figure(
        figsize=(4.4 + 3.6 * columns, 0.5 + sum(1.25 + 0.32 * n for n in counts)),
        layout="constrained",
    )
    panels = figure.subplots(
        len(blocks), columns, squeeze=False, gridspec_kw={"height_ratios": [n + 2 for n in counts]}
    )
    for number, (block, line) in enumerate(zip(blocks, panels, strict=True), 1):
        _scores(line[0], block, number)
        if paired:
            _differences(line[1], block)
    notes = [
        f"{number}. {mark} {text}"
        for number, block in enumerate(blocks, 1)
        for mark, text in block.notes.items()
    ]
    lines = [part for note in [CAPTION, *notes] for part in wrap(note, 75 * columns)]
    figure.supxlabel(_plain("\n".join(lines)), fontsize=8, x=0.01, ha="left", color="0.3")
    return figure


def _scores(panel: Axes, block: Block, number: int) -> None:
    for place, row in enumerate(block.rows):
        _dot(panel, place, row.score, *((BASELINE, "D") if row.baseline else (OURS, "o")))
    _lines(panel, block)
    labels = [_plain(_short(row.label) + row.score_mark) for row in block.rows]
    panel.set_yticks(range(len(block.rows)), labels)
    panel.set_xlabel(_plain(f"{block.first.headline}, %"))
    panel.set_title("\n".join(wrap(_plain(f"{number}. {block.title}"), 62)), fontsize=9, loc="left")


def _differences(panel: Axes, block: Block) -> None:
    if not any(row.difference for row in block.rows):
        panel.set_axis_off()
        return
    panel.axvline(0, color=BASELINE, linewidth=1)
    for place, row in enumerate(block.rows):
        if row.difference:
            _dot(panel, place, row.difference, OURS, "o")
        elif not row.baseline:
            text = f"no difference{row.difference_mark}"
            panel.annotate(text, (0, place), (4, 0), textcoords="offset points", va="center")
    _lines(panel, block)
    panel.set_yticks(range(len(block.rows)), [""] * len(block.rows))
    panel.set_xlabel("paired difference, points")
    panel.set_title(
        "\n".join(wrap(_plain(f"to {_short(block.baseline)}"), 44)), fontsize=9, loc="left"
    )


def _dot(panel: Axes, place: int, estimate: Estimate, color: str, shape: str) -> None:
    """Draw an estimate on a line of a panel."""
    if estimate.interval:
        panel.plot(estimate.interval, [place] * 2, color=color, linewidth=2, solid_capstyle="round")
    panel.plot(estimate.value, place, shape, color=color, markersize=7)
    if len(estimate.by_seed) > 1:
        # beside the line, not to be hidden by it
        beside = [place + 0.25] * len(estimate.by_seed)
        panel.plot(estimate.by_seed, beside, "o", color=SEED, markersize=4, fillstyle="none")


def _lines(panel: Axes, block: Block) -> None:
    """Let rows read downward, on faint lines."""
    panel.set_ylim(len(block.rows) - 0.4, -0.6)
    panel.grid(axis="x", alpha=0.3)
    panel.tick_params(axis="y", length=0)
    panel.spines[["top", "right", "left"]].set_visible(False)


def _short(label: str) -> str:
    """Return the end of a long label, where paths differ."""
    return label if len(label) <= LONGEST else f"...{label[3 - LONGEST :]}"


def _plain(text: str) -> str:
    """Return a text in which matplotlib reads no formula."""
    return text.replace("$", r"\$")
