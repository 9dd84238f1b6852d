"""What an objective is: it turns a batch into a loss."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor, nn

from vitlab.data.batch import Batch
from vitlab.encoders import Encoder
from vitlab.optim.schedules import Progress

# gives training images of these indices with their labels, normalized and on the device, in batches
ImageReader = Callable[[Sequence[int]], Iterable[Batch]]


@dataclass(frozen=True)
class Loss:
    """A number to minimize and others to look at.

    Attributes:
        value: the loss, a mean over the images of the batch.
        logs: numbers worth a curve, by name; detached.
    """

    value: Float[Tensor, ""]
    logs: dict[str, Float[Tensor, ""]] = field(default_factory=dict)


class Objective(nn.Module, ABC):
    """Turns a batch into a loss; never logs, never sees the trainer.

    One step is: `loss` for each micro-batch, `before_step`, the optimizer, `after_step`.

    Attributes:
        out_dim: numbers the loss keeps for each crop, for the estimate of memory.
        num_classes: classes it learns from labels; 0 where it needs none.
        file_arguments: arguments that name files, which the run's checkpoints need no more.
        needs_masks: whether it asks for masks of what training images show.
    """

    out_dim: int = 0
    num_classes: int = 0
    file_arguments: tuple[str, ...] = ()
    needs_masks: bool = False

    @property
    @abstractmethod
    def encoder(self) -> Encoder:
        """The encoder to keep, probe and export."""

    @abstractmethod
    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Return the loss of one micro-batch."""

    def setup(self, read: ImageReader, count: int) -> str:
        """Look at the training images once, before the first step of a run that is new: at none.

        Args:
            read: gives them, not augmented, by index.
            count: how many there are.

        Returns:
            What was found, for the user; empty for nothing.

        Raises:
            ValueError: what was given, what is allowed, what to do.
        """
        return ""

    def before_step(self, progress: Progress) -> None:
        """Change gradients, which are already clipped, before the optimizer uses them."""

    def after_step(self, progress: Progress) -> None:
        """Follow up on the optimizer's step, with the progress that step began with."""

    def schedules(self, progress: Progress) -> dict[str, float]:
        """Return the values of this objective's schedules, for the logs and the plan."""
        return {}

    def classifiers(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """Return what makes logits of normalized images, by the name of its curves: none."""
        return {}

    def check_micro_batch(self, images: int) -> None:
        """Refuse micro-batches of so many images, before any work starts.

        Raises:
            ValueError: what was given, what is allowed, what to do.
        """

    def check_crops(self, crops: Iterable[tuple[int, int]]) -> None:
        """Refuse views this objective cannot use, before any work starts.

        Args:
            crops: number and size in pixels of the crops in each stack of a batch.

        Raises:
            ValueError: what was given, what is allowed, what to do.
        """
        for _, size in crops:
            self.encoder.check_img_size(size, "data.transform.size")
