"""Write a report: a page that stands alone, and every figure as SVG and PNG."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from vitlab.analysis.report.drawing import DASH, Drawing, number, style
from vitlab.analysis.report.gathered import Gathered, slug
from vitlab.analysis.report.headline import headline
from vitlab.analysis.report.observations import observations
from vitlab.analysis.report.sections import Section, sections
from vitlab.analysis.results import CSV, JSON, AnalysisResults, Model
from vitlab.atomic_io import write_bytes

HERE = Path(__file__).parent
LONG = 80  # letters of a fact
HTML, FIGURES = "report.html", "figures"
HEAVY = 100_000  # bytes of an SVG above which the page shows the PNG if that is lighter


@dataclass(frozen=True)
class Picture:
    """An example picture, such as PCA maps.

    Attributes:
        title: above it.
        caption: what is seen, and how it was made.
        png: the file.
    """

    title: str
    caption: str
    png: bytes


def write_report(
    findings: AnalysisResults, pictures: Sequence[Picture], folder: Path
) -> list[Path]:
    """Write report.html, and its figures below `figures/`; equal findings give equal bytes.

    The page links to the files that `AnalysisResults.save` writes into the same folder.

    Returns:
        What was written, the page first.
    """
    gathered = Gathered(findings)
    with style():
        parts = sections(gathered)
    named = [(each, slug(f"picture-{i + 1}", each.title)) for i, each in enumerate(pictures)]
    files = {f"{name}.png": each.png for each, name in named}
    for drawing in (each for part in parts for each in part.drawings):
        files[f"{drawing.name}.svg"] = drawing.svg
        files[f"{drawing.name}.png"] = drawing.png
    for name, content in files.items():
        write_bytes(folder / FIGURES / name, content)
    write_bytes(folder / HTML, page(gathered, parts, named).encode())
    return [folder / HTML, *(folder / FIGURES / name for name in files)]


def page(
    gathered: Gathered, parts: Sequence[Section], pictures: Sequence[tuple[Picture, str]]
) -> str:
    """Return the page; every text is escaped."""
    findings = gathered.findings
    environment = dict(findings.environment)
    command = environment.pop("command", "")
    labels = [model.label for model in findings.models]
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(
        (HERE / "page.html").read_text("utf-8")
    )
    return template.render(
        title=f"Analysis of {labels[0]}"
        if len(labels) == 1
        else f"{len(labels)} encoders compared",
        data=sentence(findings.data),
        css=Markup((HERE / "page.css").read_text("utf-8")),
        headline=headline(gathered),
        observations=observations(gathered),
        models=[(model, gathered.looks[model.label].color) for model in findings.models],
        sections=parts,
        pictures=pictures,
        measures=gathered.measures,
        left_out=findings.left_out,
        command=command,
        facts=[*flat(findings.data), *flat(environment)],
        config=configuration,
        inline=inline,
        base64=encoded,
        csv=CSV,
        json=JSON,
    )


def sentence(data: Mapping[str, Any]) -> str:
    """Return what was analyzed, on one line; long lists stand below, under how it was made."""
    return " · ".join(f"{name}: {value}" for name, value in flat(data) if 0 < len(value) <= LONG)


def flat(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return names and values as text; what is nested gets a dotted name."""
    found: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += [(f"{name}.{key}", text) for key, text in flat(value)]
        else:
            found.append((str(name), as_text(value)))
    return found


def as_text(value: Any) -> str:
    """Return a value as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, list | tuple):
        return ", ".join(as_text(each) for each in value) or "none"
    return DASH if value is None else str(value)


def configuration(model: Model) -> str:
    """Return the arguments of an encoder."""
    return json.dumps(model.config, indent=1, default=str, ensure_ascii=False)


def inline(drawing: Drawing) -> str:
    """Return a figure as the address of an image: SVG, or PNG where SVG is heavy."""
    if len(drawing.svg) > max(HEAVY, len(drawing.png)):
        return f"data:image/png;base64,{encoded(drawing.png)}"
    return f"data:image/svg+xml;base64,{encoded(drawing.svg)}"


def encoded(content: bytes) -> str:
    """Return bytes as text."""
    return base64.b64encode(content).decode()
