"""Measure encoders side by side on the same images: the whole of `vitlab analyze` but its words."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch.utils.data import DataLoader

from vitlab.analysis.images import Images, Pair
from vitlab.analysis.measures.engine import MEASURES, WITH_MASKS, Engine, blocks_of
from vitlab.analysis.results import AnalysisResults, Array, LeftOut, Measure, Model, Row
from vitlab.atomic_io import environment
from vitlab.data import normalize
from vitlab.encoders import Encoder

HEADLINES = (  # measure, point, role, and how to call it
    ("cls_patch_cosine", "final", "all", "\\[CLS]-patch cosine, output"),
    ("patch_patch_cosine", "final", "all", "patch-patch cosine, output"),
    ("diffusion_index", "final", "", "diffusion index, output"),
    ("foreground_auroc", "final", "", "foreground AUROC, output"),
    ("norm_outliers", "output", "", "high-norm patches, last block"),
    ("attention_distance", "", "patches", "attention distance of patches, px, last block"),
    ("attention_zeros", "", "patches", "exact zeros of patches, last block"),
    ("dead_keys", "", "", "dead keys, last block"),
    ("feature_rank", "final", "patches", "rank of patches, output"),
    ("prompt_mass", "", "patches", "attention of patches to prompts, last block"),
)
WHY_ABSENT = {
    "cls_registers_cosine": "no registers",
    "registers_patch_cosine": "no registers",
    "prompt_mass": "no prompts",
    "prompt_used": "no prompts",
    "bias_alpha": "no Gaussian bias",
    "bias_variance_rows": "no Gaussian bias with a width",
    "bias_variance_columns": "no Gaussian bias with a width",
}


@dataclass(frozen=True)
class NamedEncoder:
    """An encoder that is analyzed.

    Attributes:
        encoder: in evaluation mode; takes images normalized by ImageNet's statistics.
        model: what the findings say of it.
    """

    encoder: Encoder
    model: Model


@dataclass(frozen=True)
class Pace:
    """How the images pass.

    Attributes:
        device: of the encoders.
        batch: images of one pass, or fewer where attention would take much memory.
        workers: processes that decode.
        precision: makes the context of a forward pass, such as autocast; measures are in fp32.
    """

    device: torch.device = torch.device("cpu")  # noqa: RUF009
    batch: int = 32
    workers: int = 0
    precision: Callable[[], AbstractContextManager] = nullcontext


def describe_encoder(
    encoder: Encoder,
    label: str,
    weights: str = "",
    hash_: str = "",
    config: dict[str, Any] | None = None,
) -> Model:
    """Return what findings say of an encoder.

    Args:
        encoder: with blocks.
        label: its name in figures.
        weights: where they lie; "" if nowhere.
        hash_: fingerprint of options and tensors; "" for none.
        config: the arguments it was made with, as JSON; by default its own, as text.
    """
    blocks = blocks_of(encoder)
    if config is None:
        config = {key: str(value) for key, value in getattr(encoder, "config", {}).items()}
    return Model(
        label=label,
        weights=weights,
        hash=hash_,
        config=config,
        depth=len(blocks),
        heads=blocks[0].attn.num_heads,
        patch=encoder.patch_size,
        registers=int(config.get("num_registers", 0)),
        parameters=sum(parameter.numel() for parameter in encoder.parameters()),
    )


def analyze(
    subjects: Sequence[NamedEncoder], images: Images, pace: Pace, console: Console | None = None
) -> AnalysisResults:
    """Measure encoders, one after the other, on the same images.

    Args:
        subjects: with different labels.
        images: all of one size.
        pace: device, batch and workers.
        console: where progress is shown; standard error by default.

    Raises:
        ValueError: features are not finite.
    """
    rows: list[Row] = []
    arrays: list[Array] = []
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console or Console(stderr=True),
    ) as progress:
        tasks = [progress.add_task(each.model.label, total=len(images)) for each in subjects]
        for subject, task in zip(subjects, tasks, strict=True):
            for found in measured(subject, images, pace, lambda n, t=task: progress.advance(t, n)):  # type: ignore[misc]
                (rows if isinstance(found, Row) else arrays).append(found)  # type: ignore[arg-type]
    return AnalysisResults(
        data=images.about,
        models=[each.model for each in subjects],
        measures=MEASURES,
        rows=rows,
        arrays=arrays,
        left_out=left_out(subjects, images, MEASURES, [*rows, *arrays]),
        environment=environment(),
    )


def measured(
    subject: NamedEncoder, images: Images, pace: Pace, tick: Callable[[int], Any]
) -> Iterator[Row | Array]:
    """Yield what is found of one encoder; `tick` is told of images that have passed."""
    encoder = subject.encoder.to(pace.device).eval()
    engine = Engine(encoder, len(images), pace.precision)
    try:
        for pixels, objects in batches(images, pace):
            step = engine.fitting(pixels.shape[2], pace.device)
            for seen, labels in zip(pixels.split(step), objects.split(step), strict=True):
                seen, labels = seen.to(pace.device), labels.to(pace.device)
                engine.see(normalize(seen), labels if images.masks else None)
                tick(len(seen))
    except ValueError as error:
        raise ValueError(f"{subject.model.label}: {error}") from error
    finally:
        encoder.cpu()
    yield from engine.findings(subject.model.label)


def batches(images: Images, pace: Pace) -> DataLoader[Pair]:
    """Return a loader of the images in order, which draws nothing from the random stream."""
    return DataLoader(
        images.pairs,
        pace.batch,
        num_workers=pace.workers,
        generator=torch.Generator(),
    )


def left_out(
    subjects: Sequence[NamedEncoder],
    images: Images,
    measures: Sequence[Measure],
    found: Sequence[Row | Array],
) -> list[LeftOut]:
    """Return what was not measured, and why: of all models, then of single ones."""
    missing = []
    if not images.masks:
        missing.append(LeftOut("", ", ".join(WITH_MASKS), images.why_not))
    known = {(each.model, each.measure) for each in found}
    for subject in subjects:
        label = subject.model.label
        absent: dict[str, list[str]] = {}
        for each in measures:
            if (label, each.name) in known or (each.name in WITH_MASKS and not images.masks):
                continue
            reason = WHY_ABSENT.get(each.name, "defined for none of the images")
            absent.setdefault(reason, []).append(each.name)
        missing += [LeftOut(label, ", ".join(names), reason) for reason, names in absent.items()]
    return missing


def show(findings: AnalysisResults, console: Console) -> None:
    """Print a few numbers of each model, and what was left out."""
    about = findings.data
    table = Table(
        title=f"{about['dataset']}: {about['images']} images of {about['size']} px",
        caption="± half of the 95 % interval over images",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("")
    for model in findings.models:
        table.add_column(model.label, justify="right")
    for measure, point, role, name in HEADLINES:
        cells = []
        for model in findings.models:
            block = None if point == "final" else model.depth - 1
            found = findings.select(
                measure, model=model.label, block=block, point=point, role=role, head=None
            )
            cells.append(shown(found[0]) if found else "-")
        if any(cell != "-" for cell in cells):
            table.add_row(name, *cells)
    console.print(table)
    for each in findings.left_out:
        if not each.model:
            console.print(f"left out: {each.measure}: {each.reason}", highlight=False)


def shown(row: Row) -> str:
    """Return a number with half its interval."""
    digits = 1 if abs(row.mean) >= 10 else 3
    half = "" if row.high is None else f" ±{row.high - row.mean:.{digits}f}"
    return f"{row.mean:.{digits}f}{half}"
