"""A sheet of segmented test images, and a result for TensorBoard.

Axis letters: h, w pixels of the sheet.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from vitlab.data.views.segmentation import IGNORE
from vitlab.data.voc import palette
from vitlab.evaluation.result import Result
from vitlab.recording import write_bytes

Picture = UInt8[Tensor, "3 h w"]

HEIGHT = 200  # pixels of a row
WIDEST = 2 * HEIGHT  # of a panel; wider images are made lower
GAP, MARGIN, LETTERS = 8, 16, 15  # pixels
NAMED = 40  # classes in the legend, the most frequent
# Okabe and Ito's blue and vermillion, which color-blind readers can tell apart; void is pale
RIGHT, WRONG, VOID = (0, 114, 178), (213, 94, 0), (224, 224, 192)
COLUMNS = ("image", "truth", "prediction", "errors")
EVENTS = ".evaluation"  # ending of our TensorBoard files


def sheet(
    images: Sequence[Tensor],
    truths: Sequence[Tensor],
    predictions: Sequence[Tensor],
    classes: Sequence[str],
) -> UInt8[Tensor, "3 h w"]:
    """Return a sheet with a row for each image: image, truth, prediction, errors; and a legend.

    Args:
        images: RGB, uint8 (3, height, width), each of its own size.
        truths: class of each pixel, (height, width) of its image; 255 is void.
        predictions: the same, without void.
        classes: name of each class.
    """
    assert len(images) == len(truths) == len(predictions) > 0
    rows = [_row(*each) for each in zip(images, truths, predictions, strict=True)]
    widths = [max(row[column].shape[2] for row in rows) for column in range(len(COLUMNS))]
    shown = _classes(truths, predictions, classes)
    font = _font(LETTERS)
    errors = [(RIGHT, "right"), (WRONG, "wrong"), (VOID, "void")]
    width = max(sum(widths) + 2 * MARGIN + GAP * (len(COLUMNS) - 1), 480)
    top = MARGIN + 2 * LETTERS
    heights = [row[0].shape[1] for row in rows]
    legend = _Legend([*errors, *shown], width - 2 * MARGIN, font)
    height = top + sum(heights) + GAP * len(rows) + legend.height + MARGIN
    paper = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(paper)
    left = [MARGIN + sum(widths[:column]) + GAP * column for column in range(len(COLUMNS))]
    for x, name in zip(left, COLUMNS, strict=True):
        pen.text((x, MARGIN), name, fill="black", font=font)
    y = top
    for row, tall in zip(rows, heights, strict=True):
        for x, panel in zip(left, row, strict=True):
            paper.paste(Image.fromarray(panel.permute(1, 2, 0).numpy()), (x, y))
        y += tall + GAP
    legend.draw(pen, MARGIN, y)
    pixels = torch.frombuffer(bytearray(paper.tobytes()), dtype=torch.uint8)
    return pixels.view(height, width, 3).permute(2, 0, 1).contiguous()


def write_png(path: Path, picture: UInt8[Tensor, "3 h w"]) -> None:
    """Write a picture at once or not at all."""
    file = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(file, "PNG", optimize=True)
    write_bytes(path, file.getvalue())


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


def _row(image: Tensor, truth: Tensor, prediction: Tensor) -> list[Tensor]:
    """Return the panels of an image, uint8 (3, height, width), all of one size."""
    tall, wide = truth.shape
    assert image.shape[1:] == truth.shape == prediction.shape, "a mask has its image's size"
    scale = min(HEIGHT / tall, WIDEST / wide)
    size = (max(1, round(tall * scale)), max(1, round(wide * scale)))
    photo = F.interpolate(
        image[None].cpu().float(), size, mode="bilinear", antialias=True, align_corners=False
    )
    truth, prediction = (
        F.interpolate(mask[None, None].cpu().float(), size, mode="nearest-exact")[0, 0].long()
        for mask in (truth, prediction)
    )
    colors = torch.from_numpy(palette())
    marks = torch.tensor([RIGHT, WRONG, VOID], dtype=torch.uint8)
    state = (prediction != truth).long().masked_fill(truth == IGNORE, 2)
    panels = [colors[truth], colors[prediction], marks[state]]
    first = photo[0].round().clamp(0, 255).to(torch.uint8)
    return [first, *(panel.permute(2, 0, 1) for panel in panels)]


def _classes(
    truths: Sequence[Tensor], predictions: Sequence[Tensor], classes: Sequence[str]
) -> list[tuple[tuple[int, ...], str]]:
    """Return color and name of the classes on the sheet, the most frequent where they are many."""
    count = torch.zeros(IGNORE + 1, dtype=torch.int64)
    for mask in [*truths, *predictions]:
        count += mask.cpu().flatten().long().bincount(minlength=IGNORE + 1)
    present = [index for index in range(len(classes)) if count[index] > 0]
    kept = sorted(sorted(present, key=lambda index: -int(count[index]))[:NAMED])
    colors = palette()
    named = [(tuple(map(int, colors[index])), classes[index]) for index in kept]
    left_out = len(present) - len(kept)
    return named + ([((255, 255, 255), f"and {left_out} more")] if left_out else [])


class _Legend:
    """Swatches with names, in lines of columns.

    Args:
        entries: color and name; the first three, of the errors, have a line of their own.
        width: of all, in pixels.
        font: of the names.
    """

    LINE = 22  # pixels

    def __init__(
        self,
        entries: Sequence[tuple[tuple[int, ...], str]],
        width: int,
        font: ImageFont.FreeTypeFont,
    ):
        self.entries, self.font = entries, font
        longest = max(font.getlength(name) for _, name in entries)
        self.step = int(min(longest + LETTERS + 24, width))
        self.columns = max(1, width // self.step)
        lines = 1 + -(-len(entries[3:]) // self.columns)
        self.height = GAP + lines * self.LINE

    def draw(self, pen: ImageDraw.ImageDraw, x: int, y: int) -> None:
        """Draw with the upper left corner at a pixel."""
        for place, (color, name) in enumerate(self.entries):
            line, column = (0, place) if place < 3 else divmod(place - 3, self.columns)
            line += place >= 3
            left = x + column * (max(self.step, 90) if line == 0 else self.step)
            top = y + GAP + line * self.LINE
            edge = "black" if name and color != (255, 255, 255) else "white"
            pen.rectangle([left, top, left + LETTERS, top + LETTERS], fill=color, outline=edge)
            pen.text((left + LETTERS + 6, top - 2), name, fill="black", font=self.font)


def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return the sans serif that matplotlib brings along: the same letters everywhere."""
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)
