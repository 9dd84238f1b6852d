"""Changes of color against torchvision's on PIL images, which DINO's released code uses."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps
from scipy import stats
from torchvision.transforms import functional as peer

from vitlab.data import read_image
from vitlab.data.transforms import color
from vitlab.data.transforms.color import ColorJitter
from vitlab.data.transforms.random_crop import uniforms


def difference(ours, theirs):
    return abs(ours.astype(int) - np.array(theirs))


@pytest.mark.parametrize("factor", [0.6, 0.93, 1.0, 1.4])
def test_changes_are_those_of_pil_images(factor):
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    before, picture, shift = image.copy(), Image.fromarray(image), (factor - 1) / 4
    for name in ("brightness", "saturation", "contrast"):
        theirs = getattr(peer, f"adjust_{name}")(picture, factor)
        assert difference(color.CHANGES[name](image, factor), theirs).max() <= 1
        assert (color.CHANGES[name](image, 1.0) == image).all()
    assert difference(color.gray(image), peer.to_grayscale(picture, 3)).max() <= 1
    assert (color.saturation(image, 0.0) == color.gray(image)).all()
    assert difference(color.solarize(image), ImageOps.solarize(picture, 128)).max() == 0
    ours, theirs = color.hue(image, shift), peer.adjust_hue(picture, shift)
    assert difference(ours, theirs).max() <= 14  # 8 bits of hue are rounded on different paths
    # the largest channel of every pixel, which HSV keeps
    assert difference(ours.max(-1), np.array(theirs).max(-1)).max() <= 1
    assert (image == before).all()


def test_blur_is_that_of_pil(tmp_path, draw):
    smooth = read_image(draw(tmp_path / "a.png", size=(120, 90))).astype(int)
    noise = np.random.default_rng(0).integers(-30, 31, smooth.shape)
    photograph = (smooth + noise).clip(0, 255).astype(np.uint8)
    for sigma in (0.1, 0.3, 0.7, 1.0, 1.4, 1.42, 1.7, 2.0):
        assert (color.blur(np.full_like(photograph, 7), sigma) == 7).all()
        theirs = np.array(Image.fromarray(photograph).filter(ImageFilter.GaussianBlur(sigma)))
        found = difference(color.blur(photograph, sigma), theirs).mean()
        assert found < max(1.0, 0.1 * difference(photograph, theirs).mean())  # PIL rounds six times


def test_jitter_draws_every_factor_from_its_range_in_any_order():
    jitter = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    numbers = uniforms(0)
    drawn = [jitter.draw(numbers) for _ in range(2000)]
    ranges = [("brightness", 0.6, 1.4), ("contrast", 0.6, 1.4), ("saturation", 0.8, 1.2)]
    for name, low, high in [*ranges, ("hue", -0.1, 0.1)]:
        shares = (np.array([dict(changes)[name] for changes in drawn]) - low) / (high - low)
        assert stats.kstest(shares, "uniform").pvalue > 1e-6
    orders = Counter(tuple(name for name, _ in changes) for changes in drawn)
    assert len(orders) == 24
    assert stats.chisquare([*orders.values()]).pvalue > 1e-6
    assert ColorJitter().draw(numbers) == []
    assert [name for name, _ in ColorJitter(contrast=0.4).draw(numbers)] == ["contrast"]
