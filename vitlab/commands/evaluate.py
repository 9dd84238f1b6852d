"""`vitlab evaluate`: from its command line to a folder with a result."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.fabric import Fabric
from lightning.fabric.utilities.exceptions import MisconfigurationException
from rich.console import Console
from rich.table import Table

from vitlab import distributed
from vitlab.atomic_io import environment, write_bytes
from vitlab.commands.evaluate_arguments import EvaluateArguments, parse, show_names
from vitlab.data import SegmentationWhole
from vitlab.errors import InputError
from vitlab.evaluation.evaluate import check, evaluate
from vitlab.evaluation.fingerprint import fingerprint_of_data
from vitlab.evaluation.frozen_encoder import FrozenEncoder, load_frozen_encoder
from vitlab.evaluation.protocol import EvaluationContext, Outcome
from vitlab.evaluation.result import DataInfo, ProtocolInfo, Result, plain, refuse_overwriting
from vitlab.evaluation.tensorboard import write_events
from vitlab.probes import InferenceConfig
from vitlab.probes.metrics import IoUCounts, bootstrap_interval
from vitlab.visualization.grid import png_pixels
from vitlab.visualization.masks import compare_masks

UNFINISHED = ".unfinished"


def run(words: Sequence[str]) -> None:
    """Run `vitlab evaluate` with the words behind the verb.

    Raises:
        InputError: weights, protocol and data that do not fit.
    """
    if "--list" in words:
        show_names()
        return
    args, protocol = parse(words)
    folder = Path(args.out) if args.out else default_folder(args, protocol)
    refuse_overwriting(folder, args.overwrite)
    _refuse_unwritable(folder)
    frozen = load_frozen_encoder(args.weights, args.family, args.which, args.pixels, args.backbone)
    check(frozen.encoder, args.protocol, args.data)
    if args.dry_run:
        show_plan(args, protocol, frozen, folder)
        return
    device = launch(args)
    first = distributed.rank() == 0
    if first:
        show_plan(args, protocol, frozen, folder)
    context = EvaluationContext(
        loading=InferenceConfig(device, args.batch_size, args.num_workers),
        folder=folder / UNFINISHED,
        cache=Path(args.cache) if args.cache else None,
        memory=int(args.memory * 2**30),
        seed=args.seed,
    )
    began = time.perf_counter()
    outcome = evaluate(frozen.encoder, args.protocol, args.data, context)
    if first:
        seconds = time.perf_counter() - began
        result = _result(args, protocol, frozen, outcome, seconds)
        _write(result, outcome, args, folder)
        show(result, folder)
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
        raise InputError(
            f"--out {folder}: {error.strerror}; choose another folder", field="--out"
        ) from error
    finally:
        for place in new:
            with contextlib.suppress(OSError):
                place.rmdir()


def default_folder(args: EvaluateArguments, protocol: ProtocolInfo) -> Path:
    """Return the default folder of a result: evaluations/WEIGHTS/PROTOCOL-DATASET."""
    weights = args.weights
    # of runs/dino/seed0/best.ckpt: runs-dino-seed0-best
    parts = [part for part in (*weights.parent.parts, weights.stem) if part not in ("/", "..")]
    name = f"{protocol.name}-{type(args.data).__name__.lower()}"
    seed = f"-seed{args.seed}" if args.seed else ""
    return Path("evaluations") / "-".join(parts[-4:]) / f"{name}{seed}"


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
    args: EvaluateArguments, protocol: ProtocolInfo, frozen: FrozenEncoder, folder: Path
) -> None:
    """Print what is going to be done."""
    data, info = args.data, frozen.info
    table = Table(title="evaluation", show_header=False, title_justify="left")
    table.add_row("weights", f"{info.path} ({info.family}, {info.hash[:12]})")
    table.add_row("protocol", f"{protocol.name} version {protocol.version}, hash {protocol.hash}")
    for name, (published, used) in protocol.changed.items():
        table.add_row("  changed", f"{name}: {published} -> {used}")
    for split in (data.train_split, data.val_split):
        table.add_row("data", f"{type(data).__name__} {split}: {len(data.samples(split))} images")
    table.add_row("result", str(folder))
    Console().print(table)


def _result(
    args: EvaluateArguments,
    protocol: ProtocolInfo,
    frozen: FrozenEncoder,
    outcome: Outcome,
    seconds: float,
) -> Result:
    """Return the numbers of an evaluation with all that made them."""
    data, counts = args.data, outcome.counts
    train, val = outcome.train or data.train_split, data.val_split
    info = DataInfo(
        dataset=type(data).__name__,
        train=train,
        val=val,
        counts={train: len(data.samples(train)), val: len(counts)},
        fingerprint="-".join(fingerprint_of_data(data, split) for split in (train, val)),
        root=str(data.root),
    )
    classes = {}
    if isinstance(counts, IoUCounts):
        classes = dict(zip(data.classes, counts.iou().tolist(), strict=True))
    return Result(
        protocol=protocol,
        weights=frozen.info,
        data=info,
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
    )


def _write(result: Result, outcome: Outcome, args: EvaluateArguments, folder: Path) -> None:
    """Write a result with its pictures and curves."""
    data, sheet = args.data, None
    folder.mkdir(parents=True, exist_ok=True)
    if outcome.predictions:
        dataset = data.segmentation_dataset(data.val_split, SegmentationWhole(0))
        pairs = [dataset[index] for index in range(len(outcome.predictions))]
        truths = [pair.mask for pair in pairs]
        images = [pair.image for pair in pairs]
        grid = compare_masks(images, truths, outcome.predictions, data.classes)
        png = grid.encode(scale=1)
        write_bytes(folder / "pictures.png", png)
        sheet = png_pixels(png)
    write_events(folder, result, sheet)
    samples = data.samples(data.val_split)
    names = [samples.image(index) for index in range(len(outcome.counts))]
    result.write(folder, outcome.counts, names, args.overwrite)  # last: then it is complete
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)


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
