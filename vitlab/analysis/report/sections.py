"""Which measures stand together in a report, and which figures each of them gets.

A measure that is named nowhere here gets its figures from the shape of its numbers, in the last
section.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from vitlab.analysis.report.bars import whole
from vitlab.analysis.report.channels import by_channel, curves
from vitlab.analysis.report.depth import Variant, over_depth
from vitlab.analysis.report.drawing import Drawing
from vitlab.analysis.report.gathered import READ, Gathered, Place, ordered
from vitlab.analysis.report.heads import per_head
from vitlab.analysis.report.histograms import histograms, is_histogram
from vitlab.analysis.report.layers import layer_against_miou
from vitlab.analysis.report.maps import grids
from vitlab.analysis.report.points import inside_blocks, points
from vitlab.analysis.results import Measure

FEW = 3  # points of a block, or roles, that one figure can tell apart by the dashes of its lines
READ_NOTE = "What leaves a block, read as the encoder's output is: behind its final norm."
ELSEWHERE = ("foreground_share",)  # the line of chance of foreground_hit
MARKED = ("channel_overlap",)  # its channels are marked where their magnitudes are shown
ALIGN, SEGMENT = ("foreground_auroc", "foreground_hit"), "block_miou"


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        anchor: what a link to it names.
        title: above it.
        lead: a sentence that says what to look for.
        drawings: its figures.
    """

    anchor: str
    title: str
    lead: str
    drawings: Sequence[Drawing]


@dataclass(frozen=True)
class Chapter:
    """A section before anything is drawn; `words` are what names of its measures contain."""

    anchor: str
    title: str
    lead: str
    words: Sequence[str]


REST = Chapter("other", "Other measures", "", ())
# looked through from the first to the last: "register_cosine" belongs to the registers
CLAIMS = (
    Chapter(
        "prompts",
        "Prompts",
        "How much attention the prompts beside the sequence receive.",
        ("prompt",),
    ),
    Chapter(
        "registers", "Registers", "Register tokens, which no other section counts.", ("regist",)
    ),
    Chapter(
        "foreground",
        "Foreground by depth",
        "How well [CLS] finds the object, and how far object and background have become alike.",
        ("foreground", "diffusion"),
    ),
    Chapter(
        "layers",
        "Layer against mIoU",
        "The depth that aligns best with the foreground need not be the one that segments best.",
        ("miou",),
    ),
    Chapter(
        "locality",
        "Locality",
        "Whether near patches are alike, and where a Gaussian bias keeps attention near.",
        ("locality", "alpha", "variance"),
    ),
    Chapter(
        "channels",
        "Channels",
        "Whether [CLS] and patches are large in different channels: dimension separation.",
        ("channel",),
    ),
    Chapter(
        "attention",
        "Attention",
        "How far each head looks, how evenly, and how much of it is exactly zero.",
        ("attention", "dead"),
    ),
    Chapter(
        "lengths",
        "Lengths of patches",
        "Artifacts are patches of high norm; the histogram's right end shows them.",
        ("norm",),
    ),
    Chapter("rank", "Rank", "How many directions the features use.", ("rank",)),
    Chapter(
        "norms",
        "Around each norm",
        "A fall across norm1 while patches stay alike says that the norm tells [CLS] from patches.",
        ("cosine",),
    ),
)
ORDER = ("norms", "foreground", "layers", "attention", "locality", "lengths", "channels", "rank")


def chapter_of(measure: Measure) -> Chapter:
    """Return the section that a measure belongs to."""
    for chapter in CLAIMS:
        if any(word in measure.name for word in chapter.words):
            return chapter
    return REST


def sections(gathered: Gathered) -> list[Section]:
    """Return the sections that have figures, in the order of the page."""
    drawn: dict[str, list[Drawing]] = {}
    chapters = {chapter.anchor: chapter for chapter in (*CLAIMS, REST)}
    drawn["layers"] = both_curves(gathered)
    for measure in gathered.measures:
        if measure.name != SEGMENT or not drawn["layers"]:
            drawn.setdefault(chapter_of(measure).anchor, []).extend(figures(gathered, measure))
    order = [*ORDER, *(anchor for anchor in chapters if anchor not in ORDER)]
    return [
        Section(anchor, chapters[anchor].title, chapters[anchor].lead, drawn[anchor])
        for anchor in order
        if drawn.get(anchor)
    ]


def both_curves(gathered: Gathered) -> list[Drawing]:
    """Return the figure of alignment and segmentation, where both were measured by block."""
    segment = gathered.measure(SEGMENT)
    for name in ALIGN:
        align = gathered.measure(name)
        if align and segment and gathered.depth(name) and gathered.depth(SEGMENT):
            return [layer_against_miou(gathered, align, segment)]
    return []


def figures(gathered: Gathered, measure: Measure) -> list[Drawing]:
    """Return all figures of a measure, from the shape of what was found."""
    if measure.name in ELSEWHERE:
        return []
    rows = gathered.rows(measure.name)
    found: list[Drawing] = per_head(gathered, measure)
    if any(row.block is not None and row.head is None for row in rows):
        found = [*over_blocks(gathered, measure), *found]
    elif not found and (bars := whole(gathered, measure)):
        found = [bars, *found]
    return [*found, *of_arrays(gathered, measure)]


def over_blocks(gathered: Gathered, measure: Measure) -> list[Drawing]:
    """Return lines over depth: by point, by role, or as maps where a block has many points."""
    everything = [row for row in gathered.rows(measure.name) if row.block is not None]
    by_head = {(row.point, row.role) for row in everything if row.head is not None}
    rows = [r for r in everything if r.head is None and (r.point, r.role) not in by_head]
    names = ordered(row.point for row in rows)
    many = len(points(gathered, measure.name)) > FEW
    drawn: list[Drawing | None] = []
    if many:
        for role in main_roles(rows):
            drawn += inside_blocks(gathered, measure, role)
    for point in names[-1:] if many else names:
        roles = ordered(row.role for row in rows if row.point == point)
        for group in groups(roles):
            if many and point != READ and len(roles) == 1:
                continue  # the figures above show it
            variants = [Variant(role or "all", Place(point, role)) for role in group]
            title = titled(measure, point, group)
            note = READ_NOTE if point == READ else ""
            drawn.append(over_depth(gathered, measure, variants, title=title, note=note))
    return [drawing for drawing in drawn if drawing]


def main_roles(rows: Sequence) -> list[str]:
    """Return the role that figures with many points show: all tokens, or the first."""
    roles = ordered(row.role for row in rows)
    return ["all"] if "all" in roles else roles[:1]


def groups(roles: Sequence[str]) -> list[list[str]]:
    """Return the roles that share a figure: foreground with background, any other alone."""
    pair = [role for role in roles if role in ("foreground", "background")]
    return [*([role] for role in roles if role not in pair), *([pair] if pair else [])]


def titled(measure: Measure, point: str, roles: Sequence[str]) -> str:
    """Return the title of a figure, with point and roles where they say something."""
    words = [w for w in (point, " and ".join(roles)) if w not in ("", "all", READ)]
    return f"{measure.title}: {', '.join(words)}" if words else measure.title


def of_arrays(gathered: Gathered, measure: Measure) -> list[Drawing]:
    """Return the figures of arrays: histograms, maps, channels, or sorted curves."""
    arrays = gathered.arrays(measure.name)
    found = [*histograms(gathered, measure), *grids(gathered, measure)]
    found += by_channel(gathered, measure)
    rest = [a for a in arrays if len(a.axes) == 1 and a.axes != ["channel"] and not is_histogram(a)]
    if measure.name not in MARKED:
        for point, role in ordered((array.point, array.role) for array in rest):
            found.append(curves(gathered, measure, rest, point, role))
    return found
