"""Inside the blocks: a number before and after each norm, at every point, and as a map."""

import math
from collections.abc import Sequence
from itertools import pairwise

from vitlab.analysis.report.depth import Variant, over_depth
from vitlab.analysis.report.drawing import (
    WIDTH,
    Drawing,
    Table,
    label_axes,
    legend,
    number,
    of_model,
    plottable,
    render,
    sheet,
    small_multiples,
)
from vitlab.analysis.report.gathered import READ, Gathered, Place, finite, ordered, quantity, slug
from vitlab.analysis.results import Measure, Row

IN_FULL = ("cls_patch_cosine", "patch_patch_cosine")  # what papers show around each norm
MEAN_NOTE = "Line: mean over blocks; small dots: the blocks, each a mean over images."


def points(gathered: Gathered, measure: str) -> list[str]:
    """Return the points on the way through a block, in the order in which they are passed."""
    rows = gathered.rows(measure)
    names = ordered(row.point for row in rows if row.block is not None and row.head is None)
    return [name for name in names if name != READ]


def crossings(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return each norm with the point before it."""
    return [(a, b) for a, b in pairwise(names) if "norm" in b]


def inside_blocks(gathered: Gathered, measure: Measure, role: str) -> list[Drawing]:
    """Return figures of a measure that is taken at many points: all of them for cosines."""
    names = points(gathered, measure.name)
    whole = measure.name in IN_FULL
    found = [
        over_depth(
            gathered,
            measure,
            [Variant(before, Place(before, role)), Variant(after, Place(after, role))],
            title=f"{measure.title}: before and after {after}",
            name=slug(measure.name, "across", after),
        )
        for before, after in crossings(names)[: None if whole else 1]
    ]
    found.append(profile(gathered, measure, role))
    if whole:
        found.append(depth_maps(gathered, measure, role))
    return [drawing for drawing in found if drawing]


def profile(gathered: Gathered, measure: Measure, role: str) -> Drawing | None:
    """Return the path through a block: the mean over blocks at each point, a line a model."""
    names = points(gathered, measure.name)
    handles, columns = [], []
    figure = sheet(len(gathered.looks), WIDTH, 2.6)
    panel = figure.subplots()
    for turn, (label, look) in enumerate(gathered.looks.items()):
        found = [values_at(gathered, measure.name, label, point, role) for point in names]
        if not any(found):
            continue
        means = [sum(values) / len(values) if values else math.nan for values in found]
        shift = 0.09 * (turn - (len(gathered.looks) - 1) / 2)
        for x, values in enumerate(found):
            dots = [x + shift] * len(values)
            panel.plot(dots, values, ".", color=look.color, markersize=2.2, alpha=0.55)
        across = [place + shift for place in range(len(names))]
        panel.plot(across, means, color=look.color, marker=look.marker, ls=look.dash)
        handles.append(of_model(look))
        columns.append((label, means))
    if not handles:
        return None
    panel.set_xticks(range(len(names)), names, rotation=35, ha="right")
    label_axes(panel, "", quantity(measure))
    legend(figure, handles)
    rows = [[name, *(number(means[i]) for _, means in columns)] for i, name in enumerate(names)]
    said = "; ".join(
        f"{label}: " + ", ".join(f"{n} {number(v)}" for n, v in zip(names, means, strict=True))
        for label, means in columns
    )
    return Drawing(
        slug(measure.name, "through-a-block"),
        f"{measure.title} on the way through a block",
        MEAN_NOTE,
        f"{measure.title} at each point of a block, mean over blocks. {said}.",
        *render(figure),
        Table(["point", *(label for label, _ in columns)], rows),
    )


def values_at(gathered: Gathered, measure: str, model: str, point: str, role: str) -> list[float]:
    """Return the numbers of a model at one point of all its blocks."""
    rows = gathered.over_depth(measure, Place(point, role), model)
    return [row.mean for row in rows if row.block is not None and finite(row)]


def depth_maps(gathered: Gathered, measure: Measure, role: str) -> Drawing | None:
    """Return a map of each model: blocks across, points down, one scale of colors."""
    names = points(gathered, measure.name)
    depth = gathered.depth(measure.name)
    grids = {}
    for label in gathered.looks:
        places = [Place(point, role) for point in names]
        series = [gathered.over_depth(measure.name, place, label) for place in places]
        if any(series):
            grids[label] = [row_of(rows, depth) for rows in series]
    if not grids:
        return None
    values = [v for grid in grids.values() for line in grid for v in line if math.isfinite(v)]
    limit = max(map(abs, values), default=1.0) or 1.0
    signed = min(values, default=0.0) < 0
    figure, panels = small_multiples(len(grids), WIDTH, 0.75 + 0.2 * len(names), 0)
    for panel, (label, grid) in zip(panels, grids.items(), strict=True):
        panel.grid(visible=False)
        image = panel.imshow(
            grid,
            cmap="PuOr_r" if signed else "cividis",
            vmin=-limit if signed else 0.0,
            vmax=limit,
            aspect="auto",
            interpolation="nearest",
        )
        panel.set_yticks(range(len(names)), names)
        panel.set_xticks(range(0, depth, max(1, round(depth / 12))))
        label_axes(panel, "block", "", gathered.looks[label].label)
    figure.colorbar(image, ax=panels, pad=0.02, fraction=0.05)
    lines = [
        [label, name, *map(number, line)]
        for label, grid in grids.items()
        for name, line in zip(names, grid, strict=True)
    ]
    return Drawing(
        slug(measure.name, "map", role),
        f"{measure.title} by block and point",
        "A cell is a mean over images; blocks across, points of a block down; one color scale.",
        f"Map of {measure.title}: points of a block down, blocks across, a panel for each model.",
        *render(figure),
        Table(["model", "point", *(f"block {block}" for block in range(depth))], lines),
        wide=len(grids) > 1,
    )


def row_of(rows: Sequence[Row], depth: int) -> list[float]:
    """Return a number for each block, NaN where there is none."""
    by_block = {row.block: row.mean for row in rows}
    return plottable([by_block.get(block) for block in range(depth)])
