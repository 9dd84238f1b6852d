"""Recipe of head training: optimizer, schedule, length, and the order of the samples.

All of it is a function of settings, seed and step, so that a killed run resumes to the bit, and any
number of ranks takes the same steps.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Sampler

from vitlab import distributed
from vitlab.errors import InputError, check_least
from vitlab.optim.lr_schedule import LRFactor
from vitlab.optim.schedules import Progress

Select = Literal["last", "held out", "val"]
HELD_OUT = 10  # share of the training images for selection on held-out images: 1 / HELD_OUT


@dataclass(frozen=True)
class TrainingRecipe:
    """Settings of head training.

    Args:
        optimizer: AdamW with betas (0.9, 0.999), or SGD.
        lrs: peak learning rates, one head for each.
        lr_schedule: factor of the peak, by step.
        batch_size: images of one step.
        iterations: steps; or 0 to count epochs.
        epochs: passes over the training images; or 0 to count iterations.
        weight_decay: weight decay.
        momentum: of SGD.
        base_batch_size: images that lrs are stated for: they are multiplied by batch_size /
            base_batch_size; 0 takes them as they are.
        select: the reported head and evaluation: "last", the first head at the end; "held out",
            the best one on a tenth of the training images; "val", the best one on the reported
            images.
        eval_interval: iterations or epochs between evaluations for the selection; 0 for the end
            only.
    """

    lr_schedule: LRFactor
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lrs: tuple[float, ...] = (1e-3,)
    batch_size: int = 16
    iterations: int = 0
    epochs: int = 0
    weight_decay: float = 0.0
    momentum: float = 0.9
    base_batch_size: int = 0
    select: Select = "last"
    eval_interval: int = 0

    def __post_init__(self) -> None:
        if (self.iterations > 0) == (self.epochs > 0):
            raise InputError(
                f"iterations {self.iterations} and epochs {self.epochs}: give one of them a "
                "length, and leave the other 0",
                field="protocol.recipe.iterations",
            )
        if not self.lrs or min(self.lrs) <= 0 or len(set(self.lrs)) < len(self.lrs):
            raise InputError(
                f"lrs {self.lrs}: give distinct positive learning rates",
                field="protocol.recipe.lrs",
            )
        least = {"batch_size": 1, "eval_interval": 0, "base_batch_size": 0, "weight_decay": 0}
        check_least(self, "protocol.recipe.", least)

    def peak_lr(self, lr: float) -> float:
        """Return a learning rate for the batch size that is used."""
        return lr * self.batch_size / self.base_batch_size if self.base_batch_size else lr

    def steps_per_epoch(self, images: int) -> int:
        """Steps of one pass; images that fill no batch are left out."""
        return max(images // self.batch_size, 1)

    def steps(self, images: int) -> int:
        """Steps in all."""
        return self.iterations or self.epochs * self.steps_per_epoch(images)

    def interval(self, images: int) -> int:
        """Steps between evaluations; all of them if there is one at the end only."""
        unit = 1 if self.iterations else self.steps_per_epoch(images)
        return self.eval_interval * unit or self.steps(images)

    def holdout_split(self, images: int) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]:
        """Return the images to train on, and those held out: a tenth, by a fixed permutation.

        Raises:
            InputError: there are too few.
        """
        if self.select != "held out":
            return np.arange(images), np.arange(0)
        if images < 2:
            raise InputError(
                f"{images} training image cannot be split; select last or val, or use more images",
                field="protocol.recipe.select",
            )
        shuffled = np.random.default_rng(0).permutation(images)
        count = max(images // HELD_OUT, 1)
        return np.sort(shuffled[count:]), np.sort(shuffled[:count])

    def progress(self, step: int, images: int) -> Progress:
        """Progress for schedules; where iterations are counted, each is an epoch."""
        return Progress(step, self.steps(images), self.epochs or self.iterations, self.batch_size)


class StepSampler(Sampler[list[tuple[int, int]]]):
    """The samples of each step that one rank loads, as (visit, index).

    A step's batch is cut into chunks, the largest equal parts of at most `most` images, which ranks
    take in turn; a rank with one fewer than others repeats one of theirs, which is dropped after
    `distributed.all_gather_rows`. So a forward pass has the same images on any number of ranks. A
    visit is a pass over the images, in its own order.

    Args:
        indices: of the images that are trained on.
        recipe: batch and length.
        seed: of the order.
        most: images of one forward pass at most.
        rank: of this process.
        world: number of ranks.

    Attributes:
        start: the first step.
    """

    def __init__(
        self,
        indices: Int[np.ndarray, " n"],
        recipe: TrainingRecipe,
        seed: int,
        most: int,
        rank: int = 0,
        world: int = 1,
    ):
        self.indices, self.recipe, self.seed = indices, recipe, seed
        self.rank, self.world, self.start = rank, world, 0
        self.chunk = next(c for c in range(most, 0, -1) if recipe.batch_size % c == 0)
        self.chunks = recipe.batch_size // self.chunk
        self._order = lru_cache(maxsize=4)(self._permuted)

    def __len__(self) -> int:
        return self.recipe.steps(len(self.indices)) - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        mine = range(self.rank, -(-self.chunks // self.world) * self.world, self.world)
        starts = [chunk % self.chunks * self.chunk for chunk in mine]
        for step in range(self.start, self.recipe.steps(len(self.indices))):
            whole = self.batch(step)
            yield [place for start in starts for place in whole[start : start + self.chunk]]

    def gather(self, x: Tensor) -> Tensor:
        """Return the rows of the whole batch from those of each rank's chunks, in order."""
        if distributed.world_size() == 1:
            return x
        chunks = distributed.all_gather_rows(x.unflatten(0, (-1, self.chunk)).contiguous())
        return chunks[: self.chunks].flatten(0, 1)

    def batch(self, step: int) -> list[tuple[int, int]]:
        """The batch of a step, of all ranks."""
        n, size = len(self.indices), self.recipe.batch_size
        epoch, within = divmod(step, self.recipe.steps_per_epoch(n))
        visits = -(-size // n)  # more than one if a batch is larger than the set
        places = [divmod(at, n) for at in range(within * size, (within + 1) * size)]
        return [
            (epoch * visits + turn, int(self.indices[self._order(epoch * visits + turn)[place]]))
            for turn, place in places
        ]

    def _permuted(self, visit: int) -> Int[np.ndarray, " n"]:
        return np.random.default_rng([self.seed, visit]).permutation(len(self.indices))
