"""A comparison as text: for the terminal, Markdown, CSV and LaTeX."""

import re

import pandas as pd

from vitlab.evaluation.comparison import PUBLISHED
from vitlab.evaluation.evaluations import printable

MARKS = "†‡§¶‖"  # of footnotes, in this order; * is that of a changed protocol
CAPTION = (
    "Brackets: 95 % interval by the percentile bootstrap over test images; differences are paired, "
    "by seed and by image. ±: sample deviation over seeds."
)
LATEX_PACKAGES = r"% needs \usepackage{booktabs} and \usepackage[T1]{fontenc}"
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {letter: f"\\{letter}" for letter in "{}$&#_%"}


def to_text(comparison: pd.DataFrame) -> str:
    """Return tables for a terminal."""
    lines = []
    for number, block in comparison.groupby("table", sort=False):
        style = {"index": False, "disable_numparse": True, "tablefmt": "rounded_outline"}
        lines += [f"{number}. {title(block)}", *filter(None, [block.not_comparable.iloc[0]])]
        lines += [cells(block).to_markdown(**style)]
        lines += [f"{mark} {text}" for mark, text in footnotes(block).items()]
        others = published(block)
        lines += [PUBLISHED, others.to_markdown(**style)] if len(others) else []
        lines += [""]
    return "\n".join([*lines, CAPTION])


def to_markdown(comparison: pd.DataFrame) -> str:
    """Return tables as Markdown."""
    lines: list[str] = []
    for number, block in comparison.groupby("table", sort=False):
        lines += [f"### {number}. {_markdown(title(block))}"]
        lines += [_markdown(text) for text in [block.not_comparable.iloc[0]] if text]
        lines += [_markdown_table(cells(block))]
        lines += [_markdown(f"{mark} {text}") for mark, text in footnotes(block).items()]
        others = published(block)
        lines += [f"**{PUBLISHED}**", _markdown_table(others)] if len(others) else []
    return "\n\n".join([*lines, CAPTION]) + "\n"


def to_latex(comparison: pd.DataFrame) -> str:
    """Return tables as LaTeX with the rules of booktabs."""
    lines = [LATEX_PACKAGES]
    for _, block in comparison.groupby("table", sort=False):
        notes = [f"{mark} {text}." for mark, text in footnotes(block).items()]
        caption = [f"{title(block)}.", block.not_comparable.iloc[0], *notes, CAPTION]
        lines += [_latex_table(cells(block), " ".join(filter(None, caption)))]
        others = published(block)
        lines += [_latex_table(others, f"{title(block)}, {PUBLISHED}.")] if len(others) else []
    return "\n".join(lines)


def to_csv(comparison: pd.DataFrame) -> str:
    """Return all rows at full precision."""
    lists = comparison.columns[comparison.map(lambda value: isinstance(value, list)).any()]
    joined = comparison.copy()
    for name in lists:
        dash = "; " if name.endswith("remarks") else " "
        joined[name] = [
            dash.join(map(str, value)) if isinstance(value, list) else "" for value in joined[name]
        ]
    return joined.to_csv(index=False, lineterminator="\n")


def title(block: pd.DataFrame) -> str:
    """Return data and protocol of a table in a line."""
    one = block.iloc[0]
    images = f", {int(one.images):,} images" if pd.notna(one.images) else ""
    mark = "*" if one.changed else ""
    name = f"{one.protocol}{mark} version {one.version}, hash {one.hash}"
    return printable(f"{one.dataset} {one.split}{images}: {name}")


def footnotes(block: pd.DataFrame) -> dict[str, str]:
    """Return the footnotes of a table by their marks."""
    changed = block.changed.iloc[0]
    notes = {"*": f"changed from the published protocol: {changed}"} if changed else {}
    ours = block[block.weights.notna()]
    # row by row, so that marks rise along the reading direction
    columns = block.columns.intersection(["remarks", "difference_remarks"])
    lists = [each for row in ours[columns].values.tolist() for each in row]
    texts = [text for each in lists if isinstance(each, list) for text in each]
    for place, text in enumerate(dict.fromkeys(texts)):
        rounds, index = divmod(place, len(MARKS))
        notes[MARKS[index] * (rounds + 1)] = text
    return notes


def cells(block: pd.DataFrame) -> pd.DataFrame:
    """Return the printed cells of a table; differences only where there is more than one row."""
    ours, score = block[block.weights.notna()], block.score.iloc[0]
    marks = {text: mark for mark, text in footnotes(block).items()}
    base = block.baseline.iloc[0]
    rows = []
    for _, row in ours.iterrows():
        cell = {
            "weights": row.weights,
            "seeds": str(int(row.seeds)),
            f"{score}, %": _interval(row, "percent", ".1f") + _marks(row, "remarks", marks),
            "± seeds": _deviation(row, "deviation"),
        }
        if len(ours) > 1:
            by_seed = row.get("difference_by_seed")
            several = isinstance(by_seed, list) and len(by_seed) > 1
            difference = _interval(row, "difference", "+.2f") or "-"
            difference += _marks(row, "difference_remarks", marks)
            cell |= {
                f"difference to {base}" if base else "difference": (
                    "baseline" if row.weights == base else difference
                ),
                "± difference": _deviation(row, "difference_deviation"),
                "by seed": ", ".join(f"{each:+.2f}" for each in by_seed) if several else "",
            }
        rows.append(cell)
    return pd.DataFrame(rows).rename(columns=printable)


def published(block: pd.DataFrame) -> pd.DataFrame:
    """Return the printed cells of the numbers that others published."""
    rows = []
    for _, row in block[block.weights.isna()].iterrows():
        learned = int(row.published_learned)
        conditions = [row.published_conditions, f"head from {learned:,} images" if learned else ""]
        rows.append(
            {
                "model": row.published_model,
                f"{row.score}, %": f"{row.published_percent:.1f}",
                "conditions": "; ".join(filter(None, conditions)),
                "source": row.published_source,
            }
        )
    return pd.DataFrame(rows)


def _marks(row: pd.Series, column: str, marks: dict[str, str]) -> str:
    texts = row.get(column)
    return "".join(marks[text] for text in texts) if isinstance(texts, list) else ""


def _interval(row: pd.Series, name: str, form: str) -> str:
    """Return an estimate with its interval; "" where there is none."""
    dash = "" if name == "percent" else f"{name}_"
    value, low, high = (row.get(each) for each in (name, f"{dash}low", f"{dash}high"))
    if value is None or pd.isna(value):
        return ""
    return f"{value:{form}}" + ("" if pd.isna(low) else f" [{low:{form}}, {high:{form}}]")


def _deviation(row: pd.Series, name: str) -> str:
    value = row.get(name)
    return "" if value is None or pd.isna(value) else f"± {value:.2f}"


def _markdown(text: str) -> str:
    """Escape what Markdown would take as its own."""
    return re.sub(r"([\\`*<>|#~]|\](?=[(\[])|(?<!\w)_|_(?!\w))", r"\\\1", text)


def _markdown_table(table: pd.DataFrame) -> str:
    escaped = table.map(_markdown).rename(columns=_markdown)
    return escaped.to_markdown(index=False, disable_numparse=True)


def _latex(text: str) -> str:
    """Escape what LaTeX would take as its own; a minus before digits is no hyphen."""
    escaped = "".join(LATEX.get(letter, letter) for letter in text)
    return re.sub(r"(?<![\w-])-(?=\d)", "\N{MINUS SIGN}", escaped)


def _latex_table(table: pd.DataFrame, caption: str) -> str:
    escaped = table.map(_latex).rename(columns=_latex)
    form = "l" * table.shape[1]
    return escaped.to_latex(index=False, caption=_latex(caption), column_format=form)
