import math

import pytest
import torch
from refusals import refused

from vitlab.data.transforms.sliding_window import slide, windows

PIXELS = torch.randn(2, 3, 50, 70, generator=torch.Generator().manual_seed(0))
LAYOUTS = [(1, 1, 1, 1), (5, 3, 8, 2), (40, 30, 40, 27), (13, 29, 7, 7), (31, 17, 9, 4)]


def test_windows_are_those_of_the_published_protocol():
    assert windows(512, 512, 512, 341) == windows(20, 1, 512, 341) == [(0, 0)]
    assert windows(20, 700, 512, 341) == [(0, 0), (0, 188)]  # a small image: small windows
    assert windows(512, 853, 512, 341) == [(0, 0), (0, 341)]
    assert windows(512, 854, 512, 341) == [(0, 0), (0, 341), (0, 342)]
    assert windows(600, 700, 512, 341) == [(0, 0), (0, 188), (88, 0), (88, 188)]
    assert [left for _, left in windows(512, 5120, 512, 341)][-2:] == [4433, 4608]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_result_is_the_mean_of_no_more_windows_than_needed(layout):
    """Of a prediction that depends on a pixel's place, on its window and on its image."""

    def predict(window):
        height, width = window.shape[-2:]
        ramp = torch.arange(height)[:, None] - 0.5 * torch.arange(width)
        mean = window.mean((1, 2, 3), keepdim=True)
        return torch.cat([window * ramp, mean + ramp.expand(2, 1, -1, -1)], 1)

    (height, width, size, stride), pixels = layout, PIXELS[..., : layout[0], : layout[1]]
    boxes = windows(*layout)
    assert boxes == sorted(set(boxes))
    counts = [math.ceil(max(side - size, 0) / stride) + 1 for side in (height, width)]
    assert len(boxes) == math.prod(counts)
    total, count = torch.zeros(2, 4, height, width).double(), torch.zeros(height, width)
    for top, left in boxes:
        place = (..., slice(top, top + size), slice(left, left + size))
        total[place] += predict(pixels[place])
        count[place] += 1
    assert count.min() >= 1
    found = slide(predict, pixels, size, stride)
    torch.testing.assert_close(found, (total / count).float(), rtol=1e-4, atol=1e-4)
    assert torch.equal(slide(lambda window: window, pixels, size, stride), pixels)


def test_half_precision_is_averaged_in_single_precision_and_infinite_logits_stay():
    half = PIXELS.bfloat16()
    expected = slide(lambda window: window.float() * 3, half.float(), 20, 7)
    assert torch.equal(slide(lambda window: window.float() * 3, half, 20, 7), expected)
    result = slide(lambda window: window, half, 20, 7)
    assert result.dtype == torch.float32
    assert torch.equal(result, half.float())
    assert slide(lambda window: window.double(), half, 20, 7).dtype == torch.float64

    def without_the_first(window):
        return torch.cat([torch.full_like(window[:, :1], -math.inf), window], 1)

    result = slide(without_the_first, PIXELS, 20, 7)
    assert (result[:, 0] == -math.inf).all()
    assert torch.equal(result[:, 1:], PIXELS)


def test_wrong_lengths_and_predictions_are_refused():
    for name, given in (
        ("height", (0, 5, 4, 2)),
        ("width", (5, -1, 4, 2)),
        ("size", (5, 5, 0, 2)),
        ("stride", (5, 5, 4, 0)),
        ("stride", (4, 4, 224, 341)),  # also where one window would do
    ):
        with refused(name):
            windows(*given)
    with refused("predict"):
        slide(lambda window: window[..., ::2, ::2], PIXELS, 20, 13)
