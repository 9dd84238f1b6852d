"""The work of `vitlab evaluate`: from its options to a folder with a result."""

import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import UInt8
from lightning.fabric import Fabric
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from vitlab import distributed
from vitlab.atomic_io import environment, plain, write_bytes
from vitlab.commands.evaluate import EvaluateArguments
from vitlab.data import SegmentationWhole, VisionDataModule
from vitlab.data.storage import few
from vitlab.data.transforms import resize_nearest
from vitlab.errors import InputError
from vitlab.evaluation.evaluate import check, evaluate
from vitlab.evaluation.fingerprint import fingerprint_of_data
from vitlab.evaluation.frozen_encoder import load_frozen_encoder
from vitlab.evaluation.protocol import EvaluationContext, Outcome
from vitlab.evaluation.result import (
    DataInfo,
    ProtocolInfo,
    Result,
    WeightsInfo,
    refuse_overwriting,
)
from vitlab.probes import InferenceConfig
from vitlab.probes.metrics import IoUCounts, bootstrap_interval
from vitlab.terminal import say
from vitlab.visualization.grid import png_pixels
from vitlab.visualization.masks import compare_masks

UNFINISHED = ".unfinished"


def evaluate_and_write(args: EvaluateArguments, protocol: ProtocolInfo) -> Result | None:
    """Evaluate as told, and write the result.

    Raises:
        InputError: weights, protocol and data that do not fit.
    """
    folder = Path(args.out) if args.out else default_folder(args, protocol)
    refuse_overwriting(folder, args.overwrite)
    refuse_unwritable(folder)
    encoder, info = load_frozen_encoder(
        args.weights, args.family, args.which, args.pixels, args.backbone
    )
    remarks = check(encoder, args.protocol, args.data)
    if args.dry_run:
        show_plan(args, protocol, info, folder, remarks)
        return None
    device = launch(args)
    first = distributed.rank() == 0
    if first:
        show_plan(args, protocol, info, folder, remarks)
    context = EvaluationContext(
        loading=InferenceConfig(device, args.batch_size, args.num_workers),
        folder=folder / UNFINISHED,
        cache=Path(args.cache) if args.cache else None,
        memory=int(args.memory * 2**30),
        seed=args.seed,
    )
    began = time.perf_counter()
    outcome = evaluate(encoder, args.protocol, args.data, context)
    seconds = time.perf_counter() - began
    result = write(args, protocol, info, outcome, folder, seconds, remarks) if first else None
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return result


def default_folder(args: EvaluateArguments, protocol: ProtocolInfo) -> Path:
    """Return the default folder of a result: evaluations/WEIGHTS/PROTOCOL-DATASET."""
    weights = args.weights
    # of runs/dino/seed0/best.ckpt: runs-dino-seed0-best
    parts = [part for part in (*weights.parent.parts, weights.stem) if part not in ("/", "..")]
    seed = f"-seed{args.seed}" if args.seed else ""
    dataset = re.sub(r"[^\w.-]+", "_", args.data.dataset_name.lower())
    name = f"{protocol.name}-{dataset}{seed}"
    return Path("evaluations") / "-".join(parts[-4:]) / name


def refuse_unwritable(folder: Path) -> None:
    """Refuse, before any long work, a folder that cannot be made or written to."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        with tempfile.TemporaryDirectory(dir=existing):
            pass
    except OSError as error:
        raise InputError(
            f"--out {folder}: {error.strerror}; choose another folder", field="--out"
        ) from error


def launch(args: EvaluateArguments) -> torch.device:
    """Start the other processes, where several devices are asked for; return this one's device."""
    many = args.devices * args.num_nodes > 1
    try:
        fabric = Fabric(
            accelerator=args.accelerator,
            devices=args.devices,
            num_nodes=args.num_nodes,
            strategy="ddp" if many else "auto",
        )
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise InputError(
            f"--accelerator {args.accelerator} with --devices {args.devices} cannot be used on "
            f"this machine: {error}",
            field="--accelerator",
        ) from error
    if many:
        fabric.launch()
    return fabric.device


def show_plan(
    args: EvaluateArguments,
    protocol: ProtocolInfo,
    info: WeightsInfo,
    folder: Path,
    remarks: Sequence[str],
) -> None:
    """Print what is going to be done."""
    data = args.data
    say(f"weights   {info.path} ({info.family}, {info.hash[:12]})")
    say(f"protocol  {protocol.name} version {protocol.version}, hash {protocol.hash}")
    for name, (published, used) in protocol.changed.items():
        say(f"changed   {name}: {published} -> {used}")
    for split in (data.train_split, data.val_split):
        say(f"data      {data.dataset_name} {split}: {len(data.samples(split))} images")
    for remark in remarks:
        say(f"mind      {remark}")
    say(f"result    {folder}")


def absent_classes(counts: IoUCounts, classes: Sequence[str]) -> Iterator[str]:
    """Yield a sentence if there are classes that no scored pixel shows."""
    shown = counts.truth.sum(0)[: len(classes)].tolist()  # the last of more is void
    if absent := [name for name, pixels in zip(classes, shown, strict=True) if not pixels]:
        yield f"{len(absent)} of {len(shown)} classes have no pixel that was scored: {few(absent)}"


def draw(data: VisionDataModule, outcome: Outcome, folder: Path) -> UInt8[Tensor, "3 h w"]:
    """Write the first predictions beside their masks as pictures.png; return its pixels."""
    dataset = data.segmentation_dataset(data.val_split, SegmentationWhole(0))
    images, truths = zip(*(dataset[i] for i in range(len(outcome.predictions))), strict=True)
    shown = [
        torch.from_numpy(resize_nearest(prediction.numpy(), *truth.shape))
        for prediction, truth in zip(outcome.predictions, truths, strict=True)
    ]
    png = compare_masks(images, truths, shown, data.classes).encode(scale=1)
    write_bytes(folder / "pictures.png", png)
    return png_pixels(png)


def write(
    args: EvaluateArguments,
    protocol: ProtocolInfo,
    weights: WeightsInfo,
    outcome: Outcome,
    folder: Path,
    seconds: float,
    remarks: Sequence[str],
) -> Result:
    """Write, print and return the numbers of an evaluation with all that made them."""
    data, counts, classes = args.data, outcome.counts, {}
    train, val = outcome.train or data.train_split, data.val_split
    samples = data.samples(val)
    if isinstance(counts, IoUCounts):
        known = counts.iou()[: data.num_classes]  # the last of more is void
        classes = dict(zip(data.classes, known.tolist(), strict=True))
        remarks = [*remarks, *absent_classes(counts, data.classes)]
    result = Result(
        protocol=protocol,
        weights=weights,
        data=DataInfo(
            dataset=data.dataset_name,
            train=train,
            val=val,
            counts={train: len(data.samples(train)), val: len(counts)},
            fingerprint="-".join(fingerprint_of_data(data, split) for split in (train, val)),
            root=str(data.root),
        ),
        headline=outcome.headline,
        scores=plain(outcome.scores),
        interval=bootstrap_interval(counts, args.seed),
        classes=plain(classes),
        tried=plain(outcome.tried),
        chosen=outcome.chosen,
        chosen_on=outcome.chosen_on,
        seed=args.seed,
        seconds=seconds,
        environment=environment(),
        fits=outcome.fits,
        remarks=list(remarks),
    )
    folder.mkdir(parents=True, exist_ok=True)
    sheet = draw(data, outcome, folder) if outcome.predictions else None
    result.write_events(folder, sheet)
    paths = [samples.image(index) for index in range(len(counts))]
    result.write(folder, counts, paths, args.overwrite)  # last: then it is complete
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    show_result(result, folder)
    return result


def show_result(result: Result, folder: Path) -> None:
    """Print the numbers of an evaluation, how its fit ended, and fits that have not converged."""
    low, high = result.interval
    for remark in result.remarks:
        say(f"mind      {remark}")
    for name, value in result.scores.items():
        mark = f"  [{low:.1f}, {high:.1f}]" if name == result.headline else ""
        say(f"{name:24} {'-' if value is None else f'{value:.2f} %'}{mark}")
    for name, fit in result.fits.items():
        if not fit.converged or name == list(result.fits)[-1]:
            say(f"fit       {name}: {fit}")
    if result.chosen:
        say(f"chosen on {result.chosen_on}: {result.chosen} of {len(result.tried)} tried")
    say(f"result    {folder} ({result.seconds:.0f} s)")
