import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

from vitlab.data.transforms.sliding_window import slide, windows

lengths = st.integers(1, 40)


@st.composite
def layouts(draw):
    size = draw(lengths)
    return draw(lengths), draw(lengths), size, draw(st.integers(1, size))


def image(height, width, seed=0, images=2):
    return torch.randn(images, 3, height, width, generator=torch.Generator().manual_seed(seed))


def uneven(window):
    """A prediction that depends on where a pixel lies in its window, and on all its pixels."""
    height, width = window.shape[-2:]
    ramp = torch.arange(height)[:, None] - 0.5 * torch.arange(width)
    return torch.cat(
        [window * ramp, window.mean((1, 2, 3), keepdim=True) + ramp.expand(2, 1, -1, -1)], 1
    )


def by_pixels(predict, image, size, stride):
    """The mean by its definition, one pixel after the other, in double precision."""
    height, width = image.shape[-2:]
    boxes = windows(height, width, size, stride)
    outputs = [predict(image[..., t : t + size, left : left + size]) for t, left in boxes]
    mean = torch.empty(*outputs[0].shape[:2], height, width)
    for y in range(height):
        for x in range(width):
            values = [
                output[..., y - t, x - left].double()
                for (t, left), output in zip(boxes, outputs, strict=True)
                if t <= y < t + size and left <= x < left + size
            ]
            mean[..., y, x] = torch.stack(values).mean(0)
    return mean


def test_windows_are_those_of_the_published_protocol():
    assert windows(512, 512, 512, 341) == windows(20, 1, 512, 341) == [(0, 0)]
    assert windows(20, 700, 512, 341) == [(0, 0), (0, 188)]  # a small image: small windows
    assert windows(512, 683, 512, 341) == [(0, 0), (0, 171)]
    assert windows(512, 853, 512, 341) == [(0, 0), (0, 341)]
    assert windows(512, 854, 512, 341) == [(0, 0), (0, 341), (0, 342)]
    assert windows(600, 700, 512, 341) == [(0, 0), (0, 188), (88, 0), (88, 188)]
    assert [left for _, left in windows(512, 5120, 512, 341)][-2:] == [4433, 4608]


@given(layouts())
@settings(deadline=None)
def test_windows_cover_every_pixel_and_stay_inside(layout):
    height, width, size, stride = layout
    boxes = windows(*layout)
    count = torch.zeros(height, width)
    for top, left in boxes:
        assert 0 <= top <= max(height - size, 0)
        assert 0 <= left <= max(width - size, 0)
        count[top : top + size, left : left + size] += 1
    assert count.min() >= 1
    assert len(set(boxes)) == len(boxes)
    assert boxes == sorted(boxes)
    # no more than are needed
    assert len(boxes) == math.prod(
        math.ceil(max(side - size, 0) / stride) + 1 for side in (height, width)
    )


@given(layouts())
@settings(deadline=None)
def test_predictions_of_single_pixels_come_back_exactly(layout):
    pixels = image(*layout[:2])
    assert torch.equal(slide(lambda window: window, pixels, *layout[2:]), pixels)


@given(layouts(), st.floats(-1e6, 1e6, width=32))
@settings(deadline=None)
def test_a_constant_stays_constant(layout, value):
    def constant(window):
        return torch.full((2, 5, *window.shape[-2:]), value)

    result = slide(constant, image(*layout[:2]), *layout[2:])
    assert result.shape == (2, 5, *layout[:2])
    assert (result == value).all()


@given(layouts())
@settings(deadline=None, max_examples=40)
def test_the_mean_is_that_of_its_definition(layout):
    pixels = image(*layout[:2])
    expected = by_pixels(uneven, pixels, *layout[2:])
    torch.testing.assert_close(slide(uneven, pixels, *layout[2:]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(30, 40), (40, 30), (40, 40)])
def test_one_window_is_the_prediction_itself(size):
    pixels = image(*size)
    assert torch.equal(slide(uneven, pixels, 40, 27), uneven(pixels))


def test_half_precision_is_averaged_in_single_precision():
    pixels = image(50, 70).bfloat16()
    expected = slide(lambda window: window.float() * 3, pixels.float(), 20, 7)
    result = slide(lambda window: window.float() * 3, pixels, 20, 7)
    assert torch.equal(result, expected)
    result = slide(lambda window: window, pixels, 20, 7)
    assert result.dtype == torch.float32
    assert torch.equal(result, pixels.float())
    assert slide(lambda window: window.double(), pixels, 20, 7).dtype == torch.float64


def test_a_class_that_is_ruled_out_stays_so():
    def without_the_first(window):
        return torch.cat([torch.full_like(window[:, :1], -math.inf), window], 1)

    result = slide(without_the_first, image(50, 70), 20, 7)
    assert (result[:, 0] == -math.inf).all()
    assert torch.equal(result[:, 1:], image(50, 70))


def test_images_of_a_batch_do_not_mix():
    pixels = image(50, 70)
    together = slide(lambda window: window.cumsum(2), pixels, 20, 13)
    alone = [slide(lambda window: window.cumsum(2), one[None], 20, 13) for one in pixels]
    assert torch.equal(together, torch.cat(alone))


def test_wrong_lengths_and_predictions_are_refused():
    for name, lengths_given in (
        ("height", (0, 5, 4, 2)),
        ("width", (5, -1, 4, 2)),
        ("size", (5, 5, 0, 2)),
        ("stride", (5, 5, 4, 0)),
        ("stride", (5, 5, 4, 5)),
    ):
        with refused(name):
            windows(*lengths_given)
    with refused("stride"):
        slide(lambda window: window, image(4, 4), 224, 341)  # also where one window would do
    with refused("predict"):
        slide(lambda window: window[..., ::2, ::2], image(50, 70), 20, 13)
