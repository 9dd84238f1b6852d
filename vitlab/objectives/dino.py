"""DINO: self-distillation without labels, by a student, a teacher and a center.

"Emerging Properties in Self-Supervised Vision Transformers" (arXiv:2104.14294), in the form of the
authors' code (facebookresearch/dino), whose numbers it reproduces.

Axis letters: v views, b images, k prototypes.
"""

import copy
import math
from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from vitlab import distributed
from vitlab.data.batch import Batch
from vitlab.encoders import Encoder
from vitlab.errors import InputError, check_least
from vitlab.objectives.dino_head import DINOHead, DINOHeadConfig
from vitlab.objectives.objective import Loss, Objective, SelfDistillation
from vitlab.optim.schedules import Progress, Ramp, cosine
from vitlab.precision import at_least_fp32


class DINO(Objective):
    """Cross-entropy of the student on all views with the teacher on the two global ones.

    The teacher is a moving average of the student; its output is centered and sharpened, against
    collapse to one prototype and to the uniform distribution.

    Args:
        encoder: student; the teacher starts as its copy, without drop path.
        head: shape of both heads.
        student_temperature: divides the student's logits.
        teacher_temperature: divides the teacher's centered logits, by epoch.
        momentum: decay of the teacher's moving average for one step, at the start of the run; rises
            to 1 along half a cosine.
        momentum_batch_size: images that momentum is stated for: at another batch size it becomes
            momentum^(batch size / momentum_batch_size), the same average over images
            (arXiv:2307.13813). 0 takes momentum as it is, as DINO at every batch size.
        centering: how the teacher is kept from one prototype: "mean" subtracts the moving average
            of its logits, as DINO; "sinkhorn_knopp" makes the prototypes equally frequent in each
            batch, over all ranks, as DINOv2 (arXiv:2304.07193), and bears a far sharper teacher.
            Micro-batches are balanced one by one.
        center_momentum: decay of the center's moving average for one step, of centering "mean".
        freeze_last_layer: epochs during which the prototypes do not change.
    """

    def __init__(
        self,
        encoder: Encoder,
        head: DINOHeadConfig = DINOHeadConfig(),  # noqa: B008
        student_temperature: float = 0.1,
        teacher_temperature: Ramp = Ramp(0.04, 0.04),  # noqa: B008
        momentum: float = 0.996,
        momentum_batch_size: int = 0,
        centering: Literal["mean", "sinkhorn_knopp"] = "mean",
        center_momentum: float = 0.9,
        freeze_last_layer: int = 1,
    ):
        super().__init__()
        if centering != "mean" and center_momentum != 0.9:
            raise InputError(
                f"center_momentum {center_momentum} has no effect with centering {centering}; "
                "leave it out, or set centering to mean",
                field="model.objective.center_momentum",
            )
        if not 0 <= momentum <= 1:
            raise InputError(
                f"momentum {momentum} is not in [0, 1]; DINO uses 0.996",
                field="model.objective.momentum",
            )
        self.student = Branch(encoder, head)
        # at once: Lightning does not change the modes of modules
        self.teacher = copy.deepcopy(self.student).requires_grad_(False).eval()
        self.student_temperature = student_temperature
        self.teacher_temperature = teacher_temperature
        self.momentum, self.momentum_batch_size = momentum, momentum_batch_size
        check_least(self, "model.objective.", {"momentum_batch_size": 0})
        self.centering, self.center_momentum = centering, center_momentum
        self.freeze_last_layer = freeze_last_layer
        self.out_dim = head.out_dim
        self.register_buffer("center", torch.zeros(1, head.out_dim))
        self.center: Tensor
        # distance of the center from the mean logits of the last step, as a share of their norm
        self.center_error = torch.zeros(())
        self.mean_logits: list[Tensor] = []  # of the teacher, of each micro-batch of this step

    @property
    def encoder(self) -> Encoder:  # type: ignore[override]
        """The teacher's: better than the student's throughout training."""
        return self.teacher.encoder

    def train(self, mode: bool = True) -> "DINO":
        """Set the student's mode; the teacher is always in evaluation mode, without drop path."""
        super().train(mode)
        self.teacher.eval()
        return self

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Return the mean cross-entropy over all pairs of a teacher view and another view."""
        with torch.no_grad():
            target = at_least_fp32(self.teacher(batch.views[:1]))
        output = at_least_fp32(self.student(batch.views))
        if self.training and self.centering == "mean":  # held-out images do not move the center
            self.mean_logits.append(target.mean(dim=(0, 1))[None])
        temperature = self.teacher_temperature(progress)
        if self.centering == "mean":
            teacher = F.softmax((target - self.center) / temperature, dim=-1)
        else:
            teacher = sinkhorn_knopp(target.flatten(0, 1) / temperature).view_as(target)
        student = F.log_softmax(output / self.student_temperature, dim=-1)
        value = cross_entropy(student, teacher)
        entropy_of_teacher = entropy(teacher).mean()
        logs = {
            "teacher/entropy": entropy_of_teacher,
            "teacher/divergence": value.detach() - entropy_of_teacher,
            "teacher/center_norm": self.center.norm(),
            "teacher/prototypes": entropy(teacher.mean((0, 1))).exp(),
        }
        return Loss(value, logs)

    def before_step(self, progress: Progress) -> None:
        """Freeze the prototypes in the first epochs, without weight decay either."""
        if progress.epoch < self.freeze_last_layer:
            for parameter in self.student.head.last_layer.parameters():
                parameter.grad = None

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        """Update the center and the teacher."""
        if self.centering == "mean":
            mean = distributed.all_reduce_mean(torch.stack(self.mean_logits).mean(0))
            self.center_error = (mean - self.center).norm() / mean.norm()
            self.center.lerp_(mean, 1 - self.center_momentum)
            self.mean_logits.clear()
        update = get_ema_multi_avg_fn(self.teacher_momentum(progress))
        update(list(self.teacher.parameters()), list(self.student.parameters()), None)

    @property
    def constant_loss(self) -> float:
        """Least loss of a constant prediction: the uniform one."""
        return math.log(self.out_dim)

    def teacher_momentum(self, progress: Progress) -> float:
        """Return the decay of the teacher's moving average for this step."""
        momentum = cosine(self.momentum, 1.0, progress.step, progress.steps)
        stated_for = self.momentum_batch_size or progress.batch_size
        return momentum ** (progress.batch_size / stated_for)

    def distillation(self, progress: Progress) -> SelfDistillation:
        """Return student and teacher."""
        return SelfDistillation(
            self.student,
            self.teacher,
            temperature=self.teacher_temperature(progress),
            student_temperature=self.student_temperature,
            momentum=self.teacher_momentum(progress),
            center_error=self.center_error,
        )

    def schedules(self, progress: Progress) -> dict[str, float]:
        """Return the teacher's momentum and temperature."""
        return {
            "teacher/momentum": self.teacher_momentum(progress),
            "teacher/temperature": self.teacher_temperature(progress),
        }

    def check_crops(self, crops: Iterable[tuple[int, int]]) -> None:
        """Refuse image sizes that patches do not tile, and crops without a pair of global ones."""
        (count, size), *local_crops = crops
        self.encoder.check_img_size(size, "data.transform.size")
        for _, local_size in local_crops:
            self.encoder.check_img_size(local_size, "data.transform.local_size")
        if count != 2:
            raise InputError(
                f"data.transform makes {count} global crops and DINO needs 2; use MultiCrop",
                field="data.transform",
            )


class Branch(nn.Module):
    """An encoder with its head."""

    def __init__(self, encoder: Encoder, head: DINOHeadConfig):
        super().__init__()
        self.encoder = encoder
        self.head = DINOHead(encoder.embed_dim, head)

    def forward(self, views: list[Float[Tensor, "_ b 3 _ _"]]) -> Float[Tensor, "v b k"]:
        """Return logits of all views; one pass for each resolution, the head once for all."""
        cls = [self.encoder(stack.flatten(0, 1)).cls for stack in views]
        return self.head(torch.cat(cls)).unflatten(0, (-1, views[0].shape[1]))


def entropy(probabilities: Float[Tensor, "*rows k"]) -> Float[Tensor, "*rows"]:
    """Return the entropy of each row in nats, from 0 to ln k."""
    return -torch.special.xlogy(probabilities, probabilities).sum(-1)


def sinkhorn_knopp(logits: Float[Tensor, "n k"], iterations: int = 3) -> Float[Tensor, "n k"]:
    """Return probabilities of n outputs that use all k prototypes about equally.

    Alternates between equal sums over all outputs of all ranks for each prototype, and a sum of 1
    for each output (arXiv:2006.09882). In logarithms, so that no temperature is too low.
    """
    for _ in range(iterations):
        sums = distributed.all_gather_rows(logits.logsumexp(0, keepdim=True))
        logits = logits - sums.logsumexp(0)
        logits = logits - logits.logsumexp(1, keepdim=True)
    return logits.exp()


def cross_entropy(
    student: Float[Tensor, "v b k"], teacher: Float[Tensor, "w b k"]
) -> Float[Tensor, ""]:
    """Return the mean of -sum_k teacher_q student_v over all pairs of views q != v.

    From log-probabilities of all views and probabilities of the first w. The sum over pairs is one
    product of sums, less the products of each view with itself; the authors' code loops over them.
    """
    v, w = len(student), len(teacher)
    every_pair = (teacher.sum(0) * student.sum(0)).sum(-1)
    same_view = (teacher * student[:w]).sum((0, -1))
    return -(every_pair - same_view).mean() / (v * w - w)
