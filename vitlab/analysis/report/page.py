"""The report: one page that needs no other file, and every figure as SVG and PNG."""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from vitlab.analysis.report.array_figures import ArrayFigures
from vitlab.analysis.report.data import ReportData, ReportFigure
from vitlab.analysis.report.row_figures import RowFigures, layer_comparison
from vitlab.analysis.report.style import plot_style
from vitlab.analysis.report.summary import ALIGN, SEGMENT, headline, observations
from vitlab.analysis.report.table import DASH, depth, number, slug
from vitlab.analysis.results import CSV, JSON, AnalysisResults
from vitlab.atomic_io import write_bytes

HERE = Path(__file__).parent
LONG = 80  # letters of a fact
HTML, FIGURES = "report.html", "figures"
HEAVY = 100_000  # bytes of an SVG above which the page shows the PNG if that is lighter
CHANCE_ONLY = "foreground_share"  # drawn as the line of chance of foreground_hit
# anchor, title, lead, beginnings of the names of the measures
SECTIONS = (
    ("norms", "Around each norm", "A fall across norm1 while patches stay alike: the norm "
     "separates [CLS] from patches.", ("cls_patch_", "patch_patch_")),
    ("foreground", "Foreground by depth", "How well [CLS] finds the object, and how far object and "
     "background have become alike.", ("foreground", "diffusion")),
    ("layers", "Layer against mIoU", "The depth that aligns best with the foreground need not be "
     "the one that segments best.", (SEGMENT,)),
    ("attention", "Attention", "How far each head looks, how evenly, and how much of it is exactly "
     "zero.", ("attention", "dead_")),
    ("locality", "Locality", "Whether near patches are alike, and where a Gaussian bias keeps "
     "attention near.", ("locality", "bias_")),
    ("lengths", "Lengths of patches", "Artifacts are patches of high norm; the histogram's right "
     "end shows them.", ("token_norm", "norm_")),
    ("channels", "Channels", "Whether [CLS] and patches are large in different channels: dimension "
     "separation.", ("channel_",)),
    ("rank", "Rank", "How many directions the features use.", ("feature_rank",)),
    ("prompts", "Prompts", "How much attention the prompts beside the sequence receive.",
     ("prompt_",)),
    ("registers", "Registers", "Register tokens, which no other section counts.",
     ("registers_", "cls_registers_")),
    ("other", "Other measures", "", ("",)),
)  # fmt: skip


class Picture(NamedTuple):
    """An example picture, such as PCA maps: title, caption, and the content of a PNG file."""

    title: str
    caption: str
    png: bytes


class Section(NamedTuple):
    """A part of the page."""

    anchor: str
    title: str
    lead: str
    figures: list[ReportFigure]


def write_report(results: AnalysisResults, pictures: Sequence[Picture], folder: Path) -> list[Path]:
    """Write report.html, and its figures below `figures/`; equal results give equal bytes.

    The page links to the files that `AnalysisResults.save` writes into the same folder.

    Returns:
        The files, the page first.
    """
    data = ReportData(results)
    with plot_style():
        parts = sections(data)
    named = [(each, slug(f"picture-{i + 1}", each.title)) for i, each in enumerate(pictures)]
    files = {f"{name}.png": each.png for each, name in named}
    for figure in (each for part in parts for each in part.figures):
        files |= {f"{figure.name}.svg": figure.svg, f"{figure.name}.png": figure.png}
    for name, content in files.items():
        write_bytes(folder / FIGURES / name, content)
    write_bytes(folder / HTML, render_page(data, parts, named).encode())
    return [folder / HTML, *(folder / FIGURES / name for name in files)]


def sections(data: ReportData) -> list[Section]:
    """Return the sections that have figures."""
    drawn: dict[str, list[ReportFigure]] = {}
    align = next((name for name in ALIGN if depth(data.rows(name))), "")
    compared = align and depth(data.rows(SEGMENT))
    for measure in data.measures:
        anchor = next(a for a, _, _, names in SECTIONS if measure.name.startswith(names))
        figures = drawn.setdefault(anchor, [])
        if measure.name == SEGMENT and compared:
            figures.append(layer_comparison(data, data.measure(align), measure))
        elif measure.name != CHANCE_ONLY:
            figures += RowFigures(data, measure).draw() + ArrayFigures(data, measure).draw()
    return [
        Section(anchor, title, lead, drawn[anchor])
        for anchor, title, lead, _ in SECTIONS
        if drawn.get(anchor)
    ]


def render_page(
    data: ReportData, parts: Sequence[Section], pictures: Sequence[tuple[Picture, str]]
) -> str:
    """Return the page; every text is escaped."""
    results = data.results
    environment = dict(results.environment)
    command = environment.pop("command", "")
    labels = list(data.styles)
    title = f"{len(labels)} encoders compared"
    facts = flat(results.data)
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(
        (HERE / "page.html").read_text("utf-8")
    )
    return template.render(
        title=f"Analysis of {labels[0]}" if len(labels) == 1 else title,
        data=" · ".join(f"{name}: {text}" for name, text in facts if 0 < len(text) <= LONG),
        css=Markup((HERE / "page.css").read_text("utf-8")),
        headline=headline(results),
        observations=observations(data),
        models=[(model, data.styles[model.label].color) for model in results.models],
        sections=parts,
        pictures=pictures,
        measures=data.measures,
        left_out=results.left_out,
        command=command,
        facts=[*facts, *flat(environment)],
        config=lambda model: json.dumps(model.config, indent=1, default=str, ensure_ascii=False),
        inline=inline,
        base64=lambda content: base64.b64encode(content).decode(),
        csv=CSV,
        json=JSON,
    )


def flat(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return names and values as text; nested ones get a dotted name."""
    (found,) = pd.json_normalize(dict(values)).to_dict("records") or [{}]
    return [(str(name), as_text(value)) for name, value in found.items()]


def as_text(value: Any) -> str:
    """Return a value as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, list | tuple):
        return ", ".join(as_text(each) for each in value) or "none"
    return DASH if value is None else str(value)


def inline(figure: ReportFigure) -> str:
    """Return a figure as the address of an image: SVG, or PNG where SVG is heavy."""
    heavy = len(figure.svg) > max(HEAVY, len(figure.png))
    kind, content = ("png", figure.png) if heavy else ("svg+xml", figure.svg)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
