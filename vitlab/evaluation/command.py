"""`vitlab evaluate`: from words to a folder with a result."""

import contextlib
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.fabric import Fabric
from lightning.fabric.utilities.exceptions import MisconfigurationException
from rich.console import Console
from rich.table import Table

from vitlab import distributed
from vitlab.atomic_io import environment, write_bytes
from vitlab.data import Data, SegmentationWhole
from vitlab.encoders import Encoder, Imported, read_weights
from vitlab.evaluation.evaluate import Measured, check, evaluate
from vitlab.evaluation.fingerprint import fingerprint, fingerprint_of_data
from vitlab.evaluation.pictures import write_events
from vitlab.evaluation.protocol import Outcome, Work
from vitlab.evaluation.result import (
    DataUsed,
    ProtocolUsed,
    Result,
    WeightsUsed,
    refuse_overwriting,
)
from vitlab.evaluation.shifted import Shifted
from vitlab.evaluation.words import Asked, parse, show_names
from vitlab.probes import Loading
from vitlab.probes.evidence import Overlaps, interval
from vitlab.visualization.grid import encode_png
from vitlab.visualization.masks import compare_masks

UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class Subject:
    """The encoder that is evaluated.

    Attributes:
        encoder: takes images normalized by ImageNet's statistics.
        used: what a result says of it.
    """

    encoder: Encoder
    used: WeightsUsed


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
    subject = read_subject(given)
    check(subject.encoder, asked.protocol, data)
    if given.dry_run:
        show_plan(asked, subject, folder)
        return
    device = launch(given)
    first = distributed.rank() == 0
    if first:
        show_plan(asked, subject, folder)
    work = Work(
        loading=Loading(device, given.batch, given.workers),
        folder=folder / UNFINISHED,
        cache=Path(given.cache) if given.cache else None,
        memory=int(given.memory * 2**30),
        seed=given.seed,
    )
    measured = evaluate(subject.encoder, asked.protocol, data, work)
    if first:
        conclude(asked, subject, measured, folder)
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


def default_folder(asked: Asked) -> Path:
    """Return where a result goes unless told: evaluations/WEIGHTS/PROTOCOL-DATASET."""
    weights: Path = asked.given.weights
    # of runs/dino/seed0/best.ckpt: runs-dino-seed0-best
    parts = [part for part in (*weights.parent.parts, weights.stem) if part not in ("/", "..")]
    name = f"{asked.settings.name}-{type(asked.data).__name__.lower()}"
    seed = f"-seed{asked.given.seed}" if asked.given.seed else ""
    return Path("evaluations") / "-".join(parts[-4:]) / f"{name}{seed}"


def read_subject(given: Namespace) -> Subject:
    """Read the weights, and settle which pixels they take.

    Raises:
        ValueError: they cannot be read, or it is not known which pixels they take.
    """
    imported = read_weights(given.weights, given.family, given.which, backbone=given.backbone)
    pixels = _pixels(given.pixels, imported)
    encoder = imported.encoder
    used = WeightsUsed(
        path=str(given.weights),
        hash=fingerprint(encoder),
        encoder={**_values(encoder.config), "pixels": pixels},
        family=imported.family,
        branch=imported.branch,
    )
    return Subject(Shifted(encoder) if pixels == "half" else encoder, used)


def _values(config: dict[str, Any]) -> dict[str, Any]:
    return {key: asdict(each) if is_dataclass(each) else each for key, each in config.items()}  # type: ignore[arg-type]


def _pixels(asked: str, imported: Imported) -> str:
    if asked != "auto":
        return asked
    if imported.origin == "timm":
        raise ValueError(
            "weights of timm are trained with pixels of either kind; say --pixels imagenet or "
            "--pixels half (mean and deviation 0.5, as AugReg), see the model's pretrained_cfg"
        )
    return "half" if imported.origin == "locatvit" else "imagenet"


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


def show_plan(asked: Asked, subject: Subject, folder: Path) -> None:
    """Print what is going to be done."""
    data, settings, used = asked.data, asked.settings, subject.used
    table = Table(title="evaluation", show_header=False, title_justify="left")
    table.add_row(
        "weights", f"{subject.used.path} ({subject.used.family}, {subject.used.hash[:12]})"
    )
    table.add_row("protocol", f"{settings.name} version {settings.version}, hash {settings.hash}")
    for name, (published, used) in settings.changed.items():
        table.add_row("  changed", f"{name}: {published} -> {used}")
    for split in (data.train, data.val):
        table.add_row("data", f"{type(data).__name__} {split}: {len(data.samples(split))} images")
    table.add_row("result", str(folder))
    Console().print(table)


def conclude(asked: Asked, subject: Subject, measured: Measured, folder: Path) -> None:
    """Write the result with its pictures and curves, and print it."""
    outcome, data = measured.outcome, asked.data
    evidence, samples = outcome.evidence, data.samples(data.val)
    classes = {}
    if isinstance(evidence, Overlaps):
        classes = dict(zip(data.classes, evidence.iou().tolist(), strict=True))
    settings = asked.settings
    result = Result(
        protocol=ProtocolUsed(
            settings.name,
            settings.version,
            settings.values,
            settings.hash,
            {key: (old, new) for key, (old, new) in settings.changed.items()},
        ),
        weights=subject.used,
        data=_data_used(data, outcome),
        headline=outcome.headline,
        scores=dict(outcome.scores),
        interval=interval(evidence, asked.given.seed),
        classes=classes,
        tried=dict(outcome.tried),
        chosen=outcome.chosen,
        chosen_on=outcome.chosen_on,
        seed=asked.given.seed,
        seconds=measured.seconds,
        environment=environment(),
    )
    picture = None
    folder.mkdir(parents=True, exist_ok=True)
    if outcome.predictions:
        seen = data.segmented(data.val, SegmentationWhole(0))
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


def _data_used(data: Data, outcome: Outcome) -> DataUsed:
    train = outcome.train or data.train
    counts = {split: len(data.samples(split)) for split in (train, data.val)}
    return DataUsed(
        dataset=type(data).__name__,
        train=train,
        val=data.val,
        counts={**counts, data.val: len(outcome.evidence)},
        fingerprint="-".join(fingerprint_of_data(data, split) for split in (train, data.val)),
        root=str(data.root),
    )
