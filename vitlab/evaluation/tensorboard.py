"""A result for TensorBoard, with its sheet of segmented test images."""

from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from vitlab.evaluation.result import Result

EVENTS = ".evaluation"  # ending of our TensorBoard files


def write_events(
    folder: Path, result: Result, picture: UInt8[Tensor, "3 h w"] | None = None
) -> None:
    """Write a result for TensorBoard: scores, IoU of each class, what made them, the sheet.

    Events of an earlier result in the folder are replaced.

    Args:
        folder: of the result.
        result: what to show.
        picture: its sheet.
    """
    for old in folder.glob(f"events.out.tfevents.*{EVENTS}"):
        old.unlink()
    place = f"{result.data.dataset}/{result.protocol.name}"
    with SummaryWriter(str(folder), filename_suffix=EVENTS) as writer:
        for name, score in result.scores.items():
            if score is not None:
                writer.add_scalar(f"{place}/{name}", score)
        for name, score in result.classes.items():
            if score is not None:
                writer.add_scalar(f"{place}/iou/{name}", score)
        low, high = result.interval
        changed = "".join(
            f"\n* changed: `{key}` {used} (published: {old})"
            for key, (old, used) in result.protocol.changed.items()
        )
        writer.add_text(
            place,
            f"{result.headline} {result.value:.2f} % [{low:.2f}, {high:.2f}]\n\n"
            f"* weights: `{result.weights.path}` {result.weights.hash}\n"
            f"* protocol: version {result.protocol.version}, hash {result.protocol.hash}{changed}\n"
            f"* data: {result.data.val}, fingerprint {result.data.fingerprint}",
        )
        if picture is not None:
            writer.add_image(f"{place}/predictions", picture)
