"""The training loader, which can go on in the middle of an epoch."""

from math import ceil
from typing import Any

from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from vitlab.data.errors import DataError
from vitlab.data.sampler import BatchLayout, GlobalBatchSampler

WORKER_TIMEOUT = 600.0  # seconds without a batch after which its loading counts as hung


class Batches(DataLoader[Any]):
    """A loader that Lightning can resume inside an epoch.

    It needs no state of its own: its place follows from the number of optimizer steps taken,
    which the trainer's checkpoint holds and `resume` reads.
    """

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to load."""


def agree(trainer: Trainer, division: BatchLayout, batch_size: int, micro_batch_size: int) -> None:
    """Refuse a trainer that would step at other times than the batches say."""
    model = trainer.lightning_module
    if model is None or not model.automatic_optimization:
        return  # such a model decides by itself when to step
    if trainer.accumulate_grad_batches != division.accumulate_grad_batches:
        raise DataError(
            f"global_batch_size {batch_size} and micro_batch_size {micro_batch_size} on "
            f"{trainer.world_size} devices need {division.accumulate_grad_batches} micro-batches "
            "per "
            f"step, but the trainer accumulates {trainer.accumulate_grad_batches}; use "
            f"--trainer.accumulate_grad_batches {division.accumulate_grad_batches}"
        )


def resume(batches: GlobalBatchSampler, trainer: Trainer) -> None:
    """Set the batches to where a resumed trainer stands.

    Lightning makes the first iterator before it tells the sampler its epoch, so the place must
    be right from the start.
    """
    limit = trainer.limit_train_batches
    whole = len(batches)
    epoch_length = min(whole, limit) if isinstance(limit, int) else int(whole * limit)
    steps = ceil(epoch_length / batches.accumulate)
    if steps:
        epoch, done = divmod(trainer.global_step, steps)
        if not done and _epoch_is_open(trainer, epoch - 1):
            epoch, done = epoch - 1, steps
        # an epoch that has had all its batches yields none of those a limit leaves out
        batches.resume(epoch, whole if done == steps else done * batches.accumulate)
        _recount(trainer, min((done or steps) * batches.accumulate, epoch_length))


def _epoch_is_open(trainer: Trainer, epoch: int) -> bool:
    """Whether an epoch has had all its batches, and what follows them is still to come."""
    loop: Any = trainer.fit_loop
    return loop.epoch_progress.current.processed == epoch and not (
        loop.epoch_loop.batch_progress.is_last_batch
    )


def _recount(trainer: Trainer, done: int) -> None:
    """Have Lightning count the micro-batches of this division, not of the one that was stopped.

    Otherwise a run that goes on with more ranks or a larger `micro_batch_size` would end its epoch
    at the wrong step.
    """
    counted: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    if counted.ready:
        begun = counted.ready - counted.completed  # 1 if saved before the micro-batch had ended
        counted.completed = done - begun
        counted.ready = counted.started = counted.processed = done
