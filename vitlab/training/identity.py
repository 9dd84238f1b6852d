"""Identity of a run besides its settings: its data, packages and hardware, in environment.json."""

import importlib.metadata
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from vitlab.atomic_io import environment, read_json_as, write_json
from vitlab.errors import InputError
from vitlab.training.cli import FitCLI
from vitlab.training.plan import RunPlan

FILE = "environment.json"
HASHED = ("names", "sizes", "labels", "masks", "contents")  # of a split
# packages that decide which pixels an image becomes
PIXELS = ("albumentations", "albucore", "opencv-python-headless", "pillow", "torchvision", "timm")


@dataclass(frozen=True)
class RunIdentity:
    """What else than the settings decides the bits of a run, by name.

    Attributes:
        decisive: of which another value makes another result: data, and packages that make pixels.
        rounding: of which another value changes the rounding: hardware, threads, other packages.
        changes: of either since the run began, each with its step.
    """

    decisive: dict[str, str] = field(default_factory=dict)
    rounding: dict[str, str] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RecordedEnvironment:
    """The part of environment.json that is read again."""

    identity: RunIdentity = field(default_factory=RunIdentity)


def identify(cli: FitCLI, plan: RunPlan) -> RunIdentity:
    """Return the identity of a run that is about to start; its data are listed already."""
    decisive = {f"data {part}": value for part, value in cli.datamodule.identity().items()}
    for name, source in cli.config_init.probing.dense.items():
        decisive |= {f"{name} {part}": value for part, value in source.identity().items()}
    for name in PIXELS:
        with suppress(importlib.metadata.PackageNotFoundError):
            decisive[name] = importlib.metadata.version(name)
    device = cli.trainer.strategy.root_device
    kind = torch.backends.cpu.get_cpu_capability()
    if device.type == "cuda":
        kind = torch.cuda.get_device_name(device)
    known = environment()
    rounding = {
        "threads": str(torch.get_num_threads()),
        "device": f"{device.type} {kind}",
        "devices": str(cli.trainer.world_size),
        "images of a micro-batch": str(plan.layout.micro_batch_size),
        **{name: known["packages"][name] for name in ("torch", "lightning", "numpy")},
        **{name: str(known[name]) for name in ("python", "vitlab", "commit")},
    }
    return RunIdentity(decisive, rounding)


def compare_identity(cli: FitCLI, now: RunIdentity) -> RunIdentity:
    """Compare a run with what it was when it was stopped, and print what will differ.

    Returns:
        The identity with all changes since the run began.

    Raises:
        InputError: something decisive has changed, and `--allow-changes` is not given.
    """
    folder, checkpoint = cli.folder, cli.start.checkpoint
    if checkpoint is None or folder.resolve() not in checkpoint.resolve().parents:
        return now
    try:
        before = read_json_as(folder / FILE, RecordedEnvironment).identity
    except FileNotFoundError:
        return now
    except InputError as error:
        raise InputError(
            f"{error}; remove it if you know that data and packages are the run's own", field=FILE
        ) from error
    decisive = _differences(before.decisive, now.decisive)
    rounding = _differences(before.rounding, now.rounding)
    if decisive and not cli.config.allow_changes:
        raise InputError(
            f"what the run in {folder} is made of has changed since it was stopped: "
            f"{'; '.join(decisive[:8])}. Put it back, begin a new run with --run-dir DIR, or go on "
            f"all the same with --allow-changes, which is kept in {folder / FILE}",
            field="--allow-changes",
        )
    for found, what in ((decisive, "result is another"), (rounding, "rounding is another")):
        if found:
            print(
                f"vitlab: going on with {'; '.join(found)}: the {what} than without the stop; kept "
                f"in {folder / FILE}",
                file=sys.stderr,
            )
    new = [f"step {cli.start.step}: {change}" for change in (*decisive, *rounding)]
    return RunIdentity(now.decisive, now.rounding, [*before.changes, *new])


def record_environment(folder: Path, identity: RunIdentity) -> None:
    """Write RUN/environment.json."""
    write_json(folder / FILE, {**environment(), "identity": asdict(identity)})


def _differences(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """Return what differs; what one of them does not know, as a probe left out, does not."""
    return [
        f"other {name}" if name.split()[-1] in HASHED else f"{name} {now[name]} instead of {value}"
        for name, value in before.items()
        if now.get(name, value) != value
    ]
