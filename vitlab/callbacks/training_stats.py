"""Statistics of a training step that show collapse or divergence, and cheap measures of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class TeacherStats:
    """Statistics of DINO's teacher; entropies in nats.

    Attributes:
        out_dim: prototypes of the head.
        entropy: mean over images; ln(out_dim) if it is uniform.
        divergence: of the student from the teacher, the mean over pairs of views; the loss is the
            sum of both.
        prototypes: in use: exp of the entropy of the mean over this rank's images.
        center_norm: L2 norm of the center.
        center_error: distance of the center from the mean logits of a step, as a share of their
            norm; the lowest of the last steps.
        temperature: of the teacher.
        student_temperature: of the student.
        momentum: share of the teacher that stays after a step.
        distance: of the teacher's weights from the student's, as a share of their norm.
        rank: RankMe of the teacher's [CLS] features of this rank's images; it cannot exceed
            their number.
        taken: share of its weights that all steps of the run together take from the student.
    """

    out_dim: int
    entropy: float
    divergence: float
    prototypes: float
    center_norm: float
    center_error: float
    temperature: float
    student_temperature: float
    momentum: float
    distance: float
    rank: float
    taken: float = 1.0


@dataclass(frozen=True)
class TrainingStats:
    """Statistics of a run at one step.

    Attributes:
        step: optimizer steps taken.
        steps: of the whole run.
        warm: whether the warm-up of the learning rate is over.
        loss: of the newest micro-batch.
        constant_loss: least loss of a constant prediction, see `Objective.constant_loss`.
        gradient: median norm of the gradient in the steps since the last check.
        spike: the largest of them.
        usual: median norm over the checks before; 0 at first.
        learning_rate: of the step.
        peak: the highest learning rate of the run.
        update: change of a weight matrix in the step as a share of its norm, the median over
            several; None where no matrix is trained.
        largest: the largest update at any check so far.
        mean: loss of the newest `RECENT` steps, the mean of one micro-batch of each, without what
            the keys of prompts add; None until there are as many behind the warm-up.
        teacher: of DINO; None for others.
        speed: share of their norm that the weights leave behind in a step, over the time that the
            teacher remembers; 0 without a teacher.
        fastest: the highest speed so far.
        best_rank: the highest `teacher.rank` so far.
    """

    step: int
    steps: int
    warm: bool
    loss: float
    constant_loss: float | None
    gradient: float
    spike: float
    usual: float
    learning_rate: float
    peak: float
    update: float | None
    largest: float = 0.0
    mean: float | None = None
    teacher: TeacherStats | None = None
    speed: float = 0.0
    fastest: float = 0.0
    best_rank: float = 0.0


def speed_of(teacher: TeacherStats, step: int) -> float:
    """Return the share of their norm that weights leave behind in a step.

    The teacher is an average over about 1 / (1 - momentum) steps. Unlike the size of a step, its
    distance from the student does not count what steps take back from each other.
    """
    return teacher.distance / max(1.0, min(step, 1 / max(1 - teacher.momentum, 1e-12)))


RECENT = 100  # steps, over which a loss is not the luck of a few small batches any more
MATRICES = 8  # of an encoder, evenly through its depth, stand for all of them


def watched_weights(module: nn.Module, count: int = MATRICES) -> list[tuple[str, nn.Parameter]]:
    """Return some of the matrices of linear maps that are trained, evenly through the module."""
    found = [
        (f"{name}.weight", weight)
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear)
        for weight in part.parameters(recurse=False)
        if weight.ndim == 2 and weight.requires_grad
    ]
    return found[:: max(1, -(-len(found) // count))]


def relative_change(before: Sequence[Tensor], now: Sequence[Tensor]) -> float | None:
    """Return ||now - before|| / ||before||, the median over matrices that are not 0."""
    shares = [(b - a).norm() / a.norm() for a, b in zip(before, now, strict=True) if bool(a.any())]
    return float(torch.stack(shares).median()) if shares else None
