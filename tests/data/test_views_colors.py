"""Changes of color against torchvision's on PIL images, which DINO's released code uses."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import functional as peer

from vitlab.data import read_image
from vitlab.data.transforms import color
from vitlab.data.transforms.color import Jitter
from vitlab.data.transforms.random_crop import uniforms

IMAGES = arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3)))
FACTORS = st.floats(0.6, 1.4)


def difference(ours, theirs):
    return abs(ours.astype(int) - np.array(theirs))


@pytest.mark.parametrize(
    ("change", "theirs"),
    [
        (color.brightness, peer.adjust_brightness),
        (color.saturation, peer.adjust_saturation),
        (color.contrast, peer.adjust_contrast),
    ],
    ids=["brightness", "saturation", "contrast"],
)
@settings(deadline=None)
@given(image=IMAGES, factor=FACTORS)
def test_factors_act_as_on_pil_images(change, theirs, image, factor):
    before = image.copy()
    found = difference(change(image, factor), theirs(Image.fromarray(image), factor))
    assert found.max() <= 1
    assert (image == before).all()


@settings(deadline=None)
@given(image=IMAGES)
def test_gray_and_solarized_are_as_of_pil_images(image):
    picture = Image.fromarray(image)
    assert difference(color.gray(image), peer.to_grayscale(picture, 3)).max() <= 1
    assert difference(color.solarize(image), ImageOps.solarize(picture, 128)).max() == 0


def test_solarization_inverts_from_128_on():
    values = np.tile(np.array([[0, 127, 128, 255]], dtype=np.uint8)[..., None], 3)
    assert color.solarize(values)[0, :, 0].tolist() == [0, 127, 127, 0]


@settings(deadline=None)
@given(image=IMAGES)
def test_factor_one_changes_at_most_by_rounding(image):
    for name in ("brightness", "contrast", "saturation"):
        assert (color.CHANGES[name](image, 1.0) == image).all()
    assert (
        difference(color.hue(image, 0.0), image).max() <= 9
    )  # the way to HSV and back, of all colors


@settings(deadline=None)
@given(image=IMAGES, shift=st.floats(-0.1, 0.1))
def test_hue_turns_as_on_pil_images(image, shift):
    ours, theirs = color.hue(image, shift), peer.adjust_hue(Image.fromarray(image), shift)
    assert difference(ours, theirs).max() <= 14  # 8 bits of hue are rounded on different paths
    # what HSV keeps: the largest channel of every pixel
    assert difference(ours.max(-1), np.array(theirs).max(-1)).max() <= 1


@pytest.mark.parametrize(("shift", "expected"), [(1 / 3, 1), (-1 / 3, 2), (0.0, 0)])
def test_a_third_of_the_circle_leads_from_red_to_green_or_blue(shift, expected):
    turned = color.hue(np.full((4, 4, 3), (255, 0, 0), np.uint8), shift)
    assert turned[0, 0].argmax() == expected
    assert np.sort(turned[0, 0])[1] <= 6


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.7, 1.0, 1.4, 1.42, 1.7, 2.0])
def test_blur_is_that_of_pil(photograph, sigma):
    theirs = np.array(Image.fromarray(photograph).filter(ImageFilter.GaussianBlur(sigma)))
    found = difference(color.blur(photograph, sigma), theirs).mean()
    effect = difference(photograph, theirs).mean()
    assert found < max(1.0, 0.1 * effect)  # PIL rounds after each of its six passes


@pytest.fixture
def photograph(tmp_path, draw):
    smooth = read_image(draw(tmp_path / "a.png", size=(120, 90))).astype(int)
    noise = np.random.default_rng(0).integers(-30, 31, smooth.shape)
    return (smooth + noise).clip(0, 255).astype(np.uint8)


@given(sigma=st.floats(0.1, 2.0))
def test_the_kernel_of_the_blur_has_the_variance_that_is_asked_for(sigma):
    kernel = color.blur_kernel(sigma)
    reach = len(kernel) // 2
    assert kernel.sum() == pytest.approx(1)
    assert (kernel == kernel[::-1]).all()
    assert (kernel >= 0).all()
    assert (kernel * np.arange(-reach, reach + 1) ** 2).sum() == pytest.approx(sigma**2)


@given(sigma=st.floats(0.1, 2.0), value=st.integers(0, 255))
def test_blur_keeps_an_even_image_to_the_bit(sigma, value):
    image = np.full((9, 11, 3), value, np.uint8)
    assert (color.blur(image, sigma) == image).all()


def test_jitter_draws_every_factor_from_its_range_in_any_order():
    jitter = Jitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    numbers = uniforms(0)
    trials = 2000
    drawn = [jitter.draw(numbers) for _ in range(trials)]
    ranges = {
        "brightness": (0.6, 1.4),
        "contrast": (0.6, 1.4),
        "saturation": (0.8, 1.2),
        "hue": (-0.1, 0.1),
    }
    for name, (low, high) in ranges.items():
        factors = np.array([dict(changes)[name] for changes in drawn])
        assert low <= factors.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < factors.max() <= high
        # five standard deviations of the mean of uniform numbers
        assert abs(factors.mean() - (low + high) / 2) < 5 * (high - low) / (12 * trials) ** 0.5
    orders = [tuple(name for name, _ in changes) for changes in drawn]
    counts = np.array([orders.count(order) for order in set(orders)])
    assert len(counts) == 24
    assert abs(counts - trials / 24).max() < 5 * (trials / 24) ** 0.5


def test_no_strength_draws_no_change():
    assert Jitter().draw(uniforms(0)) == []
    assert [name for name, _ in Jitter(contrast=0.4).draw(uniforms(0))] == ["contrast"]


def test_the_library_does_not_ask_for_news_of_itself():
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"
