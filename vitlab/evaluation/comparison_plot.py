"""A comparison as a plot: dots with intervals, and paired differences next to them."""

import pandas as pd
from matplotlib.figure import Figure

from vitlab.evaluation.comparison_text import MARK, title
from vitlab.visualization.plots import (
    REFERENCE_DASH,
    handle,
    new_figure,
    plot_dots,
    plot_style,
    styles_of,
)

ROW, AROUND = 0.19, 0.75  # inches: of a row, and around the rows of a panel
ESTIMATE = ["label", "mean", "low", "high", "by_seed"]


def draw(comparison: pd.DataFrame) -> Figure:
    """Return a figure with a line of panels for each table: scores, and differences if any.

    A dot is a score, or the mean of seeds; a line its 95 % interval over test images; small rings
    are the seeds. Published numbers are not drawn. Remarks on rows are said below.
    """
    ours = comparison[comparison.weights.notna()]
    blocks = [block for _, block in ours.groupby("table", sort=False)]
    paired = "difference" in ours and bool(ours.difference.notna().any())
    styles = styles_of(list(dict.fromkeys(ours.weights)))
    legend = [handle("mean, 95 % interval", "0.2", "o", "-")]
    if (ours.seeds > 1).any():
        legend.append(handle("seed", "0.45", "o", "none"))
        legend[-1].set_fillstyle("none")
    remarks = [f"{MARK} {row.weights}: {row.remarks}" for row in ours.itertuples() if row.remarks]
    heights = [AROUND + ROW * len(block) for block in blocks]
    with plot_style():
        figure, panels = new_figure(
            len(blocks) * (1 + paired),
            legend,
            across=1 + paired,
            share=False,
            heights=heights,
            note="\n".join(remarks),
        )
        for place, block in enumerate(blocks):
            left, *right = panels[place * (1 + paired) :][: 1 + paired]
            one = block.iloc[0]
            names = ["weights", "percent", "low", "high", "by_seed"]
            plot_dots(left, block[names].set_axis(ESTIMATE, axis=1), styles)
            left.set(xlabel=f"{one.score}, %")
            left.set_title(title(block).replace(": ", ":\n"), loc="left")
            for panel in right:
                names = [each.replace("percent", "") for each in names[2:]]
                names = ["weights", "difference", *(f"difference_{each}" for each in names)]
                rows = block[names].set_axis(ESTIMATE, axis=1)
                if rows["mean"].isna().all():
                    panel.set_axis_off()
                    continue
                plot_dots(panel, rows, styles)
                panel.axvline(0, color="0.3", linewidth=0.9, linestyle=REFERENCE_DASH)
                panel.set_yticks(range(len(rows)), [""] * len(rows))
                panel.set_title(f"difference to\n{styles[one.baseline].label}", loc="left")
                panel.set(xlabel="points, paired by image")
    return figure
