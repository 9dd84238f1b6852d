"""`RandomCrop`: parameters against torchvision's distribution; operations against PIL."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from scipy import stats
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as peer

from vitlab.data import MultiCrop, read_image
from vitlab.data.transforms.random_crop import CropParameters, RandomCrop, random_box, uniforms

TRIALS = 3000
RARE = 1e-6  # one false alarm in a million changes of the random stream


def box_of(top, left, height, width):
    return slice(top, top + height), slice(left, left + width)


def of_torchvision(scale, size, trials=TRIALS):
    torch.manual_seed(0)
    image = Image.new("L", size[::-1])
    drawn = (RandomResizedCrop.get_params(image, scale, (3 / 4, 4 / 3)) for _ in range(trials))
    return [box_of(*map(int, box)) for box in drawn]


@pytest.mark.parametrize("name", ["first", "second", "local"])
def test_every_step_happens_as_often_as_it_should(name):
    crop, numbers = getattr(MultiCrop(), name), uniforms(0)
    drawn = [crop.draw(375, 500, numbers) for _ in range(TRIALS)]
    for chance, found in [
        (crop.flip, [d.flip for d in drawn]),
        (crop.jittered, [len(d.changes) == 4 for d in drawn]),
        (crop.gray, [d.gray for d in drawn]),
        (crop.blur, [d.sigma is not None for d in drawn]),
        (crop.solarize, [d.solarize for d in drawn]),
    ]:
        assert stats.binomtest(sum(found), TRIALS, chance).pvalue > RARE
    sigmas = [d.sigma for d in drawn if d.sigma]
    assert stats.kstest(sigmas, stats.uniform(0.1, 1.9).cdf).pvalue > RARE


@pytest.mark.parametrize(
    ("scale", "size"), [((0.4, 1.0), (375, 500)), ((0.05, 0.4), (375, 500)), ((0.4, 1), (100, 400))]
)
def test_regions_are_distributed_as_those_of_torchvision(scale, size):
    numbers = uniforms(0)
    ours = [random_box(*size, scale, numbers) for _ in range(TRIALS)]
    for box in ours:
        assert all(0 <= s.start < s.stop <= edge for s, edge in zip(box, size, strict=True))
    found, expected = map(measures, (ours, of_torchvision(scale, size)))
    for name, values in found.items():
        assert stats.ks_2samp(values, expected[name]).pvalue > RARE, name


def measures(boxes):
    places = np.array([[(s.start, s.stop) for s in box] for box in boxes])  # box, axis, end
    (top, bottom), (left, right) = places.transpose(1, 2, 0)
    height, width = bottom - top, right - left
    return {"area": height * width, "shape": width / height, "y": top + bottom, "x": left + right}


@pytest.mark.parametrize("size", [(20, 400), (400, 20), (1, 400), (400, 1), (1, 1), (2, 3)])
def test_where_nothing_fits_the_region_is_the_middle_as_in_torchvision(size):
    scale = (1.0, 1.0)  # the whole image, whose shape is out of range
    assert random_box(*size, scale, uniforms(0)) == of_torchvision(scale, size, 1)[0]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("place", [(3, 5, 40, 30), (0, 10, 9, 11)])
def test_steps_are_made_in_the_order_of_the_released_code(tmp_path, draw, place, flip, changed):
    image = read_image(draw(tmp_path / "a.png", size=(50, 60)))
    changes = [("hue", 0.1), ("contrast", 1.3), ("brightness", 1.2), ("saturation", 0.8)]
    parameters = (changes, True, 1.3, True) if changed else ([], False, None, False)
    out = np.empty((32, 32, 3), np.uint8)
    RandomCrop(32, (0.5, 1.0)).make(image, CropParameters(box_of(*place), flip, *parameters), out)
    picture = Image.fromarray(image[box_of(*place)]).resize((32, 32), 3)
    picture = peer.hflip(picture) if flip else picture
    if changed:
        for name, factor in changes:
            picture = getattr(peer, f"adjust_{name}")(picture, factor)
        picture = peer.to_grayscale(picture, 3)
        picture = ImageOps.solarize(picture.filter(ImageFilter.GaussianBlur(1.3)))
    found = abs(out.astype(int) - np.array(picture))
    # solarization has a jump of one level only, so differences do not grow
    assert found.mean() < (1 if changed else 0.5)
