"""`vitlab evaluate`: from words to a folder with a result."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from jsonargparse import Namespace
from lightning.fabric import Fabric
from lightning.fabric.utilities.exceptions import MisconfigurationException
from rich.console import Console
from rich.table import Table

from vitlab import distributed
from vitlab.atomic_io import environment, write_bytes
from vitlab.data import SegmentationWhole, VisionDataModule
from vitlab.evaluation.arguments import EvaluationArguments, parse, show_names
from vitlab.evaluation.evaluate import check, evaluate
from vitlab.evaluation.fingerprint import fingerprint_of_data
from vitlab.evaluation.frozen_encoder import FrozenEncoder, load_frozen_encoder
from vitlab.evaluation.protocol import EvaluationContext, Outcome
from vitlab.evaluation.result import (
    DataInfo,
    ProtocolInfo,
    Result,
    refuse_overwriting,
)
from vitlab.evaluation.tensorboard import write_events
from vitlab.probes import InferenceConfig
from vitlab.probes.metrics import IoUCounts, bootstrap_interval
from vitlab.visualization.grid import encode_png
from vitlab.visualization.masks import compare_masks

UNFINISHED = ".unfinished"


def evaluate_command(words: Sequence[str]) -> None:
    """Run `vitlab evaluate`.

    Args:
        words: of the command line after `evaluate`.

    Raises:
        ValueError: what cannot be evaluated: what was given, what is allowed, what to do.
    """
    if "--list" in words:
        show_names()
        return
    asked = parse(words)
    given, data = asked.given, asked.data
    folder = Path(given.out) if given.out else default_folder(asked)
    refuse_overwriting(folder, given.overwrite)
    _refuse_unwritable(folder)
    names = ("weights", "family", "which", "pixels", "backbone")
    subject = load_frozen_encoder(**{name: given[name] for name in names})
    check(subject.encoder, asked.protocol, data)
    if given.dry_run:
        show_plan(asked, subject, folder)
        return
    device = launch(given)
    first = distributed.rank() == 0
    if first:
        show_plan(asked, subject, folder)
    context = EvaluationContext(
        loading=InferenceConfig(device, given.batch_size, given.num_workers),
        folder=folder / UNFINISHED,
        cache=Path(given.cache) if given.cache else None,
        memory=int(given.memory * 2**30),
        seed=given.seed,
    )
    began = time.perf_counter()
    outcome = evaluate(subject.encoder, asked.protocol, data, context)
    if first:
        conclude(asked, subject, outcome, time.perf_counter() - began, folder)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _refuse_unwritable(folder: Path) -> None:
    """Refuse, before any long work, a folder that cannot be made or written to; leave nothing."""
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"--out {folder}: {error.strerror}; choose another folder") from error
    finally:
        for place in new:
            with contextlib.suppress(OSError):
                place.rmdir()


def default_folder(asked: EvaluationArguments) -> Path:
    """Return where a result goes unless told: evaluations/WEIGHTS/PROTOCOL-DATASET."""
    weights: Path = asked.given.weights
    # of runs/dino/seed0/best.ckpt: runs-dino-seed0-best
    parts = [part for part in (*weights.parent.parts, weights.stem) if part not in ("/", "..")]
    name = f"{asked.settings.name}-{type(asked.data).__name__.lower()}"
    seed = f"-seed{asked.given.seed}" if asked.given.seed else ""
    return Path("evaluations") / "-".join(parts[-4:]) / f"{name}{seed}"


def launch(given: Namespace) -> torch.device:
    """Start the other processes, where several devices are asked for; return this one's device."""
    many = given.devices * given.num_nodes > 1
    try:
        fabric = Fabric(
            accelerator=given.accelerator,
            devices=given.devices,
            num_nodes=given.num_nodes,
            strategy="ddp" if many else "auto",
        )
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise ValueError(
            f"--accelerator {given.accelerator} with --devices {given.devices} cannot be used on "
            f"this machine: {error}"
        ) from error
    if many:
        fabric.launch()
    return fabric.device


def show_plan(asked: EvaluationArguments, subject: FrozenEncoder, folder: Path) -> None:
    """Print what is going to be done."""
    data, settings, info = asked.data, asked.settings, subject.info
    table = Table(title="evaluation", show_header=False, title_justify="left")
    table.add_row("weights", f"{info.path} ({info.family}, {info.hash[:12]})")
    table.add_row("protocol", f"{settings.name} version {settings.version}, hash {settings.hash}")
    for name, (published, used) in settings.changed.items():
        table.add_row("  changed", f"{name}: {published} -> {used}")
    for split in (data.train_split, data.val_split):
        table.add_row("data", f"{type(data).__name__} {split}: {len(data.samples(split))} images")
    table.add_row("result", str(folder))
    Console().print(table)


def conclude(
    asked: EvaluationArguments,
    subject: FrozenEncoder,
    outcome: Outcome,
    seconds: float,
    folder: Path,
) -> None:
    """Write the result with its pictures and curves, and print it."""
    data = asked.data
    evidence, samples = outcome.evidence, data.samples(data.val_split)
    classes = {}
    if isinstance(evidence, IoUCounts):
        classes = dict(zip(data.classes, evidence.iou().tolist(), strict=True))
    settings = asked.settings
    result = Result(
        protocol=ProtocolInfo(
            settings.name,
            settings.version,
            settings.values,
            settings.hash,
            {key: (old, new) for key, (old, new) in settings.changed.items()},
        ),
        weights=subject.info,
        data=_data_used(data, outcome),
        headline=outcome.headline,
        scores=dict(outcome.scores),
        interval=bootstrap_interval(evidence, asked.given.seed),
        classes=classes,
        tried=dict(outcome.tried),
        chosen=outcome.chosen,
        chosen_on=outcome.chosen_on,
        seed=asked.given.seed,
        seconds=seconds,
        environment=environment(),
    )
    picture = None
    folder.mkdir(parents=True, exist_ok=True)
    if outcome.predictions:
        seen = data.segmentation_dataset(data.val_split, SegmentationWhole(0))
        pairs = [seen[index] for index in range(len(outcome.predictions))]
        images, truths = [pair.image for pair in pairs], [pair.mask for pair in pairs]
        picture = compare_masks(images, truths, outcome.predictions, data.classes).render()
        write_bytes(folder / "pictures.png", encode_png(picture))
    write_events(folder, result, picture)
    names = [samples.image(index) for index in range(len(evidence))]
    result = result.write(folder, evidence, names, asked.given.overwrite)  # last: then it is whole
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    show(result, folder)


def show(result: Result, folder: Path) -> None:
    """Print the numbers of a result."""
    low, high = result.interval
    table = Table(title=f"{result.protocol.name} on {result.data.dataset}, %", title_justify="left")
    table.add_column("score")
    table.add_column("%", justify="right")
    for name, value in result.scores.items():
        mark = f"  [{low:.1f}, {high:.1f}]" if name == result.headline else ""
        table.add_row(name, ("-" if value is None else f"{value:.2f}") + mark)
    console = Console()
    console.print(table)
    if result.chosen:
        console.print(f"chosen on {result.chosen_on}: {result.chosen} of {len(result.tried)} tried")
    console.print(f"result  {folder} ({result.seconds:.0f} s)")


def _data_used(data: VisionDataModule, outcome: Outcome) -> DataInfo:
    train = outcome.train or data.train_split
    counts = {split: len(data.samples(split)) for split in (train, data.val_split)}
    return DataInfo(
        dataset=type(data).__name__,
        train=train,
        val=data.val_split,
        counts={**counts, data.val_split: len(outcome.evidence)},
        fingerprint="-".join(fingerprint_of_data(data, split) for split in (train, data.val_split)),
        root=str(data.root),
    )
