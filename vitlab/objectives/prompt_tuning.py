"""Prompt tuning: the class of an image by prompts beside a frozen encoder, and a linear head.

"Visual Prompt Tuning" (arXiv:2203.12119) and "Token Coordinated Prompt Attention is Needed for
Visual Prompting" (TCPA, arXiv:2505.02406), whose recipe is the default. Where the code of TCPA
(zhoujiahuan1991/ICML2025-TCPA, dce8b3a) and its text could differ, this follows the code.

Axis letters: b images, c classes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vitlab.data.batch import Batch
from vitlab.encoders import Encoder, PromptedViT, record
from vitlab.objectives.classification import Classification
from vitlab.objectives.mixup import Mixup, RandomErasing
from vitlab.objectives.objective import Loss, Objective
from vitlab.optim.schedules import Progress


@dataclass(frozen=True)
class KeyMatching:
    """How the keys of TCPA's pools learn; without keys it must be left alone.

    Args:
        weight: of the matching loss: the sum over blocks and roles of the mean of 1 - cos(query,
            key) over what was chosen, 0 to 4 for each block.
        random_fraction: first share of the run in which entries are drawn, not chosen; 10 of 100 epochs.
    """

    weight: float = 0.01
    random_fraction: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what is no weight and no share."""
        if self.weight < 0:
            raise ValueError(f"matching.weight {self.weight} is negative; TCPA uses 0.01")
        if not 0 <= self.random_fraction <= 1:
            raise ValueError(
                f"matching.random_fraction {self.random_fraction} is no share of the run; use 0 to 1, TCPA uses 0.1"
            )


class PromptTuning(Objective):
    """Prompts and a linear head learn the class of each image; the backbone does not change.

    loss = cross-entropy with mixed, smoothed targets + weight * matching loss.

    Without prompts it is a linear probe with the same recipe.

    Args:
        encoder: a `PromptedViT`: a frozen backbone with prompts.
        num_classes: of the training data, from which `vitlab fit` takes it.
        matching: how the keys learn.
        label_smoothing: share of the target spread evenly over all classes.
        mixup: mixup of pairs in a micro-batch.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        matching: KeyMatching = KeyMatching(),
        label_smoothing: float = 0.1,
        mixup: Mixup = Mixup(0.8, 0.0, prob=0.5),  # noqa: B008
    ):
        super().__init__()
        if not isinstance(encoder, PromptedViT):
            raise ValueError(
                f"PromptTuning trains prompts beside a frozen encoder and was given a "
                f"{type(encoder).__name__}; give PromptedViT with a backbone and prompts, or train "
                "the encoder itself with Classification"
            )
        if matching != KeyMatching() and not encoder.prompts.matched:
            raise ValueError(
                f"model.objective.matching {matching} would be ignored: no prompts are chosen by "
                "keys; leave it out, or give a pool with chosen entries"
            )
        self.task = Classification(
            encoder,
            num_classes,
            label_smoothing=label_smoothing,
            mixup=mixup,
            random_erasing=RandomErasing(0.0),
            ema_decay=0.0,
        )
        self.num_classes, self.out_dim, self.matching = num_classes, self.task.out_dim, matching

    @property
    def encoder(self) -> PromptedViT:
        """The backbone with its prompts."""
        encoder = self.task.encoder
        assert isinstance(encoder, PromptedViT)
        return encoder

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Return the loss of a micro-batch, and the matching loss as a curve where there is one."""
        encoder = self.encoder
        if not encoder.prompts.matched:
            return self.task.loss(batch, progress)
        encoder.draw(self.random(progress))
        with record(encoder, "prompts.mismatch") as mismatches:
            loss = self.task.loss(batch, progress)
        mismatch = torch.stack(mismatches).sum()
        logs = {**loss.logs, "prompts/mismatch": mismatch.detach()}
        return Loss(loss.value + self.matching.weight * mismatch, logs)

    def random(self, progress: Progress) -> bool:
        """Return whether this step belongs to the first share of the run."""
        return progress.step < round(self.matching.random_fraction * progress.steps)

    def schedules(self, progress: Progress) -> dict[str, float]:
        """Return whether entries are drawn (1) or chosen (0)."""
        if not self.encoder.prompts.matched:
            return {}
        return {"prompts/random": float(self.random(progress))}

    def logits(self, images: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b c"]:
        """Return the logits of the classes of normalized images."""
        return self.task.logits(images)

    def classifiers(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """Return what to score on labeled images."""
        return self.task.classifiers()

    def check_crops(self, crops: Iterable[tuple[int, int]]) -> None:
        """Refuse image sizes the patches do not tile, and views with more than one crop."""
        self.task.check_crops(crops)

    def check_micro_batch(self, images: int) -> None:
        """Refuse micro-batches that cannot be mixed."""
        self.task.check_micro_batch(images)
