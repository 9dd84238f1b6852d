"""Changes of color against torchvision's on PIL images, which DINO's released code uses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import functional as peer

from vitlab.data import read_image
from vitlab.data.transforms import color
from vitlab.data.transforms.color import ColorJitter
from vitlab.data.transforms.random_crop import uniforms

IMAGES = arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3)))


def difference(ours, theirs):
    return abs(ours.astype(int) - np.array(theirs))


@settings(deadline=None)
@given(image=IMAGES, factor=st.floats(0.6, 1.4))
def test_factors_act_as_on_pil_images(image, factor):
    before = image.copy()
    for name in ("brightness", "saturation", "contrast"):
        theirs = getattr(peer, f"adjust_{name}")(Image.fromarray(image), factor)
        assert difference(color.CHANGES[name](image, factor), theirs).max() <= 1
        assert (color.CHANGES[name](image, 1.0) == image).all()
    assert (image == before).all()


@settings(deadline=None)
@given(image=IMAGES)
def test_gray_and_solarized_are_as_of_pil_images(image):
    picture = Image.fromarray(image)
    assert difference(color.gray(image), peer.to_grayscale(picture, 3)).max() <= 1
    assert (color.saturation(image, 0.0) == color.gray(image)).all()
    assert difference(color.solarize(image), ImageOps.solarize(picture, 128)).max() == 0


@settings(deadline=None)
@given(image=IMAGES, shift=st.floats(-0.1, 0.1))
def test_hue_turns_as_on_pil_images(image, shift):
    ours, theirs = color.hue(image, shift), peer.adjust_hue(Image.fromarray(image), shift)
    assert difference(ours, theirs).max() <= 14  # 8 bits of hue are rounded on different paths
    # the largest channel of every pixel, which HSV keeps
    assert difference(ours.max(-1), np.array(theirs).max(-1)).max() <= 1


@pytest.mark.parametrize(("shift", "expected"), [(1 / 3, 1), (-1 / 3, 2), (0.0, 0)])
def test_a_third_of_the_circle_leads_from_red_to_green_or_blue(shift, expected):
    turned = color.hue(np.full((4, 4, 3), (255, 0, 0), np.uint8), shift)
    assert turned[0, 0].argmax() == expected
    assert np.sort(turned[0, 0])[1] <= 6


def test_blur_is_that_of_pil(tmp_path, draw):
    smooth = read_image(draw(tmp_path / "a.png", size=(120, 90))).astype(int)
    noise = np.random.default_rng(0).integers(-30, 31, smooth.shape)
    photograph = (smooth + noise).clip(0, 255).astype(np.uint8)
    for sigma in (0.1, 0.3, 0.7, 1.0, 1.4, 1.42, 1.7, 2.0):
        theirs = np.array(Image.fromarray(photograph).filter(ImageFilter.GaussianBlur(sigma)))
        found = difference(color.blur(photograph, sigma), theirs).mean()
        effect = difference(photograph, theirs).mean()
        assert found < max(1.0, 0.1 * effect)  # PIL rounds after each of its six passes


@given(sigma=st.floats(0.1, 2.0), value=st.integers(0, 255))
def test_the_kernel_of_the_blur_has_its_variance_and_keeps_an_even_image(sigma, value):
    kernel = color.blur_kernel(sigma)
    reach = len(kernel) // 2
    assert kernel.sum() == pytest.approx(1)
    assert (kernel == kernel[::-1]).all()
    assert (kernel >= 0).all()
    assert (kernel * np.arange(-reach, reach + 1) ** 2).sum() == pytest.approx(sigma**2)
    image = np.full((9, 11, 3), value, np.uint8)
    assert (color.blur(image, sigma) == image).all()


def test_jitter_draws_every_factor_from_its_range_in_any_order():
    jitter = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    numbers, trials = uniforms(0), 2000
    drawn = [jitter.draw(numbers) for _ in range(trials)]
    ranges = [("brightness", 0.6, 1.4), ("contrast", 0.6, 1.4), ("saturation", 0.8, 1.2)]
    for name, low, high in [*ranges, ("hue", -0.1, 0.1)]:
        factors = np.array([dict(changes)[name] for changes in drawn])
        assert low <= factors.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < factors.max() <= high
        # five standard deviations of the mean of uniform numbers
        assert abs(factors.mean() - (low + high) / 2) < 5 * (high - low) / (12 * trials) ** 0.5
    orders = [tuple(name for name, _ in changes) for changes in drawn]
    counts = np.array([orders.count(order) for order in set(orders)])
    assert len(counts) == 24
    assert abs(counts - trials / 24).max() < 5 * (trials / 24) ** 0.5
    assert ColorJitter().draw(numbers) == []
    assert [name for name, _ in ColorJitter(contrast=0.4).draw(numbers)] == ["contrast"]
