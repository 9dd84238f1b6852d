"""Run directory: its checkpoints, its settings, its lock. One for each run, never overwritten."""

import os
import pickle
import platform
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import torch
from safetensors import SafetensorError

from vitlab.atomic_io import exclusive_lock
from vitlab.cluster.job import JOB_FOLDER as JOB
from vitlab.config_safety import flat, read_yaml
from vitlab.errors import InputError

CONFIG = "config.yaml"
LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"
KEPT = "checkpoints"  # folder of those kept besides
RESULTS = "results.json"
LOCK = ".lock"
# settings that decide which weights a run ends with; of the data, not those below
LEARNED = (
    *("seed_everything", "model", "data", "trainer.max_epochs", "trainer.precision"),
    *("trainer.limit_train_batches", "trainer.plugins"),
    *("trainer.sync_batchnorm", "trainer.min_epochs", "trainer.min_steps"),
)
FREE = tuple(
    f"data.init_args.{name}"
    for name in ("root", "num_workers", "micro_batch_size", "max_unreadable")
)
UNSET = "(unset)"


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
    finished, resumable = (folder / RESULTS).exists(), resumable_checkpoints(folder)
    if ckpt_path == "auto":
        if finished:
            return ResumePoint(finished=True)
        ckpt_path = "last" if resumable else None
    if ckpt_path is None:
        start = ResumePoint()
    else:
        start = _newest_readable(resumable if ckpt_path == "last" else [Path(ckpt_path)], folder)
    own = start.checkpoint is not None and folder.resolve() in start.checkpoint.resolve().parents
    holds = ""
    if finished:
        holds = "a finished run; to begin anew, or go on with more --trainer.max_epochs, choose"
    elif resumable and not own:
        holds = "an unfinished run; continue it with --ckpt_path last, or choose"
    elif ckpt_path is None and {path.name for path in folder.glob("*")} - {LOCK, JOB}:
        # a run that ended before its first checkpoint may be begun again
        holds = "" if (folder / CONFIG).exists() else "other files; choose"
    if holds:
        raise InputError(
            f"{folder}, which is never overwritten, already holds {holds} another folder with "
            "--run-dir DIR",
            field="--run-dir",
        )
    return start


def _newest_readable(checkpoints: Sequence[Path], folder: Path) -> ResumePoint:
    """Return the first checkpoint that can be read."""
    damaged: list[str] = []
    for path in checkpoints:
        if path.is_file():
            try:
                step = check_readable(path)
            except InputError as error:
                damaged.append(str(error))
            else:
                return ResumePoint(path, step, tuple(damaged))
    reason = f"there is no checkpoint {next(iter(checkpoints), folder / LAST)}; --ckpt_path takes "
    reason += f"'last' (the run's own, in {folder}), 'auto' (the same if there is one) or a file. "
    reason += "Leave it out to start anew"
    if damaged:
        reason = "\n  ".join(["no checkpoint of the run can be read:", *damaged])
    raise InputError(reason, field="--ckpt_path")


def check_readable(checkpoint: Path) -> int:
    """Refuse a checkpoint that is damaged, or holds anything but tensors and plain values.

    Its records carry checksums (CRC-32), which torch itself does not compare.

    Returns:
        The optimizer steps that it has taken.

    Raises:
        InputError: the file is damaged, or holds more than that.
    """
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            # as torch never writes it, and would take one marked as a folder to be empty
            if any(record.compress_type or record.external_attr for record in archive.infolist()):
                raise RuntimeError("its index is damaged")
            if record := archive.testzip():
                raise RuntimeError(f"its record {record} differs from its checksum")
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except (
        *(RuntimeError, EOFError, OSError, pickle.UnpicklingError, zipfile.BadZipFile),
        *(ValueError, NotImplementedError, KeyError),  # of the archive's index
        SafetensorError,  # which torch reads by the ending of the name
    ) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if isinstance(error, pickle.UnpicklingError):  # torch's words advise to run it
            found = re.search(r"GLOBAL (\S+)", str(error))
            reason = f"reading it would run {found[1]}" if found else "it holds more than values"
        raise InputError(
            f"the checkpoint {checkpoint} cannot be read safely: {reason}; it is damaged or from "
            "elsewhere. Continue from another one, such as best.ckpt",
            field="--ckpt_path",
        ) from error
    if not isinstance(content, dict) or "pytorch-lightning_version" not in content:
        raise InputError(
            f"{checkpoint} is not a checkpoint of `vitlab fit`, whose runs are all that "
            "--ckpt_path can continue",
            field="--ckpt_path",
        )
    return int(content["global_step"])


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
    old, now = dict(flat(began)), dict(flat(settings))
    changed = [
        f"{key} {now.get(key, UNSET)!r} instead of {old.get(key, UNSET)!r}"
        for key in dict.fromkeys((*old, *now))
        if now.get(key, UNSET) != old.get(key, UNSET)
        # the weights of a file, which may have moved, are in the checkpoint, or, of a frozen
        # backbone, their fingerprint
        if _within(key, LEARNED) and not _within(key, FREE) and not key.endswith(".path")
    ]
    if changed:
        raise InputError(
            f"the run in {folder} began with other settings: {'; '.join(changed[:5])}. Leave them "
            f"as they were, or begin another run from its weights with --run-dir DIR --ckpt_path "
            f"{folder / LAST}",
            field="config.yaml",
        )


def _within(key: str, names: Sequence[str]) -> bool:
    return any(f"{key}.".startswith(f"{name}.") for name in names)


def rename_damaged(start: ResumePoint, folder: Path) -> None:
    """Take the name from damaged checkpoints, so that they do not push out the good one."""
    if start.damaged:
        for path in resumable_checkpoints(folder):
            if path == start.checkpoint:
                return
            path.replace(path.with_name(f"{path.name}.damaged"))


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
