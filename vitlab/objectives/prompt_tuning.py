"""Prompt tuning: learned prompts beside a frozen encoder, and a linear head.

"Visual Prompt Tuning" (arXiv:2203.12119) and "Token Coordinated Prompt Attention is Needed for
Visual Prompting" (TCPA, arXiv:2505.02406), whose recipe is the default. Where the code of TCPA
(zhoujiahuan1991/ICML2025-TCPA, dce8b3a) and its text could differ, this follows the code.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vitlab.data.batch import Batch
from vitlab.encoders import Encoder, PromptedViT, record
from vitlab.errors import InputError, check_fields
from vitlab.objectives.classification import Classification
from vitlab.objectives.mixup import Mixup, RandomErasing
from vitlab.objectives.objective import Loss
from vitlab.optim.schedules import Progress


@dataclass(frozen=True)
class KeyMatching:
    """Training of the keys of TCPA's pools; only for prompts with keys.

    Args:
        weight: of the matching loss: the sum over blocks and roles of the mean of 1 - cos(query,
            key) over the chosen entries, 0 to 4 for each block.
        random_fraction: first share of the run in which entries are drawn, not chosen; 10 of 100
            epochs in TCPA.
    """

    weight: float = 0.01
    random_fraction: float = 0.1

    def __post_init__(self) -> None:
        share = not 0 <= self.random_fraction <= 1, "is not in [0, 1]; TCPA uses 0.1"
        problems = {"weight": (self.weight < 0, "is negative; TCPA uses 0.01")}
        check_fields(self, "model.objective.matching.", problems | {"random_fraction": share})


class PromptTuning(Classification):
    """Classification by prompts and a linear head; the backbone does not change.

    loss = cross-entropy with mixed, smoothed targets + weight * matching loss. Without prompts it
    is a linear probe with the same recipe.

    Args:
        encoder: a `PromptedViT`: a frozen backbone with prompts.
        num_classes: of the training data, from which `vitlab fit` takes it.
        matching: training of the keys.
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
        if not isinstance(encoder, PromptedViT):
            raise InputError(
                f"PromptTuning trains prompts beside a frozen encoder and was given a "
                f"{type(encoder).__name__}; give PromptedViT with a backbone and prompts, or train "
                "the encoder itself with Classification",
                field="model.objective.encoder",
            )
        if matching != KeyMatching() and not encoder.prompts.matched:
            raise InputError(
                f"model.objective.matching {matching} would be ignored: no prompts are chosen by "
                "keys; leave it out, or give a pool with chosen entries",
                field="model.objective.matching",
            )
        super().__init__(
            encoder,
            num_classes,
            label_smoothing=label_smoothing,
            mixup=mixup,
            random_erasing=RandomErasing(0.0),
            ema_decay=0.0,
        )
        self.matching = matching

    def task_loss(self, logs: dict[str, Tensor]) -> Tensor:
        """Return a logged loss without the matching loss."""
        return logs["loss"] - self.matching.weight * logs.get("prompts/mismatch", 0.0)

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Return the loss of a micro-batch, with the matching loss in the logs."""
        encoder = self.encoder
        assert isinstance(encoder, PromptedViT)
        if not encoder.prompts.matched:
            return super().loss(batch, progress)
        encoder.draw(self.draws_at_random(progress))
        with record(encoder, "prompts.mismatch") as mismatches:
            loss = super().loss(batch, progress)
        mismatch = torch.stack(mismatches).sum()
        logs = {**loss.logs, "prompts/mismatch": mismatch.detach()}
        return Loss(loss.value + self.matching.weight * mismatch, logs)

    def draws_at_random(self, progress: Progress) -> bool:
        """Return whether this step belongs to the first share of the run."""
        return progress.step < round(self.matching.random_fraction * progress.steps)

    def schedules(self, progress: Progress) -> dict[str, float]:
        """Return whether entries are drawn (1) or chosen (0)."""
        assert isinstance(self.encoder, PromptedViT)
        if not self.encoder.prompts.matched:
            return {}
        return {"prompts/random": float(self.draws_at_random(progress))}
