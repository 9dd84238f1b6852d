"""The training loader, and its position in a resumed run.

The only file that uses Lightning's loop counters, for which there is no public way.
"""

from math import ceil
from typing import Any

import cv2
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from vitlab.data.errors import DataError
from vitlab.data.sampler import BatchLayout, GlobalBatchSampler
from vitlab.signals import leave_to_parent

WORKER_TIMEOUT = 600.0  # seconds without a batch after which loading counts as hung


class ResumableLoader(DataLoader[Any]):
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
    leave_to_parent(worker)


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


def resume(batches: GlobalBatchSampler, trainer: Trainer) -> None:
    """Set the sampler, and Lightning's count of micro-batches, to the trainer's optimizer step.

    Lightning makes the first iterator before it calls `set_epoch`, so the position must be right
    from the start.
    """
    limit = trainer.limit_train_batches
    whole = len(batches)
    epoch_length = min(whole, limit) if isinstance(limit, int) else int(whole * limit)
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
