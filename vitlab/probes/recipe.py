"""How heads are trained: optimizer, schedule, length, and the order of the samples.

All of it is a function of settings, seed and iteration, so that a run that was killed goes on as if
it had not been, and any number of ranks takes the same steps.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Int
from torch.utils.data import Sampler

from vitlab.schedules import Progress

Select = Literal["last", "held out", "val"]


class Schedule(ABC):
    """The learning rate of a step, as a factor of its peak."""

    @abstractmethod
    def __call__(self, progress: Progress) -> float:
        """Return the factor for the step about to be taken."""


class Poly(Schedule):
    """(1 - t)^power after a linear warm-up, as in mmsegmentation, DINOv2 and iBOT.

    The warm-up multiplies the decay, which runs from the first step: factor k at step s of w is
    1 - (1 - s / w) (1 - ratio).

    Args:
        power: of the decay; 1 is linear.
        warmup: steps of warm-up.
        ratio: factor at the first step.
    """

    def __init__(self, power: float = 1.0, warmup: int = 0, ratio: float = 1e-6):
        _check_warmup(warmup, ratio)
        self.power, self.warmup, self.ratio = power, warmup, ratio

    def __call__(self, progress: Progress) -> float:
        """Return warm-up times decay."""
        decay = (1 - progress.step / progress.steps) ** self.power
        return decay * _warm(progress.step, self.warmup, self.ratio)


class WarmCosine(Schedule):
    """DINOv3's one-cycle (arXiv:2508.10104): warm-up of a line, then what is left of a cosine.

    The cosine spans the whole run, of which the warm-up hides the beginning; it ends at 0. Read
    from `dinov3/eval/segmentation/schedulers.py`. Departure: the rate of the first step is not
    taken twice.

    Args:
        warmup: steps of warm-up.
        ratio: factor at the first step.
    """

    def __init__(self, warmup: int = 0, ratio: float = 1e-6):
        _check_warmup(warmup, ratio)
        self.warmup, self.ratio = warmup, ratio

    def __call__(self, progress: Progress) -> float:
        """Return the line before `warmup`, the cosine after it."""
        step, steps = progress.step, progress.steps
        if step < self.warmup:
            return (1 - step / steps) * _warm(step, self.warmup, self.ratio)
        return 0.5 * (1 + math.cos(math.pi * (step + 1) / steps))


class OneCycle(Schedule):
    """torch's OneCycleLR: up from 1 / div to 1, then down to 1 / (div final).

    Args:
        share: of the steps that go up.
        div: peak over the first rate.
        final: first rate over the last.
        anneal: shape of both ways.
    """

    def __init__(
        self,
        share: float = 0.25,
        div: float = 25.0,
        final: float = 1e4,
        anneal: Literal["linear", "cos"] = "linear",
    ):
        if not 0 < share < 1:
            raise ValueError(f"share {share} is no part of the steps; use a number in (0, 1)")
        self.share, self.div, self.final, self.anneal = share, div, final, anneal

    def __call__(self, progress: Progress) -> float:
        """Return the way up or down."""
        top, last = self.share * progress.steps - 1, progress.steps - 1
        first, end = 1 / self.div, 1 / (self.div * self.final)
        if progress.step <= top:
            return self._between(first, 1, progress.step / top)
        return self._between(1, end, (progress.step - top) / max(last - top, 1e-9))

    def _between(self, start: float, end: float, way: float) -> float:
        if self.anneal == "linear":
            return start + (end - start) * way
        return end + (start - end) / 2 * (1 + math.cos(math.pi * way))


class Steps(Schedule):
    """Constant, and multiplied by `factor` at each of some epochs.

    Args:
        at: epochs (steps, where a recipe counts iterations) from which a factor holds.
        factor: of each.
    """

    def __init__(self, at: tuple[int, ...] = (), factor: float = 0.1):
        self.at, self.factor = tuple(at), factor

    def __call__(self, progress: Progress) -> float:
        """Return the factor to the number of epochs passed."""
        return self.factor ** sum(progress.epoch >= at for at in self.at)


class HalfCosine(Schedule):
    """Half a cosine from 1 to 0, without warm-up (DINO's and DINOv2's linear heads).

    Args:
        by: whether it moves at every step, or holds for an epoch.
    """

    def __init__(self, by: Literal["step", "epoch"] = "step"):
        self.by = by

    def __call__(self, progress: Progress) -> float:
        """Return the factor of the step, or of its epoch."""
        way = progress.step / progress.steps
        if self.by == "epoch":
            way = progress.epoch / progress.epochs
        return 0.5 * (1 + math.cos(math.pi * way))


@dataclass(frozen=True)
class Recipe:
    """How heads are trained.

    Args:
        optimizer: AdamW with betas (0.9, 0.999), or SGD.
        rates: peak learning rates; each makes a head of its own.
        schedule: of their factor.
        batch: images of one step.
        iterations: steps; or 0 to count epochs.
        epochs: passes over the training images; or 0 to count iterations.
        decay: weight decay.
        momentum: of SGD.
        per: images to which the rates refer: they are multiplied by batch / per; 0 leaves them.
        select: which head, and which of its evaluations, makes the headline: "last" takes the
            first head as it ends, "held out" the best one on a tenth of the training images, "val"
            the best one on the images that are reported.
        every: iterations or epochs between evaluations for the selection; 0 for the end only.
    """

    schedule: Schedule
    optimizer: Literal["adamw", "sgd"] = "adamw"
    rates: tuple[float, ...] = (1e-3,)
    batch: int = 16
    iterations: int = 0
    epochs: int = 0
    decay: float = 0.0
    momentum: float = 0.9
    per: int = 0
    select: Select = "last"
    every: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if (self.iterations > 0) == (self.epochs > 0):
            raise ValueError(
                f"iterations {self.iterations} and epochs {self.epochs}: give one of them a "
                "length, and leave the other 0"
            )
        if not self.rates or min(self.rates) <= 0 or len(set(self.rates)) < len(self.rates):
            raise ValueError(f"rates {self.rates}: give distinct positive learning rates")
        if self.batch < 1 or min(self.every, self.per, self.decay) < 0:
            raise ValueError("batch must be 1 or more; every, per and decay 0 or more")

    def peak(self, rate: float) -> float:
        """Return a rate for the batch that is used."""
        return rate * self.batch / self.per if self.per else rate

    def steps_per_epoch(self, images: int) -> int:
        """Steps of one pass; images that fill no batch are left out."""
        return max(images // self.batch, 1)

    def steps(self, images: int) -> int:
        """Steps in all."""
        return self.iterations or self.epochs * self.steps_per_epoch(images)

    def interval(self, images: int) -> int:
        """Steps between evaluations; all of them if there is one at the end only."""
        unit = 1 if self.iterations else self.steps_per_epoch(images)
        return self.every * unit or self.steps(images)

    def progress(self, step: int, images: int) -> Progress:
        """What a schedule sees; where iterations are counted, each is an epoch of its own."""
        return Progress(step, self.steps(images), self.epochs or self.iterations, self.batch)


class Places(Sampler[list[tuple[int, int]]]):
    """The samples of each step that one rank loads, as (visit, index).

    A step's batch is cut into chunks, the largest equal parts of at most `most` images. They are
    dealt out to ranks in turn; a rank that gets one fewer than others takes one of theirs, which
    is dropped behind `parallel.gather`. So a forward pass sees the same images together on any
    number of ranks. A visit is a pass over the images, in its own order.

    Args:
        indices: of the images that are trained on.
        recipe: batch and length.
        seed: of the order.
        most: images of one forward pass at most.
        rank: which rank this is.
        world: number of ranks.
    """

    def __init__(
        self,
        indices: Int[np.ndarray, " n"],
        recipe: Recipe,
        seed: int,
        most: int,
        rank: int = 0,
        world: int = 1,
    ):
        self.indices, self.recipe, self.seed = indices, recipe, seed
        self.rank, self.world, self.start = rank, world, 0
        self.chunk = next(c for c in range(most, 0, -1) if recipe.batch % c == 0)
        self.chunks = recipe.batch // self.chunk
        self._order = lru_cache(maxsize=4)(self._permuted)

    def __len__(self) -> int:
        """Steps that are left."""
        return self.recipe.steps(len(self.indices)) - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        mine = range(self.rank, -(-self.chunks // self.world) * self.world, self.world)
        for step in range(self.start, self.recipe.steps(len(self.indices))):
            whole = self.batch(step)
            starts = [chunk % self.chunks * self.chunk for chunk in mine]
            yield [place for start in starts for place in whole[start : start + self.chunk]]

    def batch(self, step: int) -> list[tuple[int, int]]:
        """The whole batch of a step."""
        n = len(self.indices)
        epoch, within = divmod(step, self.recipe.steps_per_epoch(n))
        visits = -(-self.recipe.batch // n)  # more than one if a batch is larger than the set
        places = []
        for position in range(within * self.recipe.batch, (within + 1) * self.recipe.batch):
            visit = epoch * visits + position // n
            places.append((visit, int(self.indices[self._order(visit)[position % n]])))
        return places

    def _permuted(self, visit: int) -> Int[np.ndarray, " n"]:
        return np.random.default_rng([self.seed, visit]).permutation(len(self.indices))


def _warm(step: int, warmup: int, ratio: float) -> float:
    return 1 - (1 - step / warmup) * (1 - ratio) if step < warmup else 1.0


def _check_warmup(warmup: int, ratio: float) -> None:
    if warmup < 0 or not 0 <= ratio <= 1:
        raise ValueError(
            f"warm-up of {warmup} steps from {ratio}: use 0 or more steps, from a factor in [0, 1]"
        )
