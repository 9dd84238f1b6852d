"""Sentences that the numbers carry: only where 95 % intervals lie apart.

Intervals that lie apart are more than a difference needs, since all models saw the same images.
"""

from collections.abc import Sequence

from vitlab.analysis.report.drawing import center
from vitlab.analysis.report.gathered import Gathered, Place, certain, where
from vitlab.analysis.report.headline import ASKED, Asked, chosen
from vitlab.analysis.report.layers import best, series
from vitlab.analysis.report.points import crossings, points
from vitlab.analysis.report.sections import ALIGN, SEGMENT
from vitlab.analysis.results import Row

COSINE = "cls_patch_cosine"
RARE = 0.005  # share of patches below which outliers are not worth a sentence


def observations(gathered: Gathered) -> list[str]:
    """Return what can be said of these findings."""
    found = [*across_norms(gathered), *depths(gathered), *outliers(gathered)]
    for asked in ASKED:
        if asked.how == "last":
            found += extremes(gathered, asked)
    return found


def apart(a: Row, b: Row) -> int:
    """Return 1 where a lies above b with its whole interval, -1 below, 0 where they meet."""
    if not (certain(a) and certain(b)):
        return 0
    a_low, a_high, b_low, b_high = (float(v or 0.0) for v in (a.low, a.high, b.low, b.high))
    return int(a_low > b_high) - int(a_high < b_low)


def across_norms(gathered: Gathered) -> list[str]:
    """Say how the cosine of [CLS] with patches changes across each norm."""
    found = []
    roles = {row.role for row in gathered.rows(COSINE)}
    role = "all" if "all" in roles else next(iter(sorted(roles)), "")
    for before, after in crossings(points(gathered, COSINE)):
        for sign, verb in ((-1, "falls"), (1, "rises")):
            parts = []
            for label in gathered.looks:
                pairs = both(gathered, label, Place(before, role), Place(after, role))
                signs = [apart(b, a) for a, b in pairs]
                if 2 * signs.count(sign) > len(pairs):
                    a, b = (sum(pair[i].mean for pair in pairs) / len(pairs) for i in (0, 1))
                    many = f"{signs.count(sign)} of {len(pairs)} blocks"
                    parts.append(f"{label} from {a:.2f} to {b:.2f} ({many})")
            if parts:
                found.append(f"Mean [CLS]-patch cosine {verb} across {after}: {'; '.join(parts)}.")
    return found


def both(gathered: Gathered, label: str, a: Place, b: Place) -> list[tuple[Row, Row]]:
    """Return the rows of two points, block by block."""
    series_ = [
        {row.block: row for row in gathered.over_depth(COSINE, place, label)} for place in (a, b)
    ]
    blocks = [block for block in series_[0] if block is not None and block in series_[1]]
    return [(series_[0][block], series_[1][block]) for block in blocks]


def depths(gathered: Gathered) -> list[str]:
    """Say where the foreground aligns best, and where segmentation is best, if they differ."""
    align = next((name for name in ALIGN if gathered.rows(name)), ALIGN[0])
    differ, early = [], []
    for label in gathered.looks:
        rows = {name: series(gathered, name, label) for name in (align, SEGMENT)}
        top, segments = best(rows[align]), best(rows[SEGMENT])
        if top is None:
            continue
        there = next((r for r in rows[align] if segments and r.block == segments.block), None)
        if segments and there and apart(top, there) > 0:
            differ.append(
                f"{label} aligns best in {where(top)} ({mean(top)}) and segments best in "
                f"{where(segments)} (there {mean(there)})"
            )
        elif apart(top, rows[align][-1]) > 0:
            early.append(f"{label} {where(top)} ({mean(top)}, last {mean(rows[align][-1])})")
    measure = gathered.measure(align)
    title = "" if measure is None else f" ({measure.title})"
    found = []
    if differ:
        found.append(f"Foreground{title}: {'; '.join(differ)}.")
    if early:
        found.append(f"Foreground aligns best{title} before the last layer: {'; '.join(early)}.")
    return found


def mean(row: Row) -> str:
    """Return a number with the digits of its interval."""
    return center(row.mean, row.low, row.high)


def outliers(gathered: Gathered) -> list[str]:
    """Say which models have patches of high norm, beyond doubt."""
    parts = []
    for label in gathered.looks:
        row = chosen(gathered, Asked("", "norm_outliers", "last"), label)
        if row is not None and certain(row) and (row.low or 0.0) > RARE:
            parts.append(f"{label} ({100 * row.mean:.1f} %, {where(row)})")
    least = f"Surely more than {100 * RARE:.1f} % of patches are of high norm"
    return [f"{least}: {'; '.join(parts)}."] if parts else []


def extremes(gathered: Gathered, asked: Asked) -> list[str]:
    """Say which model has the least or most of something, where no other's interval reaches it."""
    rows = {label: chosen(gathered, asked, label) for label in gathered.looks}
    known = [(label, row) for label, row in rows.items() if row is not None and certain(row)]
    measure = gathered.measure(asked.measure)
    if len(known) < 2 or measure is None:
        return []
    known.sort(key=lambda each: each[1].mean)
    parts = [
        f"{word} for {label} ({mean(row)})"
        for word, (label, row) in (("highest", known[-1]), ("lowest", known[0]))
        if clear(row, [other for _, other in known])
    ]
    if len(known) == 2 and parts:
        (low, a), (high, b) = known
        parts = [f"higher for {high} ({mean(b)}) than for {low} ({mean(a)})"]
    title = capital(measure.title)
    return [f"{title} of the last layer is {', '.join(parts)}."] if parts else []


def capital(text: str) -> str:
    """Return a sentence's start."""
    return text[:1].upper() + text[1:]


def clear(one: Row, rows: Sequence[Row]) -> bool:
    """Return whether a row lies apart from all others."""
    return all(other is one or apart(one, other) != 0 for other in rows)
