"""Prediction in overlapping windows, for images larger than what an encoder was trained on.

Windows of 512 with stride 341, on images with a short side of 512, are how linear heads on DINOv2
(arXiv:2304.07193), DINOv3 (arXiv:2508.10104) and iBOT are tested; see `SegmentationWhole`.
"""

from collections.abc import Callable
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from vitlab.data.transforms.transform import check_sizes, refuse
from vitlab.errors import InputError


def windows(height: int, width: int, size: int, stride: int) -> list[tuple[int, int]]:
    """Top and left of each window, row by row; together they cover every pixel.

    Windows are `stride` apart, but the last of a row or column ends at the border, as in
    mmsegmentation. Where the image is smaller than `size`, so is the window: nothing is padded.
    All lengths are in pixels; `stride` is at most `size`.
    """
    check_sizes(height=height, width=width, size=size, stride=stride)
    message = f"leaves gaps between windows of {size}; use 1 to {size} pixels"
    refuse(stride > size, "stride", stride, message)
    tops, lefts = (
        [*range(0, max(side - size, 0), stride), max(side - size, 0)] for side in (height, width)
    )
    return list(product(tops, lefts))


def slide(
    predict: Callable[[Tensor], Tensor], image: Float[Tensor, "b 3 h w"], size: int, stride: int
) -> Float[Tensor, "b c h w"]:
    """Mean of the predictions of all windows that hold a pixel.

    One window is predicted at a time. The mean runs along, so that windows that agree give exactly
    what they agree on, and one window gives what `predict` returns; beside the result only a
    count and one window are held.

    Args:
        predict: logits or probabilities of a window, (b, 3, y, x) -> (b, c, y, x). DINOv3 averages
            probabilities, mmsegmentation and DINOv2 logits. Call under `torch.inference_mode`.
        image: the whole images, normalized.
        size: edge of a window, in pixels.
        stride: from one window to the next, in pixels; at most `size`.

    Returns:
        The mean in the predictions' precision, but at least in float32.
    """
    height, width = image.shape[-2:]
    for number, (top, left) in enumerate(windows(height, width, size, stride)):
        region = (..., slice(top, top + size), slice(left, left + size))
        predicted = predict(image[region])
        if predicted.shape[-2:] != image[region].shape[-2:]:
            got, wanted = (" x ".join(map(str, x.shape[-2:])) for x in (predicted, image[region]))
            raise InputError(
                f"predict gave {got} pixels for a window of {wanted}; enlarge its result to the "
                "window",
                field="predict",
            )
        if number == 0:
            precision = torch.promote_types(predicted.dtype, torch.float32)
            mean = predicted.new_zeros((*predicted.shape[:2], height, width), dtype=precision)
            count = mean.new_zeros((height, width))
        count[region] += 1
        change = predicted - mean[region]
        change.masked_fill_(predicted == mean[region], 0)  # infinite logits that agree, too
        mean[region] += change.div_(count[region])
    return mean
