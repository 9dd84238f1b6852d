"""Which depth aligns best with the foreground, and which segments best, one above the other."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from vitlab.analysis.report.depth import GAP, depth_axis, draw_series
from vitlab.analysis.report.drawing import (
    HEIGHT,
    WIDTH,
    Drawing,
    label_axes,
    legend,
    number,
    of_model,
    render,
    sheet,
)
from vitlab.analysis.report.gathered import (
    Gathered,
    averaged,
    finite,
    pivot,
    quantity,
    where,
)
from vitlab.analysis.results import Measure, Row


def best(rows: Sequence[Row]) -> Row | None:
    """Return the row with the highest number, the first of equals; the output counts as a layer."""
    return max((row for row in rows if finite(row)), key=lambda row: row.mean, default=None)


def series(gathered: Gathered, measure: str, model: str) -> list[Row]:
    """Return a number for each block and the output, at the last point, of all or of patches."""
    rows = [r for r in gathered.rows(measure) if r.model == model and r.head is None]
    blocks = [row for row in rows if row.block is not None]
    kinds = [(row.point, row.role) for row in blocks or rows]
    if not kinds:
        return []
    point = kinds[-1][0]
    roles = [role for where_, role in kinds if where_ == point]
    role = next((each for each in ("all", "", "patches") if each in roles), roles[0])
    chosen = [r for r in blocks if (r.point, r.role) == (point, role)]
    final = [r for r in rows if r.block is None and r.role == role]
    return sorted(chosen, key=lambda row: row.block or 0) + final


def layer_against_miou(gathered: Gathered, align: Measure, segment: Measure) -> Drawing:
    """Return both curves over depth in one figure; the best layer of each model is ringed.

    The comparison of arXiv:2605.23868: shallow layers align better yet segment worse.
    """
    figure = sheet(len(gathered.looks), WIDTH, 1.75 * HEIGHT)
    panels = figure.subplots(2, 1, sharex=True)
    depth = max(gathered.depth(each.name) for each in (align, segment))
    columns: list[tuple[str, list[Row]]] = []
    said = []
    for panel, measure in zip(panels, (align, segment), strict=True):
        for label in gathered.looks:
            rows = series(gathered, measure.name, label)
            top = draw_with_best(panel, gathered, rows, label, depth)
            columns.append((f"{label}, {measure.title}", rows))
            if top is not None:
                said.append(f"{label}: {measure.title} best in {where(top)}, {number(top.mean)}")
        label_axes(panel, "", quantity(measure))
    outs = any(row.block is None for _, rows in columns for row in rows)
    depth_axis(panels[1], depth, depth - 1 + GAP if outs else None)
    panels[1].set_xlabel("block")
    legend(figure, [of_model(look) for look in gathered.looks.values()])
    everything = [row for _, rows in columns for row in rows]
    return Drawing(
        "layer-against-miou",
        "Which depth aligns, which segments",
        f"Rings: the best layer of each model. {averaged(everything)}",
        f"{align.title} and {segment.title} over depth. " + "; ".join(said) + ".",
        *render(figure),
        pivot(columns),
    )


def draw_with_best(
    panel: Axes, gathered: Gathered, rows: Sequence[Row], label: str, depth: int
) -> Row | None:
    """Draw a model's line and ring its best layer, which is returned."""
    look = gathered.looks[label]
    out = depth - 1 + GAP
    draw_series(panel, rows, look, look.dash, out)
    top = best(rows)
    if top is not None:
        x = out if top.block is None else top.block
        panel.plot(
            [x],
            [top.mean],
            marker="o",
            markersize=9,
            fillstyle="none",
            color=look.color,
            markeredgewidth=1.4,
        )
    return top
