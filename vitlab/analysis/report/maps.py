"""Maps over the grid of patches: a panel for each block, the heads averaged."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from vitlab.analysis.report.channels import block
from vitlab.analysis.report.drawing import Drawing, Table, number, render, say
from vitlab.analysis.report.gathered import Gathered, ordered, quantity, slug
from vitlab.analysis.results import Array, Measure

ACROSS, PANEL = 6, 1.2  # panels in a row; inches of a panel


def grids(gathered: Gathered, measure: Measure) -> list[Drawing]:
    """Return a figure for each model, point and role that has maps."""
    arrays = [a for a in gathered.arrays(measure.name) if len(a.axes) == 2]
    return [
        panels(gathered, measure, label, [a for a in own if (a.point, a.role) == kind], kind)
        for label in gathered.looks
        for own in [[array for array in arrays if array.model == label]]
        for kind in ordered((array.point, array.role) for array in own)
    ]


def mean_of_heads(arrays: Sequence[Array]) -> dict[str, np.ndarray]:
    """Return a map for each layer; maps of single heads are averaged."""
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    for array in sorted(arrays, key=lambda a: (a.block is None, a.block or 0)):
        values = np.asarray(array.values, dtype=np.float64)  # None becomes NaN
        found[block(array)].append(np.where(np.isfinite(values), values, np.nan))
    return {name: np.mean(each, axis=0) for name, each in found.items()}


def panels(
    gathered: Gathered,
    measure: Measure,
    label: str,
    arrays: Sequence[Array],
    kind: tuple[str, str],
) -> Drawing:
    """Return the maps of one model."""
    maps = mean_of_heads(arrays)
    across = min(ACROSS, len(maps))
    down = -(-len(maps) // across)
    size = (max(2.6, PANEL * across + 0.9), PANEL * down * 1.12 + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(down, across, squeeze=False)
    seen = [each[np.isfinite(each)] for each in maps.values()]
    values = np.concatenate(seen) if seen else np.zeros(0)
    low, high = (values.min(), values.max()) if values.size else (0.0, 1.0)
    image = None
    for panel in axes.flat:
        panel.set_axis_off()
    for panel, (name, grid) in zip(axes.flat, maps.items(), strict=False):
        shown = np.atleast_2d(grid)
        image = panel.imshow(shown, cmap="cividis", vmin=low, vmax=high, interpolation="nearest")
        panel.set_title(name, fontsize=7.5)
    if image is not None:
        bar = figure.colorbar(image, ax=axes, pad=0.01, fraction=0.05, aspect=12 * down)
        bar.ax.set_ylabel("")
        bar.ax.tick_params(labelsize=7)
    say(figure.suptitle(f"{quantity(measure)}: {gathered.looks[label].label}", fontsize=8.5))
    heads = len({array.head for array in arrays})
    over = f"mean over {heads} heads and all images" if heads > 1 else "mean over images"
    lines = [[name, *map(number, (g.min(), g.mean(), g.max()))] for name, g in maps.items()]
    return Drawing(
        slug(measure.name, "map", *kind, str(list(gathered.looks).index(label) + 1)),
        f"{measure.title}{described(kind)}: {label}",
        f"A panel is a block, a cell a patch; {over}. One color scale for all blocks.",
        f"Maps of {measure.title} over the grid, {label}, {len(maps)} panels.",
        *render(figure),
        Table(["layer", "least", "mean", "most"], lines),
        wide=across > 3,
    )


def described(kind: tuple[str, str]) -> str:
    """Return point and role in words."""
    words = ", ".join(part for part in kind if part)
    return f" ({words})" if words else ""
