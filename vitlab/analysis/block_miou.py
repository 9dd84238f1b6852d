"""The mIoU of a linear probe on the output of every block.

Axis letters: s patches of a set, d width, c classes.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vitlab.analysis.results import Measure, Row
from vitlab.data import SegmentationTransform, VisionDataModule, normalize
from vitlab.encoders import Encoder, Tokens
from vitlab.probes import DenseProbe, InferenceConfig
from vitlab.probes.features import eval_mode
from vitlab.probes.layer_selection import LayerSelection, extract_layers
from vitlab.probes.metrics import bootstrap_interval
from vitlab.progress import track

BLOCK_MIOU = Measure(
    "block_miou",
    "mIoU of a linear probe",
    "%",
    "A logistic regression on the patches after this block and the encoder's final norm, fitted on "
    "the training split (the dense probe of `vitlab fit`), scored on pixels of the other: one "
    "confusion matrix. The interval is a bootstrap over test images: a draw without "
    "any image of a rare class leaves it out, so the interval reaches further up than down.",
)
MEMORY = 4 * 2**30  # bytes that tables of features may take


def block_miou(
    model: str,
    encoder: Encoder,
    data: VisionDataModule,
    transform: SegmentationTransform,
    images: int,
    inference: InferenceConfig,
    memory: int = MEMORY,
) -> list[Row]:
    """Return the mIoU of every block, with a progress bar on standard error.

    One pass over each split serves as many blocks as fit into memory, see `group_blocks`: all
    blocks of a ViT-S on VOC 2012 take two passes.

    Args:
        model: label of the rows.
        encoder: with blocks; of one without, the row is of its output.
        data: with masks.
        transform: of images and masks; to images of one size.
        images: training images; 0 for all.
        inference: device, precision, batch size and loading processes.
        memory: bytes for the tables of features.

    Raises:
        InputError: there are no masks or no labels, or features are not finite.
    """
    train = data.segmentation_dataset(data.train_split, transform, images)
    test = data.segmentation_dataset(data.val_split, transform)
    passes = group_blocks(encoder, train, data.num_classes, memory)
    rows = []
    with eval_mode(encoder):
        for blocks in track(passes, f"mIoU of {model}"):
            probe = DenseProbe(data.num_classes)
            encode = _block_features(encoder, blocks, inference)
            maps = probe.fit(encode, train, inference)
            scores = probe.score(encode, maps, test, inference)
            for block, iou in zip(blocks, scores, strict=True):
                numbers = iou.value, *bootstrap_interval(iou), len(iou)
                rows.append(Row(model, BLOCK_MIOU.name, block, "", None, "", *numbers))
    return rows


def group_blocks(
    encoder: Encoder, train: Dataset, classes: int, memory: int = MEMORY
) -> list[range]:
    """Return the blocks that share a pass, as few groups as fit into so many bytes, or single ones.

    The patches make a table of fp32 for each block, beside one of targets with a column per class.
    """
    image = train[0][0]
    patches = (image.shape[-2] // encoder.patch_size) * (image.shape[-1] // encoder.patch_size)
    rows = len(train) * patches  # type: ignore[arg-type]
    # while one is fitted, it is there twice: as it is, and standardized
    once = 4 * rows * encoder.embed_dim
    fit = max((memory - 4 * rows * classes) // once - 1, 1)
    depth = max(encoder.count_blocks(), 1)
    return [range(start, min(start + fit, depth)) for start in range(0, depth, fit)]


def _block_features(
    encoder: Encoder, blocks: Sequence[int], inference: InferenceConfig
) -> Callable[[Tensor], list[Tokens]]:
    """Return a function from images to the patches after each of the blocks, in one pass."""
    layers = [LayerSelection((block,)) for block in blocks]

    def encode(pixels: Tensor) -> list[Tokens]:
        pixels = pixels.to(inference.device)
        if pixels.dtype == torch.uint8:
            pixels = normalize(pixels)
        with inference.precision():
            return extract_layers(encoder, pixels, layers)

    return encode
