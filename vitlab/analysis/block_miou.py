"""Which depth segments best: the dense probe on the output of every block.

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
from vitlab.probes.dense import Encode
from vitlab.probes.eval_mode import eval_mode
from vitlab.probes.layer_selection import LayerSelection, depth_of, extract_layers
from vitlab.probes.metrics import bootstrap_interval

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
    view: SegmentationTransform,
    images: int,
    loading: InferenceConfig,
    memory: int = MEMORY,
    tick: Callable[[], object] = lambda: None,
) -> list[Row]:
    """Return the mIoU of every block.

    One pass over each split serves as many blocks as fit into memory, see `groups`: all blocks of
    a ViT-S on VOC 2012 take two passes.

    Args:
        model: label of the rows.
        encoder: with blocks; of one without, the rows are of its only state.
        data: with masks.
        view: what images and masks become; images of one size.
        images: training images; 0 for all.
        loading: device, precision, batch and workers.
        memory: bytes that the tables of features may take.
        tick: called after every batch, for a progress bar of `batches` steps.

    Raises:
        ValueError: there are no masks or no labels, or features are not finite.
    """
    train, test = (
        data.segmentation_dataset(data.train_split, view, images),
        data.segmentation_dataset(data.val_split, view),
    )
    rows = []
    with eval_mode(encoder):
        for blocks in groups(encoder, train, data.num_classes, memory):
            dense = DenseProbe(data.num_classes)
            encode = _readings(encoder, blocks, loading)
            maps = dense.fit_all(encode, train, loading, lambda *_: tick())
            counts = dense.score_all(encode, maps, test, loading, lambda *_: tick())
            for block, overlaps in zip(blocks, counts, strict=True):
                low, high = bootstrap_interval(overlaps)
                rows.append(
                    Row(
                        *(model, BLOCK_MIOU.name, block, "", None, ""),
                        *(overlaps.value, low, high, len(overlaps)),
                    )
                )
    return rows


def groups(encoder: Encoder, train: Dataset, classes: int, memory: int = MEMORY) -> list[range]:
    """Return the blocks that share a pass, as few groups as fit into memory.

    Args:
        encoder: whose patches make a table of fp32 for each block.
        train: pairs of an image and a mask.
        classes: of the one table of targets.
        memory: bytes for the tables; one block at a time is the least.
    """
    image = train[0][0]
    patches = (image.shape[-2] // encoder.patch_size) * (image.shape[-1] // encoder.patch_size)
    rows = len(train) * patches  # type: ignore[arg-type]
    # while one is fitted, it is there twice: as it is, and standardized
    once = 4 * rows * encoder.embed_dim
    fit = max((memory - 4 * rows * classes) // once - 1, 1)
    depth = max(depth_of(encoder), 1)
    return [range(start, min(start + fit, depth)) for start in range(0, depth, fit)]


def batches(
    encoder: Encoder, data: VisionDataModule, view: SegmentationTransform, images: int, batch: int
) -> int:
    """Return how many batches `block_miou` takes, by default."""
    train, test = (
        data.segmentation_dataset(data.train_split, view, images),
        data.segmentation_dataset(data.val_split, view),
    )
    passes = len(groups(encoder, train, data.num_classes))
    return passes * (-(-len(train) // batch) + -(-len(test) // batch))


def _readings(encoder: Encoder, blocks: Sequence[int], loading: InferenceConfig) -> Encode:
    """Return what reads the patches after each of these blocks, by one pass."""

    def encode(pixels: Tensor) -> list[Tokens]:
        pixels = pixels.to(loading.device)
        if pixels.dtype == torch.uint8:
            pixels = normalize(pixels)
        with loading.precision():
            return extract_layers(encoder, pixels, [LayerSelection((block,)) for block in blocks])

    return encode
