import colorsys
import math

import numpy as np
import pytest
import torch
from refusals import refused
from scipy import stats

from vitlab.data.transforms import (
    SegmentationCrop,
    SegmentationRandomResizedCrop,
    SegmentationWhole,
)
from vitlab.data.transforms.segmentation import FILL, IGNORE_INDEX
from vitlab.data.transforms.segmentation_crop import distorted

PLAIN = {"cat_max_ratio": 1.0, "flip": 0.0, "photometric": False}
SEEDS = range(30)


def grid(rows, columns, cell=9, classes=8):
    """A drawn grid: the bits of a cell's class are its red, green and blue, dark or bright."""
    shape = (rows // cell + 1, columns // cell + 1)
    cells = np.random.default_rng(0).integers(0, classes, shape, dtype=np.uint8)
    mask = cells.repeat(cell, 0).repeat(cell, 1)[:rows, :columns]
    return paint(mask), mask


def paint(mask):
    bits = np.stack([mask >> bit & 1 for bit in range(3)], axis=-1)
    return np.where(bits == 1, 215, 40).astype(np.uint8)


def decode(image):
    """The class that each color stands for; a blurred border has its middle where it was drawn."""
    return sum((image[bit].numpy() > 127).astype(np.uint8) << bit for bit in range(3))


def coordinates(rows, columns):
    """An image whose red is its row and green its column, and a mask that follows from both."""
    down, across = np.mgrid[:rows, :columns].astype(np.uint8)
    image = np.stack([down, across, np.zeros_like(down)], axis=-1)
    return image, (7 * down + 13 * across) % 150


@pytest.mark.parametrize(("old", "new"), [(60, 13), (60, 201), (61, 60), (61, 120)])
def test_resampled_borders_of_image_and_mask_agree_to_the_pixel(old, new):
    cell = 20
    # stripes along the long side, so that no corner blurs
    mask = np.tile((np.arange(old) // cell % 2 * 7).astype(np.uint8)[:, None], (1, old))
    view = SegmentationCrop(new, new, (1.0, 1.0), **PLAIN)(paint(mask), mask, 0)
    got, expected = decode(view.image), view.mask.numpy()
    assert (expected == expected[:, :1]).all()
    centers = (np.arange(new) + 0.5) * old / new
    # a center on a border belongs to both of its sides
    near = np.abs(centers / cell - np.round(centers / cell)) * cell < 0.03
    assert (got == expected)[~near].all()
    assert near.sum() <= old // cell + 1


def test_at_scale_one_each_pixel_keeps_its_values():
    image, mask = coordinates(70, 110)
    views = SegmentationCrop(40, 70, (1.0, 1.0), cat_max_ratio=0.75, photometric=False)
    corners, flips = set(), 0
    for seed in range(200):
        view = views(image, mask, seed)
        rows, columns = view.image[:2].numpy().astype(int)
        assert (view.mask.numpy() == mask[rows, columns]).all()
        step = columns[0, 1] - columns[0, 0]
        assert (np.diff(columns, axis=1) == step).all()
        assert (np.diff(rows, axis=0) == 1).all()
        corners.add((rows[0, 0], columns.min()))
        flips += step == -1
    (low_top, low_left), (top, left) = np.min([*corners], 0), np.max([*corners], 0)
    assert low_top <= 1
    assert low_left <= 2
    assert top >= 29  # of 30
    assert left >= 68  # of 70
    assert stats.binomtest(flips, 200).pvalue > 1e-6


def test_what_is_missing_is_the_mean_color_without_a_label():
    image, mask = grid(20, 30)
    view = SegmentationCrop(48, 20, (1.0, 1.0), cat_max_ratio=1.0, flip=1.0)(image, mask, 3)
    assert FILL == (124, 116, 104)
    outside = torch.ones(48, 48, dtype=torch.bool)
    outside[:20, :30] = False
    assert (view.mask[outside] == IGNORE_INDEX).all()
    assert (view.image[:, outside] == torch.tensor(FILL)[:, None]).all()
    assert (view.mask[:20, :30].numpy() == mask[:, ::-1]).all()


def test_the_short_side_is_drawn_evenly_from_its_range():
    image, mask = grid(40, 50)
    views = SegmentationCrop(300, 100, **PLAIN)
    shown = [views(image, mask, seed).mask != IGNORE_INDEX for seed in range(300)]
    rows = np.array([each.any(1).sum() for each in shown])
    columns = np.array([each.any(0).sum() for each in shown])
    assert stats.kstest(rows, stats.uniform(50, 150).cdf).pvalue > 1e-6
    assert 50 <= rows.min() <= 53
    assert 196 <= rows.max() <= 200
    assert (abs(columns - rows * 1.25) <= 0.5).all()


@pytest.mark.parametrize(
    ("size", "aspect", "expected"),
    [
        ((200, 2000), 4.0, (20, 204)),  # the long side ends at 4 times 51
        ((2000, 200), 4.0, (204, 20)),
        ((200, 2000), math.inf, (51, 510)),
        ((37, 50), 4.0, (51, 69)),
        ((1, 900), 4.0, (1, 204)),
    ],
)
def test_wide_images_keep_their_shape(size, aspect, expected):
    image, mask = grid(*size)
    view = SegmentationWhole(51, aspect)(image, mask)
    assert view.image.shape == (3, *expected)
    assert (view.mask.numpy() == mask).all()
    view = SegmentationCrop(510, 51, (1.0, 1.0), max_aspect_ratio=aspect, **PLAIN)(image, mask)
    shown = view.mask != IGNORE_INDEX
    assert (shown.any(1).sum(), shown.any(0).sum()) == expected


def test_a_strip_that_would_fill_the_memory_is_refused():
    image, mask = np.zeros((1, 2000, 3), np.uint8), np.zeros((1, 2000), np.uint8)
    for views in (SegmentationCrop(), SegmentationWhole()):
        with refused("max_aspect_ratio"):
            views(image, mask)
    assert SegmentationCrop(max_aspect_ratio=4)(image, mask).mask.shape == (512, 512)


@pytest.mark.parametrize(("share", "tries"), [(0.75, 11), (1.0, 1)])
def test_crops_with_too_much_of_a_class_are_drawn_again_ten_times(share, tries):
    mask = np.zeros((20, 200), np.uint8)
    mask[:, 180:] = 1
    views = SegmentationCrop(20, 20, (1.0, 1.0), share, flip=0.0, photometric=False)
    ones = [(views(paint(mask), mask, seed).mask[0] == 1).sum().item() for seed in range(400)]
    accepted = sum(6 <= count <= 14 for count in ones)
    assert stats.binomtest(accepted, 400, 1 - (1 - 9 / 181) ** tries).pvalue > 1e-6


def test_unlabeled_pixels_do_not_count_as_a_class():
    row = np.full(200, IGNORE_INDEX, np.uint8)
    row[0::10], row[1::10] = 3, 4  # any ten columns: one of each, eight without a label
    mask, image = np.tile(row, (10, 1)), coordinates(10, 200)[0]
    # with 0.6 as the limit the first crop is taken; with 0.5 all are refused, and the eleventh is
    first, strict, refused = (
        [SegmentationCrop(10, 10, (1.0, 1.0), share, 0.0, False)(image, mask, s) for s in SEEDS]
        for share in (1.0, 0.6, 0.5)
    )
    assert all(torch.equal(a.image, b.image) for a, b in zip(first, strict, strict=True))
    assert sum(torch.equal(a.image, b.image) for a, b in zip(first, refused, strict=True)) < 5


class Script:
    """Numbers to be drawn, in their order: chances, then what `uniform` and `integers` give."""

    def __init__(self, brightness=None, contrast=None, first=True, saturation=None, hue=None):
        steps = [brightness, contrast, first or None, saturation, hue]
        # a step is taken, and contrast comes first, where what is drawn is below one half
        chances = iter([0.5 if step is None else 0.4999999 for step in steps])
        values = iter(
            [each for each in (brightness, contrast, saturation, hue) if each is not None]
        )
        ranges = {(-32, 32), (0.5, 1.5)}
        self.random = lambda: next(chances)
        self.uniform = lambda *given: next(values) if given in ranges else pytest.fail(str(given))
        self.integers = lambda *given: next(values) if given == (-18, 18) else pytest.fail("hue")


RAMP = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def recolored(**steps):
    # past the shape checker, which wants a true generator
    return getattr(distorted, "__wrapped__", distorted)(RAMP.copy(), Script(**steps))


def test_brightness_shifts_levels_and_contrast_is_a_factor_before_or_after_the_hue():
    for shift in (-32, -3.7, 20.2, 31.9):
        expected = np.floor(np.clip(RAMP + np.float32(shift), 0, 255))
        assert (recolored(brightness=shift) == expected).all()
    for factor in (0.5, 0.77, 1.49):
        expected = np.floor(np.clip(RAMP * np.float32(factor), 0, 255))
        for first in (True, False):
            assert (recolored(contrast=factor, first=first) == expected).all()
    last = np.floor(np.clip(recolored(hue=12) * np.float32(1.5), 0, 255))
    assert (recolored(contrast=1.5, hue=12, first=False) == last).all()
    assert not (recolored(contrast=1.5, hue=12, first=True) == last).all()


@pytest.mark.parametrize(("saturation", "hue"), [(0.5, None), (1.3, None), (None, -18), (0.8, 17)])
def test_saturation_and_hue_are_those_of_hsv(saturation, hue):
    got = recolored(saturation=saturation, hue=hue).reshape(-1, 3).astype(int)
    for pixel, new in zip(RAMP.reshape(-1, 3) / 255, got, strict=True):
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        turned = colorsys.hsv_to_rgb((h + (hue or 0) / 180) % 1, min(s * (saturation or 1), 1), v)
        # hue is kept in steps of 2 degrees, and saturation in 256: some levels of rounding
        assert abs(new - 255 * np.array(turned)).max() < 7
    assert abs(got.max(1) - RAMP.reshape(-1, 3).max(1)).max() <= 1  # the value of HSV stays


@pytest.mark.parametrize(
    "views",
    [
        SegmentationCrop(32, 40),
        SegmentationRandomResizedCrop(32, (0.3, 0.9)),
        SegmentationWhole(40),
        SegmentationWhole(0),
    ],
)
def test_a_view_is_a_function_of_image_mask_and_seed_and_leaves_them_alone(views):
    image, mask = grid(50, 70)
    before = image.copy(), mask.copy()
    for seed in (0, 7, [0, 1, 2]):
        one, again = views(image, mask, seed), views(image, mask, seed)
        for a, b in zip(one, again, strict=True):
            assert a.dtype == torch.uint8
            assert torch.equal(a, b)
            a.fill_(0)  # shares no memory
    assert (image == before[0]).all()
    assert (mask == before[1]).all()
    with pytest.raises(ValueError, match="have 50 x 70 and 70 x 50 pixels; give a mask"):
        views(image, grid(70, 50)[1])


def test_a_resized_part_of_image_and_mask_is_the_same_and_covers_its_share():
    image, mask = coordinates(100, 140)
    views, flips = SegmentationRandomResizedCrop(64, (0.2, 0.6), (0.5, 2.0)), 0
    for seed in range(100):
        rows, columns = (x.numpy().astype(int) for x in views(image, mask, seed).image[:2])
        height, width = (x.max() - x.min() + 1 for x in (rows, columns))
        assert 0.15 < height * width / mask.size < 0.65
        assert 0.45 < width / height < 2.2
        got, expected = views(image, mask, seed).mask.numpy(), mask[rows, columns]
        assert (abs(got.astype(int) - expected) <= 20).mean() > 0.5  # centers, up to one pixel
        flips += columns[0, 0] > columns[0, -1]
    assert 25 < flips < 75
