"""Numbers over depth: a line for each model, a band for its interval."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from vitlab.analysis.report.drawing import (
    DASHES,
    HEIGHT,
    WIDTH,
    Dash,
    Drawing,
    Look,
    label_axes,
    legend,
    of_model,
    plottable,
    render,
    sheet,
)
from vitlab.analysis.report.gathered import (
    Gathered,
    Place,
    averaged,
    finite,
    in_words,
    pivot,
    quantity,
    slug,
)
from vitlab.analysis.results import Measure, Row

# a number, or the measure that holds it
CHANCE: dict[str, float | str] = {"foreground_auroc": 0.5, "foreground_hit": "foreground_share"}
CHANCE_DASH = (0, (1, 2))
GAP = 1.2  # blocks between the last block and the output


@dataclass(frozen=True)
class Variant:
    """A line that each model has.

    Attributes:
        label: in the legend.
        place: what it shows.
    """

    label: str
    place: Place


def draw_series(panel: Axes, rows: Sequence[Row], look: Look, dash: Dash, out: float) -> None:
    """Draw a line through the blocks, with the output as a marker apart, at `out`."""
    blocks = [row for row in rows if row.block is not None]
    final = [row for row in rows if row.block is None]
    x = [float(row.block or 0) for row in blocks]
    panel.plot(
        x, plottable([row.mean for row in blocks]), color=look.color, marker=look.marker, ls=dash
    )
    band(panel, blocks, look)
    for row in final:
        mean, *bounds = plottable([row.mean, row.low, row.high])
        panel.plot([out], [mean], color=look.color, marker=look.marker, ls="none")
        panel.plot([out, out], bounds, color=look.color, linewidth=1.0)


def band(panel: Axes, rows: Sequence[Row], look: Look) -> None:
    """Draw the intervals of blocks."""
    x = [float(row.block or 0) for row in rows]
    low, high = (plottable([getattr(row, side) for row in rows]) for side in ("low", "high"))
    panel.fill_between(x, low, high, color=look.color, alpha=0.18, linewidth=0)


def depth_axis(panel: Axes, depth: int, out: float | None) -> None:
    """Number the blocks below a panel; `out` is where the encoder's output stands."""
    step = max(1, round(depth / 12))
    ticks = list(range(0, depth, step))
    names = [str(tick) for tick in ticks]
    if out is not None:
        panel.axvline(depth - 1 + GAP / 2, color="0.75", linewidth=0.7, linestyle=":")
    panel.set_xticks([*ticks, *([] if out is None else [out])])
    panel.set_xticklabels([*names, *([] if out is None else ["out"])])
    panel.set_xlim(-0.5, (depth - 0.5) if out is None else out + 0.5)


def over_depth(
    gathered: Gathered,
    measure: Measure,
    variants: Sequence[Variant],
    *,
    name: str = "",
    title: str = "",
    note: str = "",
) -> Drawing | None:
    """Return lines over depth, one for each model and variant; None where there is nothing.

    Args:
        gathered: the findings.
        measure: what is drawn.
        variants: lines that each model has.
        name: of the files; from measure and places if empty.
        title: of the figure; the measure's if empty.
        note: what the caption says first.
    """
    columns: list[tuple[str, list[Row]]] = []
    drawn: list[tuple[Look, Dash, list[Row]]] = []
    single = len(variants) == 1
    for label, look in gathered.looks.items():
        for variant, dash in zip(variants, cycle(DASHES), strict=False):
            rows = gathered.over_depth(measure.name, variant.place, label)
            if rows:
                columns.append((label if single else f"{label}, {variant.label}", rows))
                drawn.append((look, look.dash if single else dash, rows))
    if not drawn:
        return None
    handles = [of_model(look, None if single else "none") for look in uniques(drawn)]
    if not single:
        handles += [
            Line2D([], [], color="0.3", linestyle=dash, label=variant.label)
            for variant, dash in zip(variants, cycle(DASHES), strict=False)
        ]
    figure = sheet(len(handles), WIDTH, HEIGHT)
    panel = figure.subplots()
    depth = gathered.depth(measure.name)
    outs = [row for _, _, rows in drawn for row in rows if row.block is None]
    out = depth - 1 + GAP
    for look, dash, rows in drawn:
        draw_series(panel, rows, look, dash, out)
    if (chance := chance_of(gathered, measure.name)) is not None:
        panel.axhline(chance, color="0.45", linewidth=0.9, linestyle=CHANCE_DASH)
        handles.append(Line2D([], [], color="0.45", lw=0.9, ls=CHANCE_DASH, label="chance"))
    depth_axis(panel, depth, out if outs else None)
    label_axes(panel, "block", quantity(measure))
    legend(figure, handles)
    svg, png = render(figure)
    everything = [row for _, rows in columns for row in rows]
    places = [part for each in variants for part in (each.place.point, each.place.role)]
    return Drawing(
        name or slug(measure.name, *dict.fromkeys(places)),
        title or measure.title,
        " ".join(part for part in (note, averaged(everything)) if part),
        in_words(measure, columns),
        *(svg, png),
        pivot(columns),
    )


def chance_of(gathered: Gathered, measure: str) -> float | None:
    """Return what a measure would be of a patch drawn at random; None where it is not known."""
    known = CHANCE.get(measure)
    if not isinstance(known, str):
        return known
    rows = [row for row in gathered.rows(known) if finite(row)]
    return sum(row.mean for row in rows) / len(rows) if rows else None


def uniques(drawn: Sequence[tuple[Look, Dash, list[Row]]]) -> list[Look]:
    """Return each look once."""
    return list({look.label: look for look, _, _ in drawn}.values())
