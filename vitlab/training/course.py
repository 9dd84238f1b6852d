"""The way of the learning rate through a run."""

from dataclasses import dataclass
from typing import Literal

from vitlab.schedules import Progress, cosine


@dataclass(frozen=True)
class Course:
    """How the learning rate gets to its peak and from there to its end, step by step.

    Args:
        shape: after the warm-up, "cosine" is half a cosine (DINO, big_vision); "timm" is half a
            cosine as long as the whole run, whose ends the warm-up and the cooldown replace (DeiT);
            "linear" is a line that reaches the final rate with its last step (torch's OneCycleLR,
            LocAtViT).
        start: learning rate of the first step, whatever the batch.
        cooldown: last epochs of the run at the final rate.
        batch: images that the rate is stated for: the peak is rate x data.global_batch_size /
            batch. 0
            takes the rate as it is, whatever the batch.
    """

    shape: Literal["cosine", "timm", "linear"] = "cosine"
    start: float = 0.0
    cooldown: int = 0
    batch: int = 256

    def __post_init__(self) -> None:
        """Refuse what is no rate, no count of epochs, no batch."""
        for name in ("start", "cooldown", "batch"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"model.optimizer.course.{name} {getattr(self, name)} is negative; use 0 or "
                    "more"
                )

    def peak(self, rate: float, batch: int) -> float:
        """Return the highest learning rate for a batch of so many images."""
        return rate * batch / self.batch if self.batch else rate

    def __call__(self, progress: Progress, peak: float, final: float, warmup: int) -> float:
        """Return the learning rate of the step about to be taken.

        Args:
            progress: of the run.
            peak: highest learning rate.
            final: the one it ends at.
            warmup: epochs of linear increase from `start` to `peak`.
        """
        step, steps = progress.step, progress.steps - progress.steps_in(self.cooldown)
        rising = progress.steps_in(warmup)
        # the increase includes its last step, except where timm's does not
        last = max(rising - (self.shape != "timm"), 1)
        if step < rising:
            return self.start + (peak - self.start) * step / last
        if step >= steps:
            return final
        if self.shape == "linear":
            since = max(rising - 1, 0)
            return peak + (final - peak) * (step - since) / max(steps - 1 - since, 1)
        if self.shape == "timm":
            return cosine(peak, final, step, progress.steps)
        return cosine(peak, final, step - rising, steps - rising)
