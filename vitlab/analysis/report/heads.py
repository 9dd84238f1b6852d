"""Numbers of each attention head: a marker for each head of each block, a line for their mean.

As the attention distances of ViT (arXiv:2010.11929, figure 7) and of Raghu et al.
(arXiv:2108.08810) are shown.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from vitlab.analysis.report.depth import band, depth_axis
from vitlab.analysis.report.drawing import (
    Drawing,
    label_axes,
    legend,
    number,
    of_model,
    plottable,
    render,
    sheet,
)
from vitlab.analysis.report.gathered import (
    Gathered,
    Place,
    averaged,
    certain,
    finite,
    ordered,
    pivot,
    quantity,
    slug,
)
from vitlab.analysis.results import Measure, Row

SPREAD = 0.62  # of a block's width that markers of different models take
MANY = 1000  # markers, above which they become pixels in an SVG
QUERIES = {"cls": "[CLS] asks", "patches": "patches ask", "registers": "registers ask"}


def per_head(gathered: Gathered, measure: Measure) -> list[Drawing]:
    """Return a figure for each point and role that has numbers of single heads."""
    rows = [row for row in gathered.rows(measure.name) if row.head is not None]
    kinds = ordered((row.point, row.role) for row in rows if row.block is not None)
    found = []
    for point, role in kinds:
        here = [row for row in rows if (row.point, row.role) == (point, role)]
        found.append(scatter(gathered, measure, here, point, role))
    return found


def scatter(
    gathered: Gathered, measure: Measure, rows: Sequence[Row], point: str, role: str
) -> Drawing:
    """Return heads over depth."""
    models = [label for label in gathered.looks if any(row.model == label for row in rows)]
    figure = sheet(len(models))
    panel = figure.subplots()
    columns: list[tuple[str, list[Row]]] = []
    for place, label in enumerate(models):
        look = gathered.looks[label]
        own = [row for row in rows if row.model == label and finite(row)]
        shift = SPREAD * ((place + 0.5) / len(models) - 0.5)
        panel.plot(
            [(row.block or 0) + shift for row in own],
            [row.mean for row in own],
            color=look.color,
            marker=look.marker,
            markersize=3.0,
            linestyle="none",
            alpha=0.5,
            markeredgewidth=0,
            rasterized=len(rows) > MANY,
        )
        together = gathered.over_depth(measure.name, Place(point, role), label)
        means = {row.block or 0: row.mean for row in together} or mean_of_heads(own)
        panel.plot(list(means), plottable(list(means.values())), color=look.color, ls=look.dash)
        band(panel, together, look)
        columns += [(label, together)] if together else []
        columns += [(f"{label}, head {head}", of_head(own, head)) for head in heads_in(own)]
    depth_axis(panel, gathered.depth(measure.name), None)
    label_axes(panel, "block", quantity(measure))
    legend(figure, [of_model(gathered.looks[label]) for label in models])
    asked = ", ".join(part for part in (point, QUERIES.get(role, role)) if part)
    drawn = [row for _, found in columns for row in found]
    means_of = averaged(drawn) if any(map(certain, drawn)) else "Each is a mean over images."
    return Drawing(
        slug(measure.name, "heads", point, role),
        f"{measure.title}: {asked}" if asked else measure.title,
        f"A marker is a head; the line is the mean over heads. {means_of}",
        f"{measure.title} of every head over blocks. {in_words(models, rows)}",
        *render(figure),
        pivot(columns),
    )


def heads_in(rows: Sequence[Row]) -> list[int]:
    """Return the numbers of the heads."""
    return sorted({row.head for row in rows if row.head is not None})


def of_head(rows: Sequence[Row], head: int) -> list[Row]:
    """Return the rows of one head, whose intervals a table of all heads has no room for."""
    return [replace(row, low=None, high=None) for row in rows if row.head == head]


def mean_of_heads(rows: Sequence[Row]) -> dict[int, float]:
    """Return the mean over heads of each block."""
    found: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        found[row.block or 0].append(row.mean)
    return {block: sum(values) / len(values) for block, values in sorted(found.items())}


def in_words(models: Sequence[str], rows: Sequence[Row]) -> str:
    """Return the range of each model's heads."""
    parts = []
    for label in models:
        values = [row.mean for row in rows if row.model == label and finite(row)]
        if values:
            parts.append(f"{label}: {number(min(values))} to {number(max(values))}")
    return "; ".join(parts) + "."
