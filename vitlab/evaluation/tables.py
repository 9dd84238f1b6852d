"""Blocks of results as text: for the terminal, Markdown, CSV and LaTeX."""

import csv
import io
import re
import sys
from collections.abc import Sequence

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from vitlab.evaluation.blocks import Block, Row
from vitlab.evaluation.references import LABEL, Reference
from vitlab.evaluation.rows import Estimate, printable

WIDTH = 180  # characters of a table that is not shown on a terminal
CAPTION = (
    "Brackets: 95 % interval by the percentile bootstrap over test images; differences are paired, "
    "by seed and by image. ±: sample deviation over seeds."
)
COLUMNS = (
    *("dataset", "split", "images", "fingerprint", "protocol", "version", "hash", "changed"),
    *("weights", "seeds", "score", "percent", "low", "high", "deviation", "by_seed"),
    *("baseline", "difference", "difference_low", "difference_high", "difference_deviation"),
    *("difference_by_seed", "remarks", "published_percent", "published_model"),
    *("published_conditions", "published_source"),
)
# what LaTeX reads as a command
SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "†": r"\textsuperscript{\textdagger}",
    "‡": r"\textsuperscript{\textdaggerdbl}",
    "§": r"\textsuperscript{\textsection}",
    "¶": r"\textsuperscript{\textparagraph}",
    "‖": r"\textsuperscript{\textbardbl}",
    **{letter: f"\\{letter}" for letter in "{}$&#_%"},
}


def header(block: Block) -> list[str]:
    """Return the columns of a block; differences only where there is more than one row."""
    columns = ["weights", "seeds", f"{block.first.headline}, %", "± seeds"]
    if len(block.rows) > 1:
        to = f" to {block.baseline}" if block.baseline else ""
        columns += [f"difference{to}", "± seeds", "by seed"]
    return [printable(column) for column in columns]


def cells(block: Block, row: Row) -> list[str]:
    """Return the cells of a row."""
    texts = [row.label, str(row.seeds), _bracketed(row.score, "{:.1f}") + row.score_mark]
    texts.append(_deviation(row.score))
    if len(block.rows) > 1:
        found = row.difference
        if found is None:
            texts += ["baseline" if row.baseline else f"-{row.difference_mark}", "", ""]
        else:
            each = ", ".join(f"{value:+.2f}" for value in found.by_seed)
            difference = _bracketed(found, "{:+.2f}") + row.difference_mark
            texts += [difference, _deviation(found), each if len(found.by_seed) > 1 else ""]
    return texts


def show(blocks: Sequence[Block]) -> None:
    """Print blocks on the terminal."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    for number, block in enumerate(blocks, 1):
        title = Text(f"{number}. {block.title}", style="italic")  # a table's own would be wrapped
        table = Table()
        for place, column in enumerate(header(block)):
            table.add_column(
                Text(column), overflow="fold", justify="right" if place in (1, 3, 5) else "left"
            )
        for row in block.rows:
            table.add_row(*map(escape, cells(block, row)))
        notes = [Text(f"{mark} {text}", style="dim") for mark, text in block.notes.items()]
        apart = [Text(block.apart, style="bold")] if block.apart else []
        console.print(Group(title, *apart, table, *notes))
        if block.published:
            others = Table(title=Text(LABEL), title_justify="left", style="dim")
            for column in ("model", f"{block.first.headline}, %", "conditions", "source"):
                others.add_column(Text(column), overflow="fold")
            for each in block.published:
                others.add_row(*map(escape, _published(each)))
            console.print(others)
        console.print()
    console.print(Text(CAPTION, style="dim"))


def markdown(blocks: Sequence[Block]) -> str:
    """Return blocks as Markdown."""
    lines: list[str] = []
    for number, block in enumerate(blocks, 1):
        lines += [f"### {number}. {_md(block.title)}", ""]
        lines += [_md(block.apart), ""] if block.apart else []
        lines += _md_table(header(block), [cells(block, row) for row in block.rows])
        for mark, text in block.notes.items():
            lines += [f"{_md(mark)} {_md(text)}", ""]
        if block.published:
            columns = ["model", f"{block.first.headline}, %", "conditions", "source"]
            lines += [f"**{LABEL}**", ""]
            lines += _md_table(columns, [_published(each) for each in block.published])
    return "\n".join([*lines, CAPTION]) + "\n"


def comma_separated(blocks: Sequence[Block]) -> str:
    """Return blocks as CSV at full precision, a line for each row; others' numbers apart."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for block in blocks:
        data, used = block.first.data, block.first.protocol
        shared = {
            "dataset": data.dataset,
            "split": data.val,
            "images": data.counts.get(data.val, ""),
            "fingerprint": data.fingerprint,
            "protocol": used.name,
            "version": used.version,
            "hash": used.hash,
            "changed": "; ".join(f"{key}={new}" for key, (_, new) in used.changed.items()),
            "score": block.first.headline,
        }
        for row in block.rows:
            marks = row.score_mark + row.difference_mark
            remarks = [text for mark, text in block.notes.items() if mark in marks]
            writer.writerow(
                {
                    **shared,
                    "weights": row.label,
                    "seeds": row.seeds,
                    **_columns(row.score, "percent", ""),
                    "baseline": block.baseline,
                    **(_columns(row.difference, "difference", "difference_")),
                    "remarks": "; ".join(remarks),
                }
            )
        for each in block.published:
            writer.writerow(
                {
                    **shared,
                    "remarks": LABEL,
                    "published_percent": each.percent,
                    "published_model": each.model,
                    "published_conditions": each.conditions,
                    "published_source": each.source,
                }
            )
    return file.getvalue()


def latex(blocks: Sequence[Block]) -> str:
    """Return blocks as LaTeX tables with booktabs' rules."""
    lines = [r"% needs \usepackage{booktabs} and \usepackage[T1]{fontenc}"]
    for block in blocks:
        notes = [f"{mark} {text}." for mark, text in block.notes.items()]
        caption = [f"{block.title}.", block.apart, *notes, CAPTION]
        lines += [
            *(r"\begin{table}", r"\centering"),
            rf"\caption{{{' '.join(map(_tex, filter(None, caption)))}}}",
            *_tex_table(header(block), [cells(block, row) for row in block.rows]),
        ]
        if block.published:
            columns = ["model", f"{block.first.headline}, %", "conditions", "source"]
            lines += ["", r"\medskip", rf"\textbf{{{LABEL}}}", "", r"\smallskip"]
            lines += _tex_table(columns, [_published(each) for each in block.published])
        lines += [r"\end{table}", ""]
    return "\n".join(lines)


def _bracketed(estimate: Estimate, form: str) -> str:
    """Return a value with its interval."""
    value = form.format(estimate.value)
    if estimate.interval is None:
        return value
    low, high = map(form.format, estimate.interval)
    return f"{value} [{low}, {high}]"


def _deviation(estimate: Estimate) -> str:
    return "" if estimate.deviation is None else f"± {estimate.deviation:.2f}"


def _published(reference: Reference) -> list[str]:
    """Return model, value, conditions and source."""
    conditions, learned = reference.conditions, reference.learned
    if learned:
        conditions = f"{conditions}; head from {learned:,} images".removeprefix("; ")
    return [reference.model, f"{reference.percent:.1f}", conditions, reference.source]


def _columns(estimate: Estimate | None, value: str, prefix: str) -> dict[str, object]:
    """Return the columns of an estimate at full precision."""
    if estimate is None:
        return {}
    low, high = estimate.interval or ("", "")
    return {
        value: estimate.value,
        f"{prefix}low": low,
        f"{prefix}high": high,
        f"{prefix}deviation": "" if estimate.deviation is None else estimate.deviation,
        f"{prefix}by_seed": " ".join(map(str, estimate.by_seed)),
    }


def _md(text: str) -> str:
    """Return a text that Markdown shows as it is; what it would not touch stays readable."""
    return re.sub(r"([\\`*<>|#~]|\](?=[(\[])|(?<!\w)_|_(?!\w))", r"\\\1", printable(text))


def _md_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns)]
    texts = [[_md(cell) for cell in row] for row in [columns, *rows]]
    lines = [texts[0], lines[1], *texts[1:]]
    return [f"| {' | '.join(line)} |" for line in lines] + [""]


def _tex(text: str) -> str:
    """Return a text that LaTeX shows as it is, with a minus before digits."""
    escaped = "".join(SPECIAL.get(letter, letter) for letter in printable(text))
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", escaped)


def _tex_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [" & ".join(map(_tex, row)) + r" \\" for row in [columns, *rows]]
    return [
        *(rf"\begin{{tabular}}{{{'l' * len(columns)}}}", r"\toprule", lines[0], r"\midrule"),
        *(*lines[1:], r"\bottomrule", r"\end{tabular}"),
    ]
