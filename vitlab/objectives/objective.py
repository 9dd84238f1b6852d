"""`Objective`: a loss of a batch, with the parameters that it trains."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vitlab.data.batch import Batch
from vitlab.encoders import Encoder
from vitlab.errors import InputError
from vitlab.optim.schedules import Progress

# training images of these indices with their labels, normalized and on the device, in batches
ImageReader = Callable[[Sequence[int]], Iterable[Batch]]


@dataclass(frozen=True)
class Loss:
    """A loss and scalars for the logs.

    Attributes:
        value: mean over the images of the batch.
        logs: scalars by name; detached.
    """

    value: Float[Tensor, ""]
    logs: dict[str, Float[Tensor, ""]] = field(default_factory=dict)


@dataclass(frozen=True)
class SelfDistillation:
    """A student and its teacher at a step, for the collapse monitor.

    The loss of such an objective logs, of the teacher, "teacher/entropy" and "teacher/divergence"
    in nats, and "teacher/prototypes", the exponential of the entropy of its mean output.

    Attributes:
        student: is trained; its matrices are watched.
        teacher: has parameters of the same names.
        temperature: divides the teacher's logits.
        student_temperature: divides the student's logits.
        momentum: of the teacher's moving average, for this step.
        center_error: distance of the center from the mean logits, as a share of their norm.
    """

    student: nn.Module
    teacher: nn.Module
    temperature: float
    student_temperature: float
    momentum: float
    center_error: Tensor


class Objective(nn.Module, ABC):
    """A loss of a batch; independent of the trainer and its loggers.

    One step is: `loss` for each micro-batch, `before_step`, the optimizer, `after_step`.

    Attributes:
        encoder: the one to keep, probe and export; an attribute, or a property.
        out_dim: numbers the loss keeps for each crop, for the estimate of memory.
        num_classes: classes it learns from labels; 0 where it needs none.
        file_arguments: arguments that name files, which the run's checkpoints need no more.
        needs_masks: whether batches must have masks of the training images.
    """

    encoder: Encoder
    out_dim: int = 0
    num_classes: int = 0
    file_arguments: tuple[str, ...] = ()
    needs_masks: bool = False

    @abstractmethod
    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Return the loss of one micro-batch."""

    def setup(self, read: ImageReader, count: int) -> str:
        """Visit the training images once, before the first step of a new run.

        Args:
            read: gives them by index, not augmented.
            count: of the training images.

        Returns:
            A summary for the user; "" by default.

        Raises:
            InputError: the images do not suit the objective.
        """
        return ""

    @property
    def constant_loss(self) -> float | None:
        """Least loss of a constant prediction, in nats; None where it is not known.

        Classes, or prototypes, are taken to be equally frequent.
        """
        return None

    def task_loss(self, logs: dict[str, Tensor]) -> Tensor:
        """Return the part of a logged loss that a constant prediction cannot lower."""
        return logs["loss"]

    def distillation(self, progress: Progress) -> SelfDistillation | None:
        """Return student and teacher, where there are two, for the collapse monitor to watch."""
        return None

    def before_step(self, progress: Progress) -> None:
        """Change gradients, which are already clipped, before the optimizer uses them."""

    def after_step(self, progress: Progress) -> None:
        """Update what follows the optimizer's step, with the progress that the step began with."""

    def schedules(self, progress: Progress) -> dict[str, float]:
        """Return the values of this objective's schedules, for the logs and the plan."""
        return {}

    def classifiers(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """Return maps from normalized images to logits by the prefix of their logs, if any."""
        return {}

    def check_micro_batch(self, images: int) -> None:
        """Refuse a size of micro-batches before the run.

        Raises:
            InputError: the objective cannot use micro-batches of so many images.
        """

    def check_crops(self, crops: Iterable[tuple[int, int]]) -> None:
        """Refuse crops before the run.

        Args:
            crops: number and size in pixels of the crops in each stack of a batch.

        Raises:
            InputError: the objective cannot use them.
        """
        for _, size in crops:
            self.encoder.check_img_size(size, "data.transform.size")


def check_loss(objective: Objective, loss: object) -> None:
    """Refuse what a loss must not be.

    Raises:
        InputError: it is no `Loss` of a differentiable scalar, with scalars for the logs.
    """
    kind = type(objective).__qualname__
    problem = ""
    if not isinstance(loss, Loss):
        problem = f"returned {type(loss).__name__}; return vitlab.objectives.Loss(value, logs)"
    elif not isinstance(loss.value, Tensor) or loss.value.ndim:
        given = f"of shape {tuple(loss.value.shape)}" if isinstance(loss.value, Tensor) else ""
        problem = f"has a value {given or type(loss.value).__name__}; it must be a scalar tensor"
    elif not loss.value.requires_grad:
        problem = (
            "has a value without gradient; compute it from parameters that learn, not detached"
        )
    elif not isinstance(loss.logs, dict):
        problem = f"has {type(loss.logs).__name__} for logs; it must be scalar tensors by name"
    else:
        for name, x in loss.logs.items():
            if not isinstance(x, Tensor) or x.numel() != 1 or x.requires_grad:
                given = type(x).__name__
                if isinstance(x, Tensor):
                    given = f"a tensor of shape {tuple(x.shape)}" if x.ndim else "not detached"
                problem = f"logs {name!r}, {given}; it must be a detached scalar tensor"
    if problem:
        raise InputError(f"{kind}.loss {problem}", field="model.objective")


def find_encoders(objective: Objective) -> dict[str, dict[str, Any]]:
    """Return the encoders of an objective, as its checkpoints describe them.

    Returns:
        By name of the module that holds it, such as "teacher", or "" for the objective itself: the
        `prefix` of its tensors in a state dict, `class_path` and `init_args`.

    Raises:
        InputError: an encoder of the user's own has an argument that is no plain value.
    """
    found: dict[str, dict[str, Any]] = {}
    for path, module in objective.named_modules(prefix="objective"):
        prefixes = [each["prefix"] for each in found.values()]
        if isinstance(module, Encoder) and not path.startswith(tuple(prefixes)):
            *_, holder, own = path.split(".")
            name = "" if holder == "objective" else holder
            found[own if name in found else name] = {"prefix": f"{path}.", **module.spec()}
    return found
