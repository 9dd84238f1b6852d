"""Numbers of channels: [CLS] against patches, where both are known; else sorted curves."""

import math
from collections.abc import Sequence

from vitlab.analysis.report.drawing import (
    Drawing,
    Look,
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
from vitlab.analysis.report.gathered import Gathered, ordered, quantity, slug
from vitlab.analysis.results import Array, Measure

AFTER = "norm1"  # the point where roles part, which is drawn if it was measured
TOP = 10  # channels that are marked, of [CLS] and of patches each
SHOWN = 50  # values of a table
MANY = 1000  # channels, above which markers become pixels in an SVG


def by_channel(gathered: Gathered, measure: Measure) -> list[Drawing]:
    """Return the figures of a measure whose arrays hold a value for each channel."""
    arrays = [a for a in gathered.arrays(measure.name) if a.axes == ["channel"]]
    roles = {array.role for array in arrays}
    if {"cls", "patches"} <= roles:
        return [against(gathered, measure, arrays)]
    named = [array for array in arrays if array.point == AFTER]
    kinds = ordered((array.point, array.role) for array in named or arrays)
    return [curves(gathered, measure, arrays, *kind) for kind in kinds]


def pair_of(arrays: Sequence[Array], label: str) -> tuple[Array, Array] | None:
    """Return the [CLS] and patch arrays of a model's deepest block, after norm1 if it was taken."""
    found = {
        (a.block, a.point, a.role): a
        for a in arrays
        if a.model == label and a.role in ("cls", "patches")
    }
    places = [(block, point) for block, point, role in found if role == "cls"]
    places = [place for place in places if (*place, "patches") in found]
    if not places:
        return None
    after = [place for place in places if place[1] == AFTER] or places
    block, point = max(after, key=lambda place: -1 if place[0] is None else place[0])
    return found[block, point, "cls"], found[block, point, "patches"]


def against(gathered: Gathered, measure: Measure, arrays: Sequence[Array]) -> Drawing:
    """Return a dot for each channel: how large it is in patches, and how large in [CLS]."""
    pairs = {label: pair_of(arrays, label) for label in gathered.looks}
    known = {label: pair for label, pair in pairs.items() if pair}
    marks = [
        Look(f"{TOP} largest of [CLS]", "#D55E00", "^", "none"),
        Look(f"{TOP} largest of patches", "#0072B2", "x", "none"),
    ]
    figure, panels = small_multiples(len(known), 3.2, 2.7, 2)
    said, lines = [], []
    for panel, (label, pair) in zip(panels, known.items(), strict=True):
        cls, patches = (positive(array.values) for array in pair)
        tops = [largest(values) for values in (cls, patches)]
        if any(map(math.isfinite, cls)) and any(map(math.isfinite, patches)):
            panel.set(xscale="log", yscale="log")
        panel.plot(patches, cls, ".", color="0.6", markersize=2.5, rasterized=len(cls) > MANY)
        for top, mark in zip(tops, marks, strict=True):
            x, y = ([values[i] for i in top] for values in (patches, cls))
            panel.plot(x, y, marker=mark.marker, color=mark.color, ls="none", markersize=4.5)
        panel.axline((1, 1), (10, 10), color="0.75", linewidth=0.8, linestyle=":")
        label_axes(panel, "in patches", "in [CLS]", gathered.looks[label].label)
        panel.tick_params(labelsize=7)
        shared = len(set(tops[0]) & set(tops[1]))
        said.append(f"{label} ({described(pair[0])}): {shared} of {len(tops[0])}")
        chosen = sorted(set(tops[0]) | set(tops[1]))
        lines += [[label, str(i), number(cls[i]), number(patches[i])] for i in chosen]
    legend(figure, [of_model(mark) for mark in marks])
    text = f"How many of the largest channels they share: {'; '.join(said)}."
    return Drawing(
        slug(measure.name, "cls-against-patches"),
        f"{measure.title}: [CLS] against patches",
        f"A dot is a channel, mean over images; dotted line: equal. {text}",
        f"Scatter of {measure.title} in patches and in [CLS]. {text}",
        *render(figure),
        Table(["model", "channel", "in [CLS]", "in patches"], lines),
        wide=len(known) > 1,
    )


def positive(values: Sequence[float]) -> list[float]:
    """Return the values; NaN for what a logarithmic axis cannot show."""
    return [value if value > 0 else math.nan for value in plottable(values)]


def largest(values: Sequence[float]) -> list[int]:
    """Return the channels of the largest values."""
    seen = [i for i, value in enumerate(values) if math.isfinite(value)]
    return sorted(seen, key=lambda i: -values[i])[:TOP]


def described(array: Array) -> str:
    """Return block and point of an array in words."""
    return ", ".join(part for part in (block(array), array.point) if part)


def block(array: Array) -> str:
    """Return the place of an array in words."""
    return "output" if array.block is None else f"block {array.block}"


def curves(
    gathered: Gathered, measure: Measure, arrays: Sequence[Array], point: str, role: str
) -> Drawing:
    """Return the values of the deepest block, a line for each model; channels largest first."""
    here = [array for array in arrays if (array.point, array.role) == (point, role)]
    ranked = here[0].axes == ["channel"]
    order = "largest first" if ranked else "in order"
    figure = sheet(len(gathered.looks))
    panel = figure.subplots()
    handles, columns = [], []
    for label, look in gathered.looks.items():
        own = [array for array in here if array.model == label]
        if not own:
            continue
        deepest = max(own, key=lambda a: math.inf if a.block is None else a.block)
        values = plottable(deepest.values)
        if ranked:
            values = sorted((v for v in values if math.isfinite(v)), reverse=True)
        panel.plot(range(len(values)), values, color=look.color, ls=look.dash)
        handles.append(of_model(look, marker=""))
        columns.append((f"{label}, {block(deepest)}", values))
    label_axes(panel, f"{here[0].axes[0]}, {order}", quantity(measure))
    legend(figure, handles)
    most = max((len(values) for _, values in columns), default=0)
    lines = [
        [str(i), *(number(v[i] if i < len(v) else None) for _, v in columns)]
        for i in range(min(most, SHOWN))
    ]
    words = ", ".join(part for part in (point, role) if part)
    return Drawing(
        slug(measure.name, "by", here[0].axes[0], point, role),
        f"{measure.title}: {words}" if words else measure.title,
        f"Values of the deepest layer, {order}. The table has the first {len(lines)} of {most}.",
        f"{measure.title} of the deepest layer, {order}, a line for each model.",
        *render(figure),
        Table([here[0].axes[0], *(name for name, _ in columns)], lines),
    )
