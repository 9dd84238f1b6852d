"""`vitlab analyze`."""

import argparse
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from vitlab.analysis.analyze import NamedEncoder, Pace, analyze, describe_encoder, show
from vitlab.analysis.block_miou import BLOCK_MIOU, batches, block_miou
from vitlab.analysis.images import Images, dataset_class, find_images
from vitlab.analysis.pictures import example_pictures
from vitlab.analysis.report import Picture, write_report
from vitlab.analysis.results import CSV, JSON, AnalysisResults
from vitlab.commands.analyze_words import UNTRAINED, labels, parser, refuse
from vitlab.commands.device import choose_device
from vitlab.data import SegmentationSquare, VisionDataModule
from vitlab.evaluation.fingerprint import fingerprint
from vitlab.evaluation.frozen_encoder import load_frozen_encoder
from vitlab.probes import InferenceConfig
from vitlab.training.encoder_config import encoder_from_config

EXAMPLES = 4  # images that are drawn


def run(words: Sequence[str]) -> None:
    """Analyze encoders.

    Raises:
        ValueError: what was given cannot be used; before anything is measured.
    """
    given = parser().parse_args(words)
    refuse(given)
    images = find_images(
        given.data, given.dataset, given.split, given.size, given.images, given.foreground
    )
    subjects = read(given)
    for subject in subjects:
        subject.encoder.check_img_size(given.size, "--size")
    console = Console(width=max(110, Console().width))
    segmented = to_segment(given.probe, given.probe_dataset, given.size)
    pace = Pace(choose_device(given.device), given.batch, given.workers, precision(given))
    show_plan(subjects, images, pace, given.out, console)
    if given.dry_run:
        return
    findings = analyze(subjects, images, pace)
    write(findings, given.out)
    if segmented is not None:
        findings = with_miou(findings, subjects, segmented, given, pace)
        findings.save(given.out)
    show(findings, console)
    page = write_report(findings, pictures(subjects, images, pace), given.out)[0]
    console.print(f"{page}: open it in a browser; {JSON} and {CSV} beside it", highlight=False)


def read(given: argparse.Namespace) -> list[NamedEncoder]:
    """Read all weights.

    Raises:
        ValueError: they cannot be read, or would have one name.
    """
    count = len(given.weights)
    each = {
        name: getattr(given, name) * (count if len(getattr(given, name)) == 1 else 1)
        for name in ("family", "which", "pixels", "backbone")
    }
    names = given.labels or labels(given.weights, each["which"])
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise ValueError(
            f"several weights would be called {', '.join(twice)}; tell them apart with --labels"
        )
    subjects = []
    for index, (weights, label) in enumerate(zip(given.weights, names, strict=True)):
        if weights.startswith(UNTRAINED):
            subjects.append(untrained(weights, label))
            continue
        own = {name: values[index] for name, values in each.items()}
        found = load_frozen_encoder(Path(weights), **own)
        used = found.info
        where = f"{used.path} ({used.branch})" if used.branch else used.path
        subjects.append(
            NamedEncoder(
                found.encoder,
                describe_encoder(found.encoder, label, where, used.hash, used.encoder),
            )
        )
    return subjects


def untrained(weights: str, label: str) -> NamedEncoder:
    """Return the encoder of a config as it is before training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = encoder_from_config(Path(weights.removeprefix(UNTRAINED))).eval()
    return NamedEncoder(encoder, describe_encoder(encoder, label, weights, fingerprint(encoder)))


def to_segment(root: Path | None, dataset: str, size: int) -> VisionDataModule | None:
    """Return the segmentation set that each block is probed on, if one is asked for.

    Raises:
        ValueError: it is none, or cannot be read.
    """
    if root is None:
        return None
    kind = dataset_class(root, dataset)
    if kind is None:
        raise ValueError(
            f"--probe {root} is no dataset that shows what it is; name its class with "
            "--probe-dataset: VOC2012, ADE20K, Cityscapes or Folder"
        )
    data = kind(str(root))
    for split in (data.train_split, data.val_split):
        data.segmentation_dataset(split, SegmentationSquare(size))
    return data


def with_miou(
    findings: AnalysisResults,
    subjects: Sequence[NamedEncoder],
    data: VisionDataModule,
    given: argparse.Namespace,
    pace: Pace,
) -> AnalysisResults:
    """Return the findings with the mIoU of every block."""
    loading = InferenceConfig(pace.device, pace.batch, pace.workers, pace.precision)
    view, images = SegmentationSquare(given.size), given.probe_images
    rows = list(findings.rows)
    with Progress(console=Console(stderr=True)) as progress:
        for subject in subjects:
            encoder, label = subject.encoder.to(pace.device), subject.model.label
            total = batches(encoder, data, view, images, pace.batch)
            task = progress.add_task(f"mIoU of {label}", total=total)
            rows += block_miou(
                *(label, encoder, data, view, images, loading),
                tick=partial(progress.advance, task),
            )
            encoder.cpu()
    return replace(findings, measures=[*findings.measures, BLOCK_MIOU], rows=rows)


def pictures(subjects: Sequence[NamedEncoder], images: Images, pace: Pace) -> list[Picture]:
    """Return what the first images look like to the encoders."""
    shown = [images.pairs[index] for index in range(min(EXAMPLES, len(images)))]
    models = {each.model.label: each.encoder.to(pace.device) for each in subjects}
    masks = [mask for _, mask in shown] if images.masks else None
    loading = InferenceConfig(pace.device, pace.batch, 0, pace.precision)
    return example_pictures(models, [image for image, _ in shown], masks, loading)


def precision(given: argparse.Namespace) -> Callable[[], AbstractContextManager]:
    """Return what makes the context of a forward pass."""
    if given.precision == "fp32":
        return nullcontext
    return partial(torch.autocast, choose_device(given.device).type, torch.bfloat16)


def show_plan(
    subjects: Sequence[NamedEncoder], images: Images, pace: Pace, out: Path, console: Console
) -> None:
    """Print what is going to be done."""
    table = Table(title="analysis", show_header=False, title_justify="left")
    for each in subjects:
        model = each.model
        table.add_row(
            model.label,
            f"{model.weights}: {model.depth} blocks, {model.heads} heads, patch {model.patch}, "
            f"{model.registers} registers",
        )
    about = images.about
    named = " ".join(part for part in (about["dataset"], about["split"]) if part)
    table.add_row("images", f"{len(images)} of {named}, the middle {about['size']} px")
    table.add_row("masks", "yes" if images.masks else f"none: {images.why_not}")
    table.add_row("device", f"{pace.device}")
    table.add_row("result", str(out))
    console.print(table)


def write(findings: AnalysisResults, folder: Path) -> None:
    """Write an analysis beside its place, and move it there: a folder is whole or not there."""
    folder = folder.absolute()
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        findings.save(aside)
        if folder.exists():
            shutil.rmtree(folder)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
