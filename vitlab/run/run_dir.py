"""Run directory: its checkpoints, its settings, its lock. One for each run, never overwritten."""

import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from vitlab.atomic_io import exclusive_lock
from vitlab.cluster.job import JOB_FOLDER as JOB
from vitlab.config_safety import flat, read_yaml
from vitlab.errors import InputError
from vitlab.run.checkpoint_integrity import check_readable

CONFIG = "config.yaml"
LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"
KEPT = "checkpoints"  # folder of those kept besides
RESULTS = "results.json"
LOCK = ".lock"
# settings that decide which weights a run ends with; of the data, not those below
LEARNED = (
    *("seed_everything", "model", "data", "trainer.max_epochs", "trainer.precision"),
    *("trainer.limit_train_batches", "trainer.overfit_batches"),
)
FREE = tuple(f"data.init_args.{name}" for name in ("root", "num_workers", "micro_batch_size"))


@dataclass(frozen=True)
class ResumePoint:
    """Where a run begins.

    Attributes:
        checkpoint: to continue from; None for a new run.
        step: optimizer steps that it has taken.
        damaged: newer checkpoints that cannot be read, each with the reason.
        finished: whether there is nothing left to do.
    """

    checkpoint: Path | None = None
    step: int = 0
    damaged: tuple[str, ...] = ()
    finished: bool = False


def default_folder(configs: Sequence[str], seed: int) -> Path:
    """Return the default folder of a run: runs/NAME_OF_CONFIGS/seedN."""
    names = [Path(config).stem for config in configs] or ["unnamed"]
    return Path("runs") / "-".join(names) / f"seed{seed}"


def kept_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints that a run keeps of some epochs, the newest first."""
    return sorted((folder / KEPT).glob("epoch_*.ckpt"), reverse=True)


def resumable_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints that a run can continue from, the newest first."""
    newest = (folder / LAST, folder / PREVIOUS)
    return [path for path in newest if path.exists()] + kept_checkpoints(folder)


def find_resume_point(folder: Path, ckpt_path: str | None) -> ResumePoint:
    """Find the checkpoint to continue from, and refuse to overwrite a run.

    Args:
        folder: of the run.
        ckpt_path: "last" for the newest checkpoint of the folder that is not damaged, "auto" for
            the same where there is one, a file, or None for a new run.

    Raises:
        InputError: the folder holds a run already, or the checkpoint does not exist.
    """
    finished = (folder / RESULTS).exists()
    if ckpt_path == "auto":
        if finished:
            return ResumePoint(finished=True)
        return _newest(folder) if resumable_checkpoints(folder) else find_resume_point(folder, None)
    if ckpt_path:
        start = _newest(folder) if ckpt_path == "last" else _from(Path(ckpt_path), folder)
        if finished:
            raise InputError(
                f"the run in {folder} is finished; continue from its checkpoint with another "
                "--run-dir DIR and more --trainer.max_epochs",
                field="--run-dir",
            )
        return start
    if finished:
        raise InputError(
            f"{folder} already holds a finished run, which is never overwritten; choose another "
            "folder with --run-dir DIR or another --seed_everything",
            field="--run-dir",
        )
    if resumable_checkpoints(folder):
        raise InputError(
            f"{folder} already holds an unfinished run; continue it with --ckpt_path last, or "
            "choose another folder with --run-dir DIR or another --seed_everything",
            field="--run-dir",
        )
    if _foreign(folder):
        raise InputError(
            f"{folder} holds other files; choose an empty or new folder with --run-dir DIR",
            field="--run-dir",
        )
    return ResumePoint()


def _newest(folder: Path) -> ResumePoint:
    damaged: list[str] = []
    for path in resumable_checkpoints(folder):
        try:
            step = check_readable(path)
        except ValueError as error:
            damaged.append(str(error))
        else:
            return ResumePoint(path, step, tuple(damaged))
    if damaged:
        raise InputError(
            "no checkpoint of the run can be read:\n  " + "\n  ".join(damaged), field="--ckpt_path"
        )
    raise _missing(folder / LAST, folder)


def _from(path: Path, folder: Path) -> ResumePoint:
    if not path.is_file():
        raise _missing(path, folder)
    step = check_readable(path)
    if folder.resolve() not in path.resolve().parents and resumable_checkpoints(folder):
        raise InputError(
            f"{folder} already holds another run; choose a new folder with --run-dir DIR",
            field="--run-dir",
        )
    return ResumePoint(path, step)


def _missing(path: Path, folder: Path) -> InputError:
    return InputError(
        f"there is no checkpoint {path}; --ckpt_path takes 'last' (the run's own, in {folder}), "
        "'auto' (the same if there is one) or a file. Leave it out to start anew",
        field="--ckpt_path",
    )


def check_same_settings(folder: Path, settings: Mapping[str, object]) -> None:
    """Refuse to go on with settings that would make the run neither the old one nor a new one.

    Args:
        folder: of the run, which holds the settings it began with.
        settings: given now, as plain values.

    Raises:
        InputError: a setting that decides the weights differs.
    """
    if not (folder / CONFIG).is_file():
        return
    began = read_yaml(folder / CONFIG)
    if not isinstance(began, Mapping):
        raise InputError(
            f"{folder / CONFIG} is damaged: it holds no settings; remove it if you know that those "
            "given now are the run's own",
            field="config.yaml",
        )
    before, now = dict(flat(began)), dict(flat(settings))
    changed = [
        f"{key} {now[key]!r} instead of {value!r}"
        for key, value in before.items()
        if key in now and now[key] != value and _decides(key)
    ]
    if changed:
        raise InputError(
            f"the run in {folder} began with other settings: {'; '.join(changed[:5])}. Leave them "
            f"as they were, or begin another run from its weights with --run-dir DIR --ckpt_path "
            f"{folder / LAST}",
            field="config.yaml",
        )


def _decides(key: str) -> bool:
    """Whether a setting decides the weights a run ends with; a file may have moved.

    The weights of a file are in the checkpoint, or, of a frozen backbone, their fingerprint.
    """
    return _within(key, LEARNED) and not _within(key, FREE) and not key.endswith(".path")


def _within(key: str, names: Sequence[str]) -> bool:
    return any(f"{key}.".startswith(f"{name}.") for name in names)


def rename_damaged(start: ResumePoint, folder: Path) -> None:
    """Take the name from damaged checkpoints, so that they do not push out the good one."""
    if start.damaged:
        for path in resumable_checkpoints(folder):
            if path == start.checkpoint:
                return
            path.replace(path.with_name(f"{path.name}.damaged"))


def _foreign(folder: Path) -> bool:
    """Whether the folder holds more than a run that ended before its first checkpoint."""
    if not folder.exists() or (folder / CONFIG).exists():
        return False
    return any(path.name not in (LOCK, JOB) for path in folder.iterdir())


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold a run's folder for this process alone; what the lock file has is for people.

    Raises:
        InputError: another process writes into the folder.
    """
    with _lock(folder) as file:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        for path in folder.iterdir():  # what a killed process was writing, see `write_bytes`
            if re.fullmatch(r"\..+\.\d+", path.name) and path.is_file():
                path.unlink()
        yield


def check_unlocked(folder: Path) -> None:
    """Refuse a folder that another process writes into; nothing is written.

    Raises:
        InputError: another process holds the lock.
    """
    if (folder / LOCK).exists():
        with _lock(folder):
            pass


@contextmanager
def _lock(folder: Path) -> Iterator[TextIO]:
    try:
        with exclusive_lock(folder / LOCK) as file:
            yield file
    except BlockingIOError as error:
        holder = (folder / LOCK).read_text() or "another process"
        raise InputError(
            f"{folder} is in use: {holder} writes into it. Wait for its end, or choose another "
            "folder with --run-dir DIR",
            field="--run-dir",
        ) from error


def resume_hint(folder: Path) -> str:
    """Return how to go on with a run, as part of a message."""
    if not resumable_checkpoints(folder):
        return "start anew, as nothing is saved yet"
    return f"continue with --run-dir {folder} --ckpt_path last"
