"""Histograms: all models at their last layer, and how each came there over depth."""

import math
from collections.abc import Iterable, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from vitlab.analysis.report.channels import block
from vitlab.analysis.report.drawing import (
    Dash,
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
from vitlab.analysis.report.gathered import Gathered, slug
from vitlab.analysis.results import Array, Measure

LAYERS = 4  # of a model that are drawn in one figure
LIGHTEST = 0.12  # of the color map: lighter yellow is lost on white


def is_histogram(array: Array) -> bool:
    """Return whether an array has an edge more than values, all of one axis."""
    return len(array.axes) == 1 and len(array.edges) == len(array.values) + 1


def histograms(gathered: Gathered, measure: Measure) -> list[Drawing]:
    """Return the last layer of all models, and for each model with several layers four of them."""
    arrays = [a for a in gathered.arrays(measure.name) if is_histogram(a) and a.head is None]
    if not arrays:
        return []
    by_model = {
        label: sorted((a for a in arrays if a.model == label), key=depth_of)
        for label in gathered.looks
    }
    found = [last_layers(gathered, measure, by_model)]
    if any(len(spaced(own)) > 1 for own in by_model.values()):
        found.append(over_layers(gathered, measure, by_model))
    return found


def depth_of(array: Array) -> float:
    """Return the block, infinity for the output."""
    return math.inf if array.block is None else array.block


def steps(panel: Axes, array: Array, color: str, dash: Dash) -> None:
    """Draw the outline of a histogram, as shares of all that was counted."""
    heights = shares(array)
    panel.stairs(heights, array.edges, color=color, linestyle=dash, linewidth=1.2)
    if any(height > 0 for height in heights):
        panel.set_yscale("log")


def shares(array: Array) -> list[float]:
    """Return the counts over their sum; NaN for empty bins, which have no logarithm."""
    values = plottable(array.values)
    total = sum(value for value in values if math.isfinite(value))
    return [value / total if value > 0 else math.nan for value in values]


def counted(arrays: Iterable[Array]) -> str:
    """Return what was counted: the role of all arrays, if they have one."""
    roles = {array.role or "tokens" for array in arrays}
    return roles.pop() if len(roles) == 1 else "tokens"


def finish(panel: Axes, measure: Measure, title: str = "") -> None:
    """Name the axes of a histogram."""
    unit = f" ({measure.unit})" if measure.unit else ""
    label_axes(panel, f"{measure.title}{unit}", "share", title)


def last_layers(gathered: Gathered, measure: Measure, by_model: dict[str, list[Array]]) -> Drawing:
    """Return the last layer of every model in one panel."""
    last = {label: own[-1] for label, own in by_model.items() if own}
    figure = sheet(len(last))
    panel = figure.subplots()
    for label, array in last.items():
        steps(panel, array, gathered.looks[label].color, gathered.looks[label].dash)
    finish(panel, measure)
    zoom([panel], list(last.values()))
    legend(figure, [of_model(gathered.looks[label], marker="") for label in last])
    names = ", ".join(sorted({block(array) for array in last.values()}))
    lines = [
        [label, number(array.edges[i]), number(array.edges[i + 1]), number(share)]
        for label, array in last.items()
        for i, share in enumerate(shares(array))
        if share > 0
    ]
    return Drawing(
        slug(measure.name, "last-layer"),
        f"{measure.title}: last layer measured",
        f"Share of all {counted(last.values())} of all images in each bin, logarithmic ({names}); "
        "no band.",
        f"Histogram of {measure.title}, a line for each model.",
        *render(figure),
        Table(["model", "from", "to", "share"], lines),
    )


def over_layers(gathered: Gathered, measure: Measure, by_model: dict[str, list[Array]]) -> Drawing:
    """Return some layers of each model, the deepest darkest, a panel for each model."""
    chosen = {label: spaced(own) for label, own in by_model.items() if own}
    most = max(map(len, chosen.values()))
    figure, panels = small_multiples(len(chosen), 3.2, 2.1, most)
    shades = matplotlib.colormaps["cividis_r"]
    handles: dict[str, Line2D] = {}
    for panel, (label, layers) in zip(panels, chosen.items(), strict=True):
        for place, array in enumerate(layers):
            depth = place / max(1, len(layers) - 1)
            color = matplotlib.colors.to_hex(shades(LIGHTEST + (1 - LIGHTEST) * depth))
            dash: Dash = "-" if depth == 1 else (0, (place + 1.0, 0.8))
            steps(panel, array, color, dash)
            handles[block(array)] = Line2D([], [], color=color, ls=dash, label=block(array))
        finish(panel, measure, gathered.looks[label].label)
    zoom(panels, [array for layers in chosen.values() for array in layers])
    legend(figure, list(handles.values()))
    lines = [
        [label, block(array), number(peak(array)), number(reach(array))]
        for label, own in by_model.items()
        for array in own
    ]
    return Drawing(
        slug(measure.name, "over-depth"),
        f"{measure.title} over depth",
        f"Share of all {counted(array for layers in chosen.values() for array in layers)} of all "
        "images in each bin, logarithmic; no band.",
        f"Histograms of {measure.title} at several depths, a panel for each model.",
        *render(figure),
        Table(["model", "layer", "middle of the fullest bin", "end of the last filled bin"], lines),
        wide=len(chosen) > 1,
    )


def spaced(own: Sequence[Array]) -> list[Array]:
    """Return a few layers, evenly spaced from the first to the last."""
    by_depth = list({depth_of(array): array for array in own}.values())
    count = min(LAYERS, len(by_depth))
    return [by_depth[round(i * (len(by_depth) - 1) / max(1, count - 1))] for i in range(count)]


def zoom(panels: Sequence[Axes], arrays: Sequence[Array]) -> None:
    """Show the bins that are filled; on a logarithmic axis if they reach over a factor of ten."""
    filled = [
        array.edges[bin_ + side]
        for array in arrays
        for bin_, value in enumerate(plottable(array.values))
        if value > 0
        for side in (0, 1)
    ]
    if not filled or min(filled) == max(filled):
        return
    low, high = min(filled), max(filled)
    wide = low > 0 and high > 10 * low
    for panel in panels:
        panel.set_xscale("log" if wide else "linear")
        if wide:
            panel.xaxis.set_minor_formatter(NullFormatter())
    margin = 0.03 * (math.log(high / low) if wide else high - low)
    bounds = (low / math.exp(margin), high * math.exp(margin))
    panels[0].set_xlim(*(bounds if wide else (low - margin, high + margin)))


def peak(array: Array) -> float:
    """Return the middle of the fullest bin."""
    values = [value if math.isfinite(value) else 0.0 for value in plottable(array.values)]
    i = values.index(max(values))
    return (array.edges[i] + array.edges[i + 1]) / 2


def reach(array: Array) -> float | None:
    """Return where the last filled bin ends."""
    filled = [i for i, value in enumerate(plottable(array.values)) if value > 0]
    return array.edges[filled[-1] + 1] if filled else None
