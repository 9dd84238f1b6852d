"""`RandomCrop`: parameters against torchvision's distribution; operations against PIL."""

import math
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as peer

from vitlab.data import MultiCrop, read_image
from vitlab.data.transforms import SingleCrop
from vitlab.data.transforms.random_crop import (
    Box,
    CropParameters,
    RandomCrop,
    random_box,
    uniforms,
)

TRIALS = 3000


def draws(crop, size=(375, 500), trials=TRIALS):
    numbers = uniforms(0)
    return [crop.draw(*size, numbers) for _ in range(trials)]


def of_torchvision(scale, size, trials=TRIALS):
    torch.manual_seed(0)
    image = Image.new("L", size[::-1])
    drawn = (RandomResizedCrop.get_params(image, scale, (3 / 4, 4 / 3)) for _ in range(trials))
    return [Box(*(int(number) for number in box)) for box in drawn]


@pytest.mark.parametrize("name", ["first", "second", "local"])
def test_every_step_happens_as_often_as_it_should(name):
    crop = getattr(MultiCrop(), name)
    drawn = draws(crop)
    for chance, found in [
        (crop.flip, [d.flip for d in drawn]),
        (crop.jittered, [bool(d.changes) for d in drawn]),
        (crop.gray, [d.gray for d in drawn]),
        (crop.blur, [d.sigma is not None for d in drawn]),
        (crop.solarize, [d.solarize for d in drawn]),
    ]:
        # five standard deviations: one false alarm in a million changes of the random stream
        assert abs(sum(found) - TRIALS * chance) <= 5 * (TRIALS * chance * (1 - chance)) ** 0.5
    assert all(len(d.changes) == 4 for d in drawn if d.changes)


def test_sigma_is_uniform():
    sigmas = np.array([d.sigma for d in draws(MultiCrop().first)])
    assert 0.1 <= sigmas.min() < 0.11
    assert 1.99 < sigmas.max() <= 2.0
    assert abs(sigmas.mean() - 1.05) < 5 * 1.9 / (12 * TRIALS) ** 0.5


@pytest.mark.parametrize("scale", [(0.4, 1.0), (0.05, 0.4)])
@pytest.mark.parametrize("size", [(375, 500), (100, 400)])
def test_regions_are_distributed_as_those_of_torchvision(scale, size):
    numbers = uniforms(0)
    ours = [random_box(*size, scale, numbers) for _ in range(TRIALS)]
    theirs = of_torchvision(scale, size)
    assert all(0 <= box.top <= box.top + box.height <= size[0] for box in ours)
    assert all(0 <= box.left <= box.left + box.width <= size[1] for box in ours)
    for measure in (
        lambda box: box.height * box.width,
        lambda box: math.log(box.width / box.height),
        lambda box: box.top + box.height / 2,
        lambda box: box.left + box.width / 2,
    ):
        a, b = np.array([*map(measure, ours)]), np.array([*map(measure, theirs)])
        error = math.sqrt((a.var() + b.var()) / TRIALS)
        assert abs(a.mean() - b.mean()) <= 5 * error
        # largest distance of the two distributions: Kolmogorov and Smirnov, one in a million
        values = np.concatenate([a, b])
        ranks = [np.searchsorted(np.sort(x), values, side="right") / TRIALS for x in (a, b)]
        assert abs(ranks[0] - ranks[1]).max() < 2.7 * math.sqrt(2 / TRIALS)


@pytest.mark.parametrize("size", [(20, 400), (400, 20), (1, 400), (400, 1), (1, 1), (2, 3)])
def test_where_nothing_fits_the_region_is_the_middle_as_in_torchvision(size):
    scale = (1.0, 1.0)  # the whole image, whose shape is out of range
    assert random_box(*size, scale, uniforms(0)) == of_torchvision(scale, size, 1)[0]


def test_a_picture_is_flipped_last_and_nothing_else_happens_by_default(image):
    crop = RandomCrop(16, (0.5, 1.0))
    box = Box(3, 5, 40, 30)
    plain, flipped = np.empty((2, 16, 16, 3), np.uint8)
    crop.make(image, CropParameters(box, False, [], False, None, False), plain)
    crop.make(image, CropParameters(box, True, [], False, None, False), flipped)
    assert (plain == flipped[:, ::-1]).all()
    drawn = draws(crop, (60, 50), 50)
    assert not any(d.flip or d.changes or d.gray or d.sigma or d.solarize for d in drawn)


@pytest.fixture
def image(tmp_path, draw):
    return read_image(draw(tmp_path / "a.png", size=(50, 60)))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 80), st.integers(1, 80), st.integers(0, 1000), st.sampled_from([8, 16, 40]))
def test_a_region_is_resized_as_pil_resizes_a_crop(height, width, seed, size):
    rng = np.random.default_rng(seed)
    rough = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
    image = np.array(Image.fromarray(rough).resize((width, height)))
    box = random_box(height, width, (0.05, 1.0), uniforms(seed))
    out = np.empty((size, size, 3), np.uint8)
    RandomCrop(size, (0.05, 1.0)).make(
        image, CropParameters(box, False, [], False, None, False), out
    )
    region = (box.left, box.top, box.left + box.width, box.top + box.height)
    expected = np.array(Image.fromarray(image).crop(region).resize((size, size), 3))
    found = abs(out.astype(int) - expected)
    assert found.mean() < 0.5  # weights are rounded differently where many pixels count
    assert np.quantile(found, 0.9) <= 2


def test_steps_are_made_in_the_order_of_the_released_code(image):
    changes = [("hue", 0.1), ("contrast", 1.3), ("brightness", 1.2), ("saturation", 0.8)]
    out = np.empty((32, 32, 3), np.uint8)
    RandomCrop(32, (0.5, 1.0)).make(
        image, CropParameters(Box(3, 5, 40, 30), True, changes, True, 1.3, True), out
    )
    picture = Image.fromarray(image).crop((5, 3, 35, 43)).resize((32, 32), 3)
    picture = peer.hflip(picture)
    for name, factor in changes:
        picture = getattr(peer, f"adjust_{name}")(picture, factor)
    picture = peer.to_grayscale(picture, 3)
    picture = ImageOps.solarize(picture.filter(ImageFilter.GaussianBlur(1.3)))
    found = abs(out.astype(int) - np.array(picture))
    # solarization has a jump of one level only, so differences do not grow
    assert found.mean() < 1


def test_numbers_are_a_function_of_the_seed_and_do_not_end():
    first, second, other = (list(islice(uniforms(s), 1000)) for s in ([0, 1], [0, 1], [1, 0]))
    assert first == second != other
    assert len({*first}) == 1000
    assert all(0 <= number < 1 for number in first)


def test_the_supervised_crop_changes_only_what_it_is_asked_to(image):
    crop = SingleCrop(16).crop
    assert crop == RandomCrop(16, (0.08, 1.0), flip=0.5)
    drawn = draws(SingleCrop(16, color_jitter=0.4).crop, (60, 50), 500)
    assert all({*dict(d.changes)} == {"brightness", "contrast", "saturation"} for d in drawn)
    factors = np.array([[*dict(d.changes).values()] for d in drawn])
    assert 0.6 <= factors.min() < 0.61
    assert 1.39 < factors.max() <= 1.4
    assert not any(d.gray or d.solarize or d.sigma for d in drawn)
    never = SingleCrop(16, scale=(1.0, 1.0), flip=0.0)
    assert torch.equal(never(image[:50, :50], 0)[0], never(image[:50, :50], 1)[0])
