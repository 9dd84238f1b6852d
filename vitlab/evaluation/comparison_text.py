"""A comparison as text: the cells of its tables, and Markdown, which is also for the terminal."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

MARK = "†"  # of a row with a remark
PUBLISHED = "published (not ours)"
BASELINE = "baseline"


class Estimate(NamedTuple):
    """A number as text: its value, its interval and its deviation over seeds; "" for none."""

    value: str
    interval: str
    spread: str

    def __str__(self) -> str:
        return " ".join(filter(None, self))


class TableText(NamedTuple):
    """A table as text.

    Attributes:
        title: data, images and protocol.
        notes: what differs from others, remarks on rows, and the protocol's version and hash.
        rows: label, seeds, score and difference of each encoder.
        heads: titles of score and difference; the latter is "" for one encoder.
        seeds: whether some row has several.
        published: model, score, conditions and source.
    """

    title: str
    notes: list[str]
    rows: list[tuple[str, str, Estimate, Estimate]]
    heads: tuple[str, str]
    seeds: bool
    published: list[tuple[str, str, str, str]]


def caption(tables: Sequence[TableText]) -> str:
    """Return what brackets and signs in tables mean, of those that occur."""
    text = "Brackets: 95 % interval by the percentile bootstrap over test images"
    if any(each.heads[1] for each in tables):
        text += "; differences are paired, by seed and by image"
    return f"{text}." + " ±: sample deviation over seeds." * any(each.seeds for each in tables)


def title(block: pd.DataFrame) -> str:
    """Return data and protocol of a table in a line."""
    one = block.iloc[0]
    images = f", {int(one.images):,} images" if pd.notna(one.images) else ""
    return f"{one.dataset} {one.split}{images}: {one.protocol}{'*' if one.changed else ''}"


def footnotes(block: pd.DataFrame) -> list[str]:
    """Return what differs from other tables, from the published protocol, and remarks on rows."""
    one, ours = block.iloc[0], block[block.weights.notna()]
    changed = f"* changed from the published protocol: {one.changed}" if one.changed else ""
    remarks = [f"{MARK} {row.weights}: {row.remarks}" for row in ours.itertuples() if row.remarks]
    return list(filter(None, [one.outdated, one.not_comparable, changed, *remarks]))


def to_markdown(comparison: pd.DataFrame) -> str:
    """Return tables as Markdown; columns that would be empty are left out."""
    lines: list[str] = []
    found = tables_of(comparison)
    for number, each in enumerate(found, 1):
        score, difference = each.heads
        cells = [
            {"weights": label}
            | ({"seeds": seeds} if each.seeds else {})
            | {score: str(own)}
            | ({difference: str(change) or "-"} if difference else {})
            for label, seeds, own, change in each.rows
        ]
        lines += [f"### {number}. {_markdown(each.title)}", _markdown_table(cells)]
        lines += map(_markdown, each.notes)
        if each.published:
            names = ("model", score, "conditions", "source")
            rows = [dict(zip(names, row, strict=True)) for row in each.published]
            lines += [f"**{PUBLISHED}**", _markdown_table(rows)]
    return "\n\n".join([*lines, caption(found)]) + "\n"


def tables_of(comparison: pd.DataFrame) -> list[TableText]:
    """Return each table as text."""
    found = []
    for _, block in comparison.groupby("table", sort=False):
        one, ours = block.iloc[0], block[block.weights.notna()]
        rows = []
        for _, row in ours.iterrows():
            own = _estimate(row, "percent", "", ".1f")
            own = own._replace(value=own.value + (MARK if row.remarks else ""))
            change = _estimate(row, "difference", "difference_", "+.2f")
            if row.weights == one.baseline:
                change = Estimate(BASELINE, "", "")
            rows.append((row.weights, str(int(row.seeds)), own, change))
        published = [
            (row.published_model, f"{row.published_percent:.1f}", _conditions(row),
             row.published_source)
            for _, row in block[block.weights.isna()].iterrows()
        ]  # fmt: skip
        paired = any(row[3].interval for row in rows)
        heads = f"{one.score}, %", f"difference to {one.baseline}" if paired else ""
        made = f"Protocol {one.protocol} version {one.version}, hash {one.hash}."
        several = bool((ours.seeds > 1).any())
        notes = [*footnotes(block), made]
        found.append(TableText(title(block), notes, rows, heads, several, published))
    return found


def _conditions(row: pd.Series) -> str:
    learned = int(row.published_learned)
    head = f"head from {learned:,} images" if learned else ""
    return "; ".join(filter(None, [row.published_conditions, head]))


def _estimate(row: pd.Series, name: str, prefix: str, form: str) -> Estimate:
    """Return an estimate, its interval, and its deviation over seeds, as far as there are any."""
    value, low, high, deviation = (
        row.get(each, float("nan"))
        for each in (name, *(f"{prefix}{part}" for part in ("low", "high", "deviation")))
    )
    if pd.isna(value):
        return Estimate("", "", "")
    interval = "" if pd.isna(low) else f"[{low:{form}}, {high:{form}}]"
    return Estimate(f"{value:{form}}", interval, "" if pd.isna(deviation) else f"± {deviation:.2f}")


def _markdown(text: str) -> str:
    """Escape what Markdown would take as its own."""
    return re.sub(r"([\\`*<>|#~]|\](?=[(\[])|(?<!\w)_|_(?!\w))", r"\\\1", text)


def _markdown_table(rows: Sequence[dict[str, str]]) -> str:
    escaped = pd.DataFrame(rows).map(_markdown).rename(columns=_markdown)
    return escaped.to_markdown(index=False, disable_numparse=True)
