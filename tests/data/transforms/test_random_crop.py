"""`RandomCrop`: parameters against torchvision's distribution; operations against PIL."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as peer

from vitlab.data import MultiCrop, read_image
from vitlab.data.transforms import SingleCrop
from vitlab.data.transforms.color import ColorJitter
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
    sigmas = np.array([d.sigma for d in drawn if d.sigma])
    assert 0.1 <= sigmas.min() < 0.12
    assert 1.98 < sigmas.max() <= 2.0
    assert abs(sigmas.mean() - 1.05) < 5 * 1.9 / (12 * len(sigmas)) ** 0.5


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


@pytest.fixture
def image(tmp_path, draw):
    return read_image(draw(tmp_path / "a.png", size=(50, 60)))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("box", [Box(3, 5, 40, 30), Box(0, 10, 9, 11)])
def test_steps_are_made_in_the_order_of_the_released_code(image, box, flip, changed):
    changes = [("hue", 0.1), ("contrast", 1.3), ("brightness", 1.2), ("saturation", 0.8)]
    parameters = (changes, True, 1.3, True) if changed else ([], False, None, False)
    out = np.empty((32, 32, 3), np.uint8)
    RandomCrop(32, (0.5, 1.0)).make(image, CropParameters(box, flip, *parameters), out)
    region = (box.left, box.top, box.left + box.width, box.top + box.height)
    picture = Image.fromarray(image).crop(region).resize((32, 32), 3)
    picture = peer.hflip(picture) if flip else picture
    if changed:
        for name, factor in changes:
            picture = getattr(peer, f"adjust_{name}")(picture, factor)
        picture = peer.to_grayscale(picture, 3)
        picture = ImageOps.solarize(picture.filter(ImageFilter.GaussianBlur(1.3)))
    found = abs(out.astype(int) - np.array(picture))
    # solarization has a jump of one level only, so differences do not grow
    assert found.mean() < (1 if changed else 0.5)


def test_the_supervised_crop_changes_only_what_it_is_asked_to(image):
    crop = SingleCrop(16).crop
    assert crop == RandomCrop(16, (0.08, 1.0), flip=0.5)
    jitter = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4)
    jittered = RandomCrop(16, (0.08, 1.0), flip=0.5, jitter=jitter)
    assert SingleCrop(16, color_jitter=0.4).crop == jittered
    never = SingleCrop(16, scale=(1.0, 1.0), flip=0.0)
    assert torch.equal(never(image[:50, :50], 0)[0], never(image[:50, :50], 1)[0])
