"""Numbers that have no block: a marker for each model, a line for its interval."""

import textwrap

from vitlab.analysis.report.drawing import (
    LETTERS,
    Drawing,
    Table,
    interval,
    label_axes,
    number,
    plottable,
    render,
    say,
    sheet,
)
from vitlab.analysis.report.gathered import Gathered, averaged, ordered, quantity, slug
from vitlab.analysis.results import Measure, Row


def whole(gathered: Gathered, measure: Measure) -> Drawing | None:
    """Return markers with intervals, a line of the figure for each model, point and role."""
    rows = [row for row in gathered.rows(measure.name) if row.block is None]
    if not rows:
        return None
    kinds = ordered((row.point, row.role, row.head) for row in rows)
    single = len({point for point, _, _ in kinds}) == 1
    lines = [
        (row, named(gathered.looks[row.model].label, "" if single else kind[0], kind[1], head(row)))
        for label in gathered.looks
        for kind in kinds
        for row in rows
        if row.model == label and (row.point, row.role, row.head) == kind
    ]
    figure = sheet(0, high=0.75 + 0.28 * len(lines))
    panel = figure.subplots()
    for y, (row, _) in enumerate(lines):
        look = gathered.looks[row.model]
        mean, low, high = plottable([row.mean, row.low, row.high])
        panel.plot([low, high], [y, y], color=look.color, linewidth=1.2)
        panel.plot([mean], [y], color=look.color, marker=look.marker, markersize=4.5)
    panel.set_yticks(range(len(lines)), [name for _, name in lines])
    for text in panel.get_yticklabels():
        say(text)
    panel.set_ylim(len(lines) - 0.5, -0.5)
    label_axes(panel, quantity(measure), "")
    return Drawing(
        slug(measure.name, "whole"),
        measure.title,
        averaged(rows),
        f"{measure.title}. " + "; ".join(f"{name}: {number(row.mean)}" for row, name in lines),
        *render(figure),
        Table(
            ["model", "point", "role", "head", measure.title],
            [
                [row.model, row.point, row.role, head(row), interval(row.mean, row.low, row.high)]
                for row, _ in lines
            ],
        ),
    )


def head(row: Row) -> str:
    """Return the head of a row in words."""
    return "" if row.head is None else f"head {row.head}"


def named(*parts: str) -> str:
    """Return a name beside an axis, on two lines if it is long."""
    return textwrap.fill(", ".join(part for part in parts if part), LETTERS)
