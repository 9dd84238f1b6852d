"""Which depth segments best: the dense probe on the output of every block.

Axis letters: s patches of a set, d width, c classes.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from vitlab import parallel
from vitlab.analysis.findings import Measure, Row
from vitlab.data import Data, SegmentationViews, normalize
from vitlab.encoders import Encoder, Tokens
from vitlab.probes import Dense, Loading
from vitlab.probes.dense import ALL_VOID, enlarge, patch_logits, stack_images
from vitlab.probes.evidence import Counting, Overlaps, interval
from vitlab.probes.finite import refuse_infinite
from vitlab.probes.freezing import frozen
from vitlab.probes.linear import LinearMap
from vitlab.probes.probe import share
from vitlab.probes.reading import Reading, depth_of, read

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
    data: Data,
    view: SegmentationViews,
    images: int,
    loading: Loading,
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
    train, test = data.segmented(data.train, view, images), data.segmented(data.val, view)
    rows = []
    with frozen(encoder):
        for blocks in groups(encoder, train, data.num_classes, memory):
            dense = Dense(data.num_classes)
            maps = _fit(dense, encoder, blocks, train, loading, tick)
            for block, overlaps in zip(
                blocks, _score(dense, encoder, blocks, maps, test, loading, tick), strict=True
            ):
                low, high = interval(overlaps)
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
    patches = (image.shape[-2] // encoder.patch) * (image.shape[-1] // encoder.patch)
    rows = len(train) * patches  # type: ignore[arg-type]
    # while one is fitted, it is there twice: as it is, and standardized
    once = 4 * rows * encoder.width
    fit = max((memory - 4 * rows * classes) // once - 1, 1)
    depth = max(depth_of(encoder), 1)
    return [range(start, min(start + fit, depth)) for start in range(0, depth, fit)]


def batches(encoder: Encoder, data: Data, view: SegmentationViews, images: int, batch: int) -> int:
    """Return how many batches `block_miou` takes, by default."""
    train, test = data.segmented(data.train, view, images), data.segmented(data.val, view)
    passes = len(groups(encoder, train, data.num_classes))
    return passes * (-(-len(train) // batch) + -(-len(test) // batch))


def _encode(
    encoder: Encoder, blocks: Sequence[int], pixels: Tensor, loading: Loading
) -> list[Tokens]:
    pixels = pixels.to(loading.device)
    if pixels.dtype == torch.uint8:
        pixels = normalize(pixels)
    with loading.precision():
        found = read(encoder, pixels, [Reading((block,)) for block in blocks])
    refuse_infinite(*(tokens.patches for tokens in found))
    return found


def _fit(
    dense: Dense,
    encoder: Encoder,
    blocks: Sequence[int],
    images: Dataset,
    loading: Loading,
    tick: Callable[[], object],
) -> list[LinearMap]:
    """Return the map of each block, as `Dense.fit` fits the one of the output."""
    rows: list[list[Tensor]] = [[] for _ in blocks]
    shares: list[Tensor] = []
    for pixels, masks in share(images, loading, stack_images):
        found = _encode(encoder, blocks, pixels, loading)
        for own, tokens in zip(rows, found, strict=True):
            own.append(tokens.patches.float())
        shares.append(torch.stack([dense.share_of_classes(m, found[0].grid) for m in masks]))
        tick()
    y = parallel.gather(torch.cat(shares).to(rows[0][0].device)).flatten(0, 1)
    labeled = y.sum(1) > 0
    if not labeled.any():
        raise ValueError(ALL_VOID)
    y = F.normalize(y[labeled], p=1, dim=1)
    maps = []
    while rows:  # each table makes room for the next
        x = parallel.gather(torch.cat(rows.pop(0))).flatten(0, 1)
        maps.append(LinearMap(x[labeled], y, dense.decay, dense.steps))
    return maps


def _score(
    dense: Dense,
    encoder: Encoder,
    blocks: Sequence[int],
    maps: Sequence[LinearMap],
    images: Dataset,
    loading: Loading,
    tick: Callable[[], object],
) -> list[Overlaps]:
    """Return the counts of each block, as `Dense.evaluate` counts those of the output."""
    counting = [Counting(dense.classes, loading.device) for _ in blocks]
    for pixels, masks in share(images, loading, stack_images):
        found = _encode(encoder, blocks, pixels, loading)
        for count, classify, tokens in zip(counting, maps, found, strict=True):
            for one, mask in zip(patch_logits(classify, tokens), masks, strict=True):
                count.update(enlarge(one, mask.shape).argmax(0), mask)
        tick()
    return [count.overlaps() for count in counting]
