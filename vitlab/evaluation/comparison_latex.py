"""A comparison as LaTeX: floats with the rules of booktabs, which pdfLaTeX compiles."""

import re
import unicodedata
from collections.abc import Iterator, Sequence

import pandas as pd

from vitlab.evaluation.comparison_text import (
    BASELINE,
    MARK,
    PUBLISHED,
    Estimate,
    TableText,
    caption,
    tables_of,
)

PREAMBLE = (
    r"% needs \usepackage[T1]{fontenc}, \usepackage{textcomp} and \usepackage{booktabs}; letters "
    "that pdfLaTeX lacks are written as their numbers, such as [U+6A21]"
)
# what LaTeX would read as its own, and letters that pdfLaTeX lacks
LETTERS = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "|": r"\textbar{}", "<": r"\textless{}", ">": r"\textgreater{}", "[": "{[}", "]": "{]}",
    '"': r"\textquotedbl{}", "'": r"\textquotesingle{}", "`": r"\textasciigrave{}",
    MARK: r"$^{\dagger}$", "±": r"$\pm$", "\u00d7": r"$\times$", "·": r"$\cdot$", "…": r"\ldots{}",
    "\u2013": "--", "—": "---", "\u2212": "$-$", "→": r"$\to$", "≥": r"$\geq$", "≤": r"$\leq$",
    "ε": r"$\varepsilon$", "µ": r"$\mu$", "°": r"$^{\circ}$", "∞": r"$\infty$",
    "*": "{*}", **{each: rf"\{each}" for each in "&%$#_{}"},
}  # fmt: skip
CAPITALS = "gamma delta theta lambda xi pi sigma upsilon phi psi omega"
GREEK = f"{CAPITALS} alpha beta epsilon zeta eta iota kappa mu nu rho tau chi"


def to_latex(comparison: pd.DataFrame) -> str:
    """Return tables as LaTeX, each a float with caption and label.

    Numbers stand below each other by their decimals; columns that would be empty are left out.
    """
    lines, names = [PREAMBLE], set[str]()
    for table in tables_of(comparison):
        name = re.sub("[^a-z0-9]+", "-", table.title.lower()).strip("-")
        name += f"-{len(names) + 1}" * (name in names)
        names.add(name)
        lines += ["", *_float(table, name)]
    return "\n".join(lines) + "\n"


def _float(table: TableText, name: str) -> Iterator[str]:
    """Yield the lines of a float."""
    spec, heads, columns = ["l"], [""], [[_text(row[0]) for row in table.rows]]
    if table.seeds:
        spec, heads = [*spec, "r"], [*heads, "seeds"]
        columns.append([row[1] for row in table.rows])
    scores, differences = zip(*(row[2:] for row in table.rows), strict=True)
    for head, group in zip(table.heads, (scores, differences), strict=True):
        used = [place for place in range(3) if place == 0 or any(each[place] for each in group)]
        if head:
            spec.append("r" + r"@{\hspace{0.7em}}l" * (len(used) - 1))
            heads.append(_across(len(used), _text(head)))
            columns.append([_estimate(each, group, used) for each in group])
    yield r"\begin{table}[htbp]"
    yield r"  \centering"
    yield rf"  \caption{{{_text(f'{table.title}. {caption([table])}')}}}"
    yield rf"  \label{{tab:{name}}}\smallskip"
    yield rf"  \begin{{tabular}}{{{' '.join(spec)}}}"
    yield r"    \toprule"
    yield f"    {' & '.join(heads)} \\\\"
    yield r"    \midrule"
    for row in zip(*columns, strict=True):
        yield f"    {' & '.join(row)} \\\\"
    notes = list(table.notes)
    if table.published:
        yield r"    \midrule"
        yield rf"    \multicolumn{{2}}{{l}}{{\emph{{{PUBLISHED}}}}} \\"
    for number, (model, score, *conditions) in enumerate(table.published, 1):
        yield rf"    {_text(model)}$^{{{number}}}$ &{' &' * table.seeds} {score} \\"
        notes.append(f"{number}: {'; '.join(filter(None, conditions))}")
    yield r"    \bottomrule"
    yield r"  \end{tabular}"
    for note in notes:
        yield rf"  \par\smallskip\parbox{{\linewidth}}{{\footnotesize {_text(note)}}}"
    yield r"\end{table}"


def _estimate(own: Estimate, group: Sequence[Estimate], used: Sequence[int]) -> str:
    """Return the cells of an estimate, as wide as those of its group."""
    if own.value in ("", BASELINE):
        return _across(len(used), own.value or "--")
    value = own.value.replace(MARK, r"\rlap{$^{\dagger}$}")
    cells = [re.sub("([+-])", r"$\1$", value)]
    for place in used[1:]:
        width = max(len(each) for text in group for each in re.findall(r"[\d.]+", text[place]))

        def number(found: re.Match, width: int = width) -> str:
            sign, digits = found.groups()
            missing = rf"\phantom{{{'0' * (width - len(digits))}}}" * (len(digits) < width)
            return missing + (f"${sign}$" if sign else "") + digits

        cells.append(re.sub(r"([+-]?)([\d.]+)", number, own[place]).replace("±", r"$\pm$"))
    return " & ".join(cells)


def _across(columns: int, text: str) -> str:
    return rf"\multicolumn{{{columns}}}{{c}}{{{text}}}"


def _text(text: str) -> str:
    """Return a text that pdfLaTeX sets as it is."""
    return "".join(map(_letter, text))


def _letter(letter: str) -> str:
    name = unicodedata.name(letter, "")
    _, size, kind, word, *more = [*name.lower().replace("lamda", "lambda").split(), *[""] * 4]
    if letter in LETTERS:
        return LETTERS[letter]
    if letter.isascii() or (letter < "\u0180" and "LATIN" in name):
        return letter
    known = (GREEK if size == "small" else CAPITALS).split()
    if name.startswith("GREEK") and kind == "letter" and word in known and not any(more):
        return rf"$\{word if size == 'small' else word.capitalize()}$"
    return f"{{[}}U+{ord(letter):04X}{{]}}"
