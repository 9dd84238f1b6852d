"""A comparison as text: Markdown, which is also for the terminal, and LaTeX."""

import re
from collections.abc import Iterator

import pandas as pd

MARK = "†"  # of a row with a remark
PUBLISHED = "published (not ours)"
CAPTION = (
    "Brackets: 95 % interval by the percentile bootstrap over test images; differences are paired, "
    "by seed and by image. ±: sample deviation over seeds."
)


def to_markdown(comparison: pd.DataFrame) -> str:
    """Return tables as Markdown."""
    lines: list[str] = []
    for heading, notes, ours, others in _blocks(comparison):
        lines += [f"### {_markdown(heading)}", _markdown_table(ours), *map(_markdown, notes)]
        lines += [f"**{PUBLISHED}**", _markdown_table(others)] if len(others) else []
    return "\n\n".join([*lines, CAPTION]) + "\n"


def to_latex(comparison: pd.DataFrame) -> str:
    """Return tables as LaTeX with the rules of booktabs; what else is known is in comments."""
    lines = [r"% needs \usepackage{booktabs} and \usepackage[T1]{fontenc}", f"% {CAPTION}"]
    for heading, notes, ours, others in _blocks(comparison):
        lines += [f"% {text}" for text in (heading, *notes)]
        lines += [ours.to_latex(index=False, escape=True)]
        lines += [f"% {PUBLISHED}", others.to_latex(index=False, escape=True)] * bool(len(others))
    return "\n".join(lines)


def title(block: pd.DataFrame) -> str:
    """Return number, data and protocol of a table in a line."""
    one = block.iloc[0]
    images = f", {int(one.images):,} images" if pd.notna(one.images) else ""
    protocol = f"{one.protocol}{'*' if one.changed else ''} version {one.version}, hash {one.hash}"
    return f"{one.table}. {one.dataset} {one.split}{images}: {protocol}"


def footnotes(block: pd.DataFrame) -> list[str]:
    """Return what differs from other tables, from the published protocol, and remarks on rows."""
    one, ours = block.iloc[0], block[block.weights.notna()]
    changed = f"* changed from the published protocol: {one.changed}" if one.changed else ""
    remarks = [f"{MARK} {row.weights}: {row.remarks}" for row in ours.itertuples() if row.remarks]
    return list(filter(None, [one.outdated, one.not_comparable, changed, *remarks]))


def _blocks(
    comparison: pd.DataFrame,
) -> Iterator[tuple[str, list[str], pd.DataFrame, pd.DataFrame]]:
    """Yield heading, footnotes, our rows and published ones of each table, as they are printed."""
    for _, block in comparison.groupby("table", sort=False):
        score, base = block.score.iloc[0], block.baseline.iloc[0]
        ours, others = [], []
        for _, row in block.iterrows():
            if pd.isna(row.weights):
                learned = int(row.published_learned)
                head = f"head from {learned:,} images" if learned else ""
                other = {"model": row.published_model, score: f"{row.published_percent:.1f}"}
                other["conditions"] = "; ".join(filter(None, [row.published_conditions, head]))
                others.append({**other, "source": row.published_source})
                continue
            mark = MARK if row.remarks else ""
            own = {"weights": row.weights, "seeds": str(int(row.seeds))}
            own[f"{score}, %"] = _estimate(row, "percent", "", ".1f") + mark
            if block.weights.count() > 1:
                difference = _estimate(row, "difference", "difference_", "+.2f") or "-"
                own[f"difference to {base}"] = "baseline" if row.weights == base else difference
            ours.append(own)
        yield title(block), footnotes(block), pd.DataFrame(ours), pd.DataFrame(others)


def _estimate(row: pd.Series, name: str, prefix: str, form: str) -> str:
    """Return an estimate, its interval, and its deviation over seeds; "" where there is none."""
    value, low, high, deviation = (
        row.get(each, float("nan"))
        for each in (name, *(f"{prefix}{part}" for part in ("low", "high", "deviation")))
    )
    if pd.isna(value):
        return ""
    interval = "" if pd.isna(low) else f" [{low:{form}}, {high:{form}}]"
    return f"{value:{form}}{interval}" + ("" if pd.isna(deviation) else f" ± {deviation:.2f}")


def _markdown(text: str) -> str:
    """Escape what Markdown would take as its own."""
    return re.sub(r"([\\`*<>|#~]|\](?=[(\[])|(?<!\w)_|_(?!\w))", r"\\\1", text)


def _markdown_table(table: pd.DataFrame) -> str:
    escaped = table.map(_markdown).rename(columns=_markdown)
    return escaped.to_markdown(index=False, disable_numparse=True)
