"""Checkpoints of a run in order of the epochs they were trained for."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vitlab.encoders.checkpoint_io import is_folder, read_checkpoint
from vitlab.errors import InputError
from vitlab.run import run_dir

ENDINGS = (".ckpt", ".pth", ".pt", ".safetensors")


@dataclass(frozen=True)
class SavedCheckpoint:
    """Weights after so many epochs and optimizer steps (0 where the file does not have them)."""

    path: Path
    epoch: int
    step: int = 0
    ours: bool = False  # whether `vitlab fit` wrote it


@dataclass(frozen=True)
class CheckpointSeries:
    """Checkpoints of one run.

    Attributes:
        name: of the run: ARM/seed0, as `vitlab curves` groups runs.
        checkpoints: by rising epoch, one for each.
        config: of the run, if it is there.
        left_out: files that are not used, with the reason.
    """

    name: Path
    checkpoints: Sequence[SavedCheckpoint]
    config: Path | None
    left_out: Mapping[Path, str] = field(default_factory=dict)


def find_series(paths: Iterable[Path]) -> list[CheckpointSeries]:
    """Return the series of runs, of folders of checkpoints, and of files, grouped by folder.

    Raises:
        InputError: a path that does not exist, a folder without checkpoints, a file without an
            epoch, or two files of one epoch.
    """
    files: dict[Path, list[Path]] = defaultdict(list)
    named = set()  # folders whose files were named one by one, so that none is left out silently
    for path in paths:
        if not path.exists():
            raise InputError(f"there is no {path}; name runs, or checkpoints", field="checkpoints")
        if path.is_dir() and not is_folder(path):
            kept = sorted((path / run_dir.KEPT).glob("*.ckpt"))
            own = [each for each in path.iterdir() if each.suffix in ENDINGS]
            # the last epoch's own file before what may be a copy of it
            own.sort(key=lambda each: (each.name != run_dir.LAST, each))
            files[path.resolve()] += kept + own
        else:
            home = path.resolve().parent
            home = home.parent if home.name == run_dir.KEPT else home
            files[home].append(path)
            named.add(home)
    return [_series(home, found, home in named) for home, found in files.items()]


def _series(home: Path, files: Sequence[Path], named: bool) -> CheckpointSeries:
    found: dict[int, SavedCheckpoint] = {}
    left_out: dict[Path, str] = {}
    for path in files:
        checkpoint = read_info(path)
        if checkpoint is None:
            left_out[path] = "written in the middle of an epoch"
            continue
        known = found.setdefault(checkpoint.epoch, checkpoint)
        if (
            named
            and known is not checkpoint
            and not (checkpoint.ours and checkpoint.step == known.step)
        ):
            raise InputError(
                f"{path} and {known.path} are both of epoch {known.epoch}; name one of them, or "
                "measure them separately: a curve has one encoder at a time",
                field="checkpoints",
            )
        if known is not checkpoint:
            left_out[path] = f"epoch {known.epoch} like {known.path.name}"
    if not found:
        raise InputError(
            f"{home} has no checkpoints ({run_dir.KEPT}/*.ckpt, {run_dir.LAST}, *.pth) from the "
            f"end of an epoch{''.join(f'; {path.name}: {why}' for path, why in left_out.items())}. "
            "With --checkpoint.every_n_epochs 20, `vitlab fit` keeps one every 20 epochs",
            field="checkpoints",
        )
    name = Path(home.parent.name, home.name) if home.name.startswith("seed") else Path(home.name)
    config = home / run_dir.CONFIG
    ordered = [found[epoch] for epoch in sorted(found)]
    return CheckpointSeries(name, ordered, config if config.is_file() else None, left_out)


def read_info(path: Path) -> SavedCheckpoint | None:
    """Return a checkpoint with its epoch; None for one from the middle of an epoch.

    The epoch is that of the file, else the last number in its name. DINO writes the number of
    finished epochs, DeiT and timm that of the last epoch, from 0.

    Raises:
        InputError: neither the file nor its name has the epoch, or the file cannot be read.
    """
    content = {} if is_folder(path) else read_checkpoint(path)
    if "pytorch-lightning_version" in content:
        loops = content["loops"]["fit_loop"]
        if not loops["epoch_loop.batch_progress"]["is_last_batch"]:
            return None
        epochs = loops["epoch_progress"]["current"]["processed"]
        return SavedCheckpoint(path, epochs, content["global_step"], ours=True)
    epoch = content.get("epoch")
    if isinstance(epoch, int):
        return SavedCheckpoint(path, epoch if "student" in content else epoch + 1)
    number = re.search(r"(\d+)\D*$", path.stem)
    if number is None:
        raise InputError(
            f"neither {path} nor its name has the epochs it was trained for; rename it, to "
            "epoch_0020.pth for instance",
            field=path.name,
        )
    return SavedCheckpoint(path, int(number[1]))
