"""Learning-rate schedules: warm-up, decay, cooldown.

`LRSchedule` is that of pretraining, from a learning rate to another one. The subclasses of
`LRFactor` are those of published recipes for heads on frozen features, as factors of a peak.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from vitlab.errors import InputError, check_least
from vitlab.optim.schedules import Progress, cosine


@dataclass(frozen=True)
class LRSchedule:
    """Linear warm-up to a peak, decay to a final learning rate, cooldown.

    Args:
        shape: of the decay. "cosine" is half a cosine from the end of the warm-up on (DINO,
            big_vision); "timm" is half a cosine as long as the whole run, whose ends the warm-up
            and the cooldown replace (DeiT); "linear" would have the final learning rate in the step
            after its last (LocAtViT).
        warmup_lr: learning rate of the first step, whatever the batch size.
        cooldown_epochs: last epochs of the run, at the final learning rate.
        base_batch_size: images that the learning rate is stated for: the peak is
            lr x global batch size / base_batch_size. 0 takes lr as it is.
    """

    shape: Literal["cosine", "timm", "linear"] = "cosine"
    warmup_lr: float = 0.0
    cooldown_epochs: int = 0
    base_batch_size: int = 256

    def __post_init__(self) -> None:
        least = {"warmup_lr": 0, "cooldown_epochs": 0, "base_batch_size": 0}
        check_least(self, "model.optimizer.lr_schedule.", least)

    def peak(self, lr: float, batch_size: int) -> float:
        """Return the highest learning rate for a global batch size."""
        return lr * batch_size / self.base_batch_size if self.base_batch_size else lr

    def __call__(self, progress: Progress, peak: float, final: float, warmup_epochs: int) -> float:
        """Return the learning rate of the step about to be taken, between `peak` and `final`."""
        step, steps = progress.step, progress.steps - progress.steps_in(self.cooldown_epochs)
        warmup = progress.steps_in(warmup_epochs)
        # DINO's increase includes the peak, those of timm and LocAtViT end one step before it
        last = max(warmup - (self.shape == "cosine"), 1)
        if step < warmup:
            return self.warmup_lr + (peak - self.warmup_lr) * step / last
        if step >= steps:
            return final
        if self.shape == "linear":
            return peak + (final - peak) * (step - warmup) / (steps - warmup)
        if self.shape == "timm":
            return cosine(peak, final, step, progress.steps)
        return cosine(peak, final, step - warmup, steps - warmup)


class LRFactor(ABC):
    """Learning rate of a step, as a factor of its peak."""

    @abstractmethod
    def __call__(self, progress: Progress) -> float:
        """Return the factor for the step about to be taken."""


@dataclass(frozen=True)
class WarmupPoly(LRFactor):
    """(1 - t)^power after a linear warm-up, as in mmsegmentation, DINOv2 and iBOT.

    The warm-up multiplies the decay, which runs from the first step: factor k at step s of w is
    1 - (1 - s / w) (1 - warmup_ratio).

    Args:
        power: of the decay; 1 is linear.
        warmup_steps: steps of warm-up.
        warmup_ratio: factor at the first step.
    """

    power: float = 1.0
    warmup_steps: int = 0
    warmup_ratio: float = 1e-6

    def __post_init__(self) -> None:
        _check_warmup(self.warmup_steps, self.warmup_ratio)

    def __call__(self, progress: Progress) -> float:
        """Return warm-up times decay."""
        decay = (1 - progress.step / progress.steps) ** self.power
        return decay * _warmup(progress.step, self.warmup_steps, self.warmup_ratio)


@dataclass(frozen=True)
class WarmupCosine(LRFactor):
    """DINOv3's one-cycle (arXiv:2508.10104): linear warm-up, then the rest of a cosine to 0.

    The cosine spans the whole run, of which the warm-up hides the beginning. Read from
    `dinov3/eval/segmentation/schedulers.py`. Departure: the learning rate of the first step is not
    used twice.

    Args:
        warmup_steps: steps of warm-up.
        warmup_ratio: factor at the first step.
    """

    warmup_steps: int = 0
    warmup_ratio: float = 1e-6

    def __post_init__(self) -> None:
        _check_warmup(self.warmup_steps, self.warmup_ratio)

    def __call__(self, progress: Progress) -> float:
        """Return the line before `warmup_steps`, the cosine after it."""
        step, steps = progress.step, progress.steps
        if step < self.warmup_steps:
            return (1 - step / steps) * _warmup(step, self.warmup_steps, self.warmup_ratio)
        return cosine(1, 0, step + 1, steps)


@dataclass(frozen=True)
class OneCycle(LRFactor):
    """torch's OneCycleLR: from 1 / div_factor up to 1, down to 1 / (div_factor final_div_factor).

    Args:
        pct_start: share of the steps that go up.
        div_factor: peak over the first learning rate.
        final_div_factor: first learning rate over the last.
        anneal_strategy: shape of both ways.
    """

    pct_start: float = 0.25
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    anneal_strategy: Literal["linear", "cos"] = "linear"

    def __post_init__(self) -> None:
        if not 0 < self.pct_start < 1:
            raise InputError(
                f"pct_start {self.pct_start} is no share; use a number in (0, 1)",
                field="protocol.recipe.lr_schedule",
            )

    def __call__(self, progress: Progress) -> float:
        """Return the way up or down."""
        top, last = self.pct_start * progress.steps - 1, progress.steps - 1
        first, end = 1 / self.div_factor, 1 / (self.div_factor * self.final_div_factor)
        if progress.step <= top:
            return self._between(first, 1, progress.step / top)
        return self._between(1, end, (progress.step - top) / max(last - top, 1e-9))

    def _between(self, start: float, end: float, t: float) -> float:
        if self.anneal_strategy == "cos":
            return cosine(start, end, t, 1)
        return start + (end - start) * t


@dataclass(frozen=True)
class MultiStep(LRFactor):
    """Constant, and multiplied by gamma at each milestone, as torch's MultiStepLR.

    Args:
        milestones: epochs (steps, where a recipe counts iterations) at which the factor changes.
        gamma: of each.
    """

    milestones: tuple[int, ...] = ()
    gamma: float = 0.1

    def __call__(self, progress: Progress) -> float:
        """Return gamma to the number of milestones passed."""
        return self.gamma ** sum(progress.epoch >= each for each in self.milestones)


@dataclass(frozen=True)
class CosineAnnealing(LRFactor):
    """Half a cosine from 1 to 0, without warm-up (DINO's and DINOv2's linear heads).

    Args:
        interval: whether the factor changes with every step or with every epoch.
    """

    interval: Literal["step", "epoch"] = "step"

    def __call__(self, progress: Progress) -> float:
        """Return the factor of the step, or of its epoch."""
        if self.interval == "epoch":
            return cosine(1, 0, progress.epoch / progress.epochs, 1)
        return cosine(1, 0, progress.step / progress.steps, 1)


def _warmup(step: int, steps: int, ratio: float) -> float:
    return 1 - (1 - step / steps) * (1 - ratio) if step < steps else 1.0


def _check_warmup(steps: int, ratio: float) -> None:
    if steps < 0 or not 0 <= ratio <= 1:
        raise InputError(
            f"warm-up of {steps} steps from {ratio}: use 0 or more steps, from a factor in [0, 1]",
            field="protocol.recipe.lr_schedule",
        )
