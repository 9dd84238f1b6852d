"""Values as functions of training progress: cosine and linear ramp."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Training progress; the only clock that objectives and optimizers see.

    Attributes:
        step: optimizer steps already taken, 0 <= step <= steps.
        steps: optimizer steps of the whole run, a multiple of epochs.
        epochs: passes over the training set in the whole run.
        batch_size: images of one optimizer step, over all devices and micro-batches.
    """

    step: int
    steps: int
    epochs: int
    batch_size: int

    @property
    def epoch(self) -> int:
        """Index of the running epoch, from 0."""
        return self.step * self.epochs // self.steps

    def steps_in(self, epochs: int) -> int:
        """Optimizer steps of a number of epochs."""
        return epochs * self.steps // self.epochs


def cosine(start: float, end: float, step: float, steps: float) -> float:
    """Half a cosine from `start` at step 0 to `end` at step `steps`."""
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * step / steps))


@dataclass(frozen=True)
class Cosine:
    """Half a cosine after a linear warm-up from 0, as in DINO (arXiv:2104.14294).

    The warm-up includes both ends: its last step and the next one, where the cosine begins, have
    the peak value. The last step of the run stops one short of `end`.

    Args:
        start: value at the top of the cosine.
        end: value the cosine approaches.
        warmup_epochs: epochs of linear increase from 0 to `start`.
    """

    start: float
    end: float
    warmup_epochs: int = 0

    def __call__(self, progress: Progress) -> float:
        """Return the value for the step about to be taken."""
        warmup = progress.steps_in(self.warmup_epochs)
        if progress.step < warmup:
            return self.start * progress.step / max(warmup - 1, 1)
        return cosine(self.start, self.end, progress.step - warmup, progress.steps - warmup)


@dataclass(frozen=True)
class Ramp:
    """A linear ramp over the first epochs, one value for each epoch, then constant.

    Both ends are included: with `epochs` 30, epoch 29 is the first one at `end`. With `epochs` 1,
    epoch 0 is at `start`, as in DINO.

    Args:
        start: value of epoch 0.
        end: value from epoch `epochs - 1` on.
        epochs: length of the ramp; 0 means `end` from the start.
    """

    start: float
    end: float
    epochs: int = 0

    def __call__(self, progress: Progress) -> float:
        """Return the value of the running epoch."""
        if progress.epoch >= max(self.epochs - 1, min(self.epochs, 1)):
            return self.end
        return self.start + (self.end - self.start) * progress.epoch / max(self.epochs - 1, 1)
