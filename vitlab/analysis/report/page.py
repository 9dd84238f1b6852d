"""The report: one page that needs no other file, and every figure as PNG, SVG and PDF."""

import base64
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from vitlab.analysis.report.figures import MeasureFigures, ReportFigure, numbers, slug
from vitlab.analysis.report.questions import Questions
from vitlab.analysis.report.summary import drawn_arrays, drawn_rows, headline
from vitlab.analysis.results import CSV, JSON, AnalysisResults, Measure
from vitlab.atomic_io import write_bytes
from vitlab.visualization.plots import COLUMN, plot_style, render, styles_of

HERE = Path(__file__).parent
HTML, FIGURES = "report.html", "figures"
NARROW, WIDE, COLORS = 720, 1440, 48  # pixels of images on the page; colors of plots
CHANCE_ONLY = "foreground_share"  # drawn as the line of chance of foreground_hit
# title, lead, beginnings of the names of the measures
SECTIONS = (
    ("Around each norm", "A fall across norm1 while patches stay alike: the norm separates [CLS] "
     "from patches.", ("cls_patch_", "patch_patch_")),
    ("Foreground by depth", "How well [CLS] finds the object, and how far object and background "
     "have become alike.", ("foreground", "diffusion")),
    ("Layer against mIoU", "The depth that aligns best with the foreground need not be the one "
     "that segments best.", ("block_miou",)),
    ("Attention", "How far each head looks, how evenly, and how much of it is exactly zero.",
     ("attention", "dead_")),
    ("Locality", "Whether near patches are alike, and where a Gaussian bias keeps attention near.",
     ("locality", "bias_")),
    ("Lengths of patches", "Artifacts are patches of high norm; the histogram's right end shows "
     "them.", ("token_norm", "norm_")),
    ("Channels", "Whether [CLS] and patches are large in different channels: dimension "
     "separation.", ("channel_",)),
    ("Rank", "How many directions the features use.", ("feature_rank",)),
    ("Prompts", "How much attention the prompts beside the sequence receive.", ("prompt_",)),
    ("Registers", "Register tokens, which no other section counts.",
     ("registers_", "cls_registers_")),
    ("Other measures", "", ("",)),
)  # fmt: skip


class Picture(NamedTuple):
    """An example picture, such as PCA maps: title, caption, and the content of a PNG file."""

    title: str
    caption: str
    png: bytes


def write_report(results: AnalysisResults, pictures: Sequence[Picture], folder: Path) -> list[Path]:
    """Write report.html, and its figures below `figures/`; equal results give equal bytes.

    The page links to the files that `AnalysisResults.save` writes into the same folder.

    Returns:
        The files, the page first.
    """
    asked, parts = questions(results), sections(results)
    named = {slug(f"picture {i + 1} {each.title}"): each for i, each in enumerate(pictures)}
    files = {f"{name}.png": each.png for name, each in named.items()}
    for figure in (each for several in (asked, *parts.values()) for each in several):
        files |= {f"{figure.name}{ending}": own for ending, own in figure.files.items()}
    for name, content in files.items():
        write_bytes(folder / FIGURES / name, content)
    write_bytes(folder / HTML, _page(results, asked, parts, named).encode())
    return [folder / HTML, *(folder / FIGURES / name for name in files)]


def questions(results: AnalysisResults) -> list[ReportFigure]:
    """Return the five questions as figures: the question is the title, the answer the caption."""
    styles = styles_of([model.label for model in results.models])
    found: list[ReportFigure] = []
    with plot_style():
        for question, each in Questions(results, styles).answers():
            files, table = {}, pd.DataFrame()
            if each.figure is not None and each.rows is not None:
                x = "title" if "title" in each.rows else "block"
                variant = "of" if "of" in each.rows else ""
                rows = each.rows.assign(head=math.nan)
                files, table = render(each.figure), numbers(rows, x, variant)
            name = slug(f"question {len(found) + 1} {question}")
            wide = each.figure is not None and each.figure.get_figwidth() > COLUMN
            found.append(ReportFigure(name, question, each.sentence, files, table, wide))
    return found


def sections(results: AnalysisResults) -> dict[tuple[str, str], list[ReportFigure]]:
    """Return the figures by the title and lead of their section, of those that have any."""
    rows, arrays = drawn_rows(results), drawn_arrays(results)
    styles = styles_of([model.label for model in results.models])
    measures = {each.name: each for each in results.measures}
    names = dict.fromkeys([*measures, *rows["measure"], *arrays["measure"]])
    found: dict[tuple[str, str], list[ReportFigure]] = {each[:2]: [] for each in SECTIONS}
    with plot_style():
        for name in names:
            measure = measures.get(name, Measure(name, name, "", ""))
            place = next(each[:2] for each in SECTIONS if name.startswith(each[2]))
            if name != CHANCE_ONLY:
                found[place] += MeasureFigures(measure, rows, arrays, styles).draw()
    return {place: figures for place, figures in found.items() if figures}


def _page(
    results: AnalysisResults,
    asked: list[ReportFigure],
    parts: dict[tuple[str, str], list[ReportFigure]],
    pictures: dict[str, Picture],
) -> str:
    """Return the page; every text is escaped."""
    labels = [model.label for model in results.models]
    made = dict(results.environment)
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(
        (HERE / "page.html").read_text("utf-8")
    )
    return template.render(
        results=results,
        title=f"Analysis of {labels[0]}"
        if len(labels) == 1
        else f"{len(labels)} encoders compared",
        css=Markup((HERE / "page.css").read_text("utf-8")),
        headline=headline(results).replace(", ", ",\N{NO-BREAK SPACE}", regex=True).reset_index(),
        questions=asked,
        styles=styles_of(labels),
        sections=parts,
        pictures=pictures,
        left_out=pd.DataFrame(results.left_out),
        command=made.pop("command", ""),
        facts=_text({"data": results.data, **made}),
        text=_text,
        slug=slug,
        table=lambda each: Markup(each.to_html(index=False, border=0)),
        image=embedded,
        files=[CSV, JSON],
    )


def embedded(png: bytes, photographs: bool = False) -> str:
    """Return an image for the page: as wide as a screen shows it, a tenth of the file's size."""
    image, file = Image.open(io.BytesIO(png)).convert("RGB"), io.BytesIO()
    image.thumbnail((WIDE, 8 * WIDE) if photographs or image.width > WIDE else (NARROW, WIDE))
    if not photographs:
        image = image.quantize(COLORS, dither=Image.Dither.NONE).convert("RGB")
    image.save(file, "WEBP", lossless=not photographs, quality=80)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def _text(value: object) -> str:
    """Return settings as people read them."""
    return json.dumps(value, indent=1, default=str, ensure_ascii=False)
