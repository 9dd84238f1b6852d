"""Loaders that do not hang, and the position of the training loader in a resumed run.

The only file that uses Lightning's loop counters, for which there is no public way.
"""

import os
import re
import shutil
from collections.abc import Iterator
from math import ceil
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import cv2
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from vitlab import signals
from vitlab.data.errors import DataError
from vitlab.data.sampler import BatchLayout, GlobalBatchSampler
from vitlab.errors import InputError

WORKER_TIMEOUT = 600.0  # seconds without a batch after which loading counts as hung
LATE = "no images have come: the file system does not answer, or the images are slow to read or to "
LATE += "transform; see to the disk of the data, or use more processes (--data.num_workers)"
SHARED = Path("/dev/shm")  # by which processes hand over batches
NO_ROOM = 28  # exit code of a process that could not: ENOSPC


class LoadingError(DataError):
    """The processes that load images are gone, or do not answer."""


class Loader(DataLoader[Any]):
    """A loader whose processes leave signals to their parent, and do not fail or hang in silence.

    It draws nothing from torch's global random numbers, and its order is that of its sampler.
    """

    def __init__(self, *of_loader: Any, num_workers: int = 0, **more: Any):
        own = {"num_workers": num_workers, "generator": torch.Generator()}
        if num_workers:
            own |= {"timeout": WORKER_TIMEOUT, "worker_init_fn": init_worker}
        super().__init__(*of_loader, **{**own, **more})

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yield batches, and tell what is waited for."""
        batches = super().__iter__()
        while True:
            signals.wait_for(LATE)
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                if not (reason := why_no_images(error)):
                    raise
                raise LoadingError(reason) from error
            finally:
                signals.wait_for("")
            yield batch


class ResumableLoader(Loader):
    """A loader that Lightning can resume within an epoch.

    It has no state of its own: its position follows from the number of optimizer steps in the
    trainer's checkpoint, see `resume`.
    """

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to load."""


def init_worker(worker: int) -> None:
    """Set up a worker: parallelism comes from the number of workers, not from each of them."""
    cv2.setNumThreads(0)
    signals.leave_to_parent(worker)
    # which would print a traceback and drop the batch, for which the parent waits
    Queue._on_queue_feeder_error = staticmethod(_not_handed_over)  # type: ignore[attr-defined]


def _not_handed_over(error: Exception, item: object) -> None:
    full = "No space left" in str(error)
    text = no_room() if full else f"a batch cannot be handed over: {error}"
    os.write(2, f"vitlab: {text}\n".encode())
    os._exit(NO_ROOM if full else 1)


def check_room(batch: int, num_workers: int) -> None:
    """Refuse a run whose processes could not hand over one batch each.

    Args:
        batch: bytes.
        num_workers: processes.

    Raises:
        InputError: the shared memory has not so much room.
    """
    if SHARED.exists() and batch * num_workers > shutil.disk_usage(SHARED).free:
        needed = f"{num_workers} processes hand over {batch / 2**20:,.1f} MiB each"
        raise InputError(f"{needed}, but {no_room()}", field="data.num_workers")


def no_room() -> str:
    """Return that processes cannot hand over their batches, and what to do."""
    size, free = (getattr(shutil.disk_usage(SHARED), name) / 2**20 for name in ("total", "free"))
    return (
        f"{SHARED}, by which processes hand over batches, is too small for them: {size:,.1f} MiB, "
        f"{free:,.1f} free; make it larger (docker run --shm-size 8g, mount -o remount,size=8g "
        f"{SHARED}), use fewer or smaller micro-batches, or load in the main process "
        "(--data.num_workers 0)"
    )


def set_accumulation(trainer: Trainer, layout: BatchLayout) -> None:
    """Make the trainer step after the micro-batches of a global batch."""
    model, needed = trainer.lightning_module, layout.accumulate_grad_batches
    if model is None or not model.automatic_optimization:
        return  # such a model decides by itself when to step
    if trainer.accumulate_grad_batches == 1:
        trainer.accumulate_grad_batches = needed
    if trainer.accumulate_grad_batches != needed:
        raise DataError(
            f"trainer.accumulate_grad_batches is {trainer.accumulate_grad_batches}, but "
            f"data.global_batch_size and micro_batch_size on {trainer.world_size} devices make "
            f"{needed} micro-batches; leave it out",
            field="trainer.accumulate_grad_batches",
        )


def limited(batches: int, limit: float) -> int:
    """Return the micro-batches of an epoch under the trainer's limit: a number, or a share."""
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def why_no_images(error: BaseException) -> str:
    """Return why images stopped coming, and what to do; "" for any other error."""
    if isinstance(error, LoadingError):
        return str(error)
    # of torch; its cause knows the signal or the code
    text = next((t for t in (str(error.__cause__), str(error)) if "DataLoader" in t), "")
    if "DataLoader timed out" in text:
        return (
            f"no images came for {WORKER_TIMEOUT / 60:.0f} minutes: a process that loads them "
            "hangs, most often as the file system does not answer; see to it"
        )
    if not re.search(r"DataLoader worker \(pid", text):
        return ""  # an error of the code that loads
    if re.search(rf"exit code {NO_ROOM}\b|Bus error", text):
        return no_room()
    remedy = "most often because memory ran out; use fewer of them (--data.num_workers)"
    if "exit code" in text:  # it has printed why
        remedy = "for the reason above; see to it"
    return f"a process that loads images is gone ({text.splitlines()[0]}), {remedy}"


def resume(batches: GlobalBatchSampler, trainer: Trainer) -> None:
    """Set the sampler, and Lightning's count of micro-batches, to the trainer's optimizer step.

    Lightning makes the first iterator before it calls `set_epoch`, so the position must be right
    from the start.
    """
    whole = len(batches)
    epoch_length = limited(whole, trainer.limit_train_batches)
    steps = ceil(epoch_length / batches.accumulate)
    if not steps:
        return
    epoch, done = divmod(trainer.global_step, steps)
    loop: Any = trainer.fit_loop
    progress = loop.epoch_loop.batch_progress
    within = loop.epoch_progress.current.processed == epoch - 1 and not progress.is_last_batch
    if not done and within:  # a checkpoint between the last batch and the end of its epoch
        epoch, done = epoch - 1, steps
    # an epoch that has had all its batches yields none of those a limit leaves out
    batches.resume(epoch, whole if done == steps else done * batches.accumulate)
    # The saved count is in micro-batches of the run that was stopped. With another number of ranks
    # or another micro_batch_size the epoch would otherwise end at the wrong step.
    if progress.current.ready:
        counted = min((done or steps) * batches.accumulate, epoch_length)
        begun = progress.current.ready - progress.current.completed  # 1 within a micro-batch
        progress.current.completed = counted - begun
        progress.current.ready = progress.current.started = progress.current.processed = counted
