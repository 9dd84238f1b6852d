"""Training of the probe heads, resumable at any step, and selection of their best states."""

import io
import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vitlab import distributed
from vitlab.atomic_io import write_bytes
from vitlab.errors import InputError
from vitlab.probes.dense import ALL_VOID
from vitlab.probes.linear_heads import HeadGrid, Logits

SECONDS = 120.0  # between saves
FILE = "heads.pt"


@dataclass(frozen=True)
class HeadBatch:
    """The data of one step.

    Attributes:
        features: of the whole batch, by name.
        backward: computes the loss of logits and its gradient.
        labeled: whether this batch or one before it has any label.
    """

    features: Mapping[str, Tensor]
    backward: Callable[[Logits], None]
    labeled: bool = True


@dataclass(frozen=True)
class BestState:
    """The best state of one head so far: its score in percent, steps taken, weights."""

    score: float
    step: int
    weights: dict[str, Tensor]


class HeadTraining:
    """Training state of the probe heads; resumable.

    Args:
        heads: to be trained.
        images: number of training images, the length of an epoch.
        folder: of the saved state; None saves none.
        key: digest of all that determines the weights; a state with another one is ignored.
    """

    def __init__(self, heads: HeadGrid, images: int, folder: Path | None, key: str):
        self.heads, self.images, self.key = heads, images, key
        self.file = None if folder is None else folder / FILE
        self.step = 0
        self.labeled = False  # whether there was any label so far
        self.tried: dict[str, float] = {}
        self.best: dict[str, BestState] = {}
        self._saved = time.monotonic()
        self._resume()

    def run(
        self, batches: Iterable[HeadBatch], evaluate: Callable[[], Mapping[str, float]] | None
    ) -> None:
        """Train to the end.

        Args:
            batches: from `step` on.
            evaluate: scores of all heads in percent, for the selection; None selects nothing.

        Raises:
            InputError: a pass over the images without any label, or no head with a score.
        """
        recipe = self.heads.recipe
        steps, interval = recipe.steps(self.images), recipe.interval(self.images)
        once = recipe.steps_per_epoch(self.images)
        for batch in batches:
            progress = recipe.progress(self.step, self.images)
            self.heads.step(batch.features, batch.backward, progress)
            self.step += 1
            self.labeled |= batch.labeled
            if not self.labeled and (self.step % once == 0 or self.step == steps):
                raise InputError(ALL_VOID, field="data")
            due = self.step % interval == 0 or self.step == steps
            if due and evaluate is not None:
                self._note(evaluate())
            if due or time.monotonic() - self._saved >= SECONDS:
                self._save()

    def keep_best(self) -> None:
        """Restore the best weights of every head."""
        for name, best in self.best.items():
            self.heads.modules[name].load_state_dict(best.weights)

    @property
    def chosen(self) -> str:
        """Name of the best head; the first of those that are equal."""
        return max(self.heads.names, key=lambda name: self.best[name].score)

    def label(self, name: str) -> str:
        """Name of the best state of a head in `tried`."""
        return self._label(name, self.best[name].step)

    def _label(self, name: str, step: int) -> str:
        recipe = self.heads.recipe
        alone = recipe.interval(self.images) >= recipe.steps(self.images)
        return name if alone else f"{name}, step {step}"

    def _note(self, scores: Mapping[str, float]) -> None:
        for name, score in scores.items():
            self.tried[self._label(name, self.step)] = score
            known = -1.0 if math.isnan(score) else score  # diverged
            if name not in self.best or known > self.best[name].score:
                self.best[name] = BestState(known, self.step, self.heads.weights(name))
        if all(best.score < 0 for best in self.best.values()):
            raise InputError(
                f"after {self.step} steps no head has a score to be chosen by: all have diverged, "
                f"or the images of the selection have no label; the learning rates are "
                f"{', '.join(f'{lr:g}' for lr in self.heads.recipe.lrs)}: give smaller ones, "
                "or check the masks with `vitlab data check`",
                field="protocol.recipe.lrs",
            )

    def _save(self) -> None:
        """Save the state, atomically."""
        self._saved = time.monotonic()
        if self.file is None or distributed.rank():
            return
        state = {
            "key": self.key,
            "step": self.step,
            "labeled": self.labeled,
            "heads": self.heads.state_dict(),
            "tried": self.tried,
            "best": {name: vars(best) for name, best in self.best.items()},
        }
        content = io.BytesIO()
        torch.save(state, content)
        write_bytes(self.file, content.getvalue())

    def _resume(self) -> None:
        """Restore the state of the same training, if there is one."""
        if self.file is None or not self.file.exists():
            return
        try:
            state = torch.load(self.file, map_location="cpu", weights_only=True)
            same = state["key"] == self.key
        except Exception as error:  # an empty, cut or foreign file can fail in any way
            warnings.warn(
                f"{self.file} is damaged ({type(error).__name__}), so heads are trained from the "
                "start",
                stacklevel=3,
            )
            return
        if same:
            self.step, self.tried, self.labeled = state["step"], state["tried"], state["labeled"]
            self.heads.load_state_dict(state["heads"])
            self.best = {name: BestState(**best) for name, best in state["best"].items()}
