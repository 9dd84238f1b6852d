"""Crops of supervised training: functions of image and seed, equal to timm's; their masks."""

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment as timm

from vitlab.data import AugmentedCrop, SingleCrop
from vitlab.data.transforms import augmented_crop
from vitlab.rng import seeded_rng

PICTURE = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)


def test_without_augmentation_it_is_the_plain_crop():
    for seed in range(10):
        plain = SingleCrop(32)(PICTURE, seed)[0]
        assert torch.equal(AugmentedCrop(32, auto_augment="")(PICTURE, seed)[0], plain)


def test_randaugment_does_to_a_crop_what_timm_does():
    """The published recipes name timm's string: its meaning must be timm's, to the bit."""
    name = "rand-m8-mstd0.5-inc1"  # of magnitude 8: at 10, timm itself fails
    settings = {"translate_const": 40, "img_mean": (124, 116, 104)}
    settings["interpolation"] = Image.Resampling.BICUBIC
    theirs, image = timm.rand_augment_transform(name, settings), Image.fromarray(PICTURE)
    ours = AugmentedCrop(90, auto_augment=name)._augment
    for seed in range(40):
        with seeded_rng(seed):
            expected = np.array(theirs(image))
        with seeded_rng(seed):
            assert np.array_equal(np.array(augmented_crop._augmented(ours, image)), expected)


def test_three_augment_is_gray_solarized_or_blurred():
    augmented, plain = AugmentedCrop(64, auto_augment="3a"), AugmentedCrop(64, auto_augment="")
    seen = set()
    for seed in range(30):
        crop, before = augmented(PICTURE, seed)[0][0].float(), plain(PICTURE, seed)[0][0].float()
        if torch.equal(crop[0], crop[1]):
            seen.add("gray")
        elif torch.equal(torch.where(before < 128, before, 255 - before), crop):
            seen.add("solarized")
        else:
            assert crop.std() < before.std()
            seen.add("blurred")
    assert seen == {"gray", "solarized", "blurred"}


def test_posterizing_to_no_bits_gives_a_black_image_and_no_error():
    transform = AugmentedCrop(16, auto_augment="rand-m10-inc1-p1-n1")
    ops = transform._augment.ops
    transform._augment.ops = [op for op in ops if op.name.startswith("Posterize")]
    assert not transform(PICTURE, 0)[0].any()
    transform._augment.ops[0].magnitude = 5  # 2 of 4 bits
    assert {*transform(PICTURE, 0)[0].unique().tolist()} == {0, 64, 128, 192}


@pytest.mark.parametrize("operation", ["Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"])
def test_every_operation_that_moves_an_image_moves_its_mask(operation, box):
    """The brighter part of the image is where the mask is."""
    transform = AugmentedCrop(64, area=(1.0, 1.0), auto_augment="rand-m9-n2-p1")
    for made in (transform._augment, transform._augment_mask):
        made.ops = [each for each in made.ops if each.name.startswith(operation)]
        assert len(made.ops) == 1
    visible = 0
    for seed in range(20):
        mask = box(seed)
        image = np.repeat(mask[..., None] * np.uint8(255), 3, axis=2)
        image[..., 1:] = 0  # what is moved in is gray: red 124, below the middle
        crop = transform(image, seed)[0][0, 0]
        shown = transform.crop_foreground(mask, seed)
        assert (shown != (crop >= 190)).float().mean() < 0.03
        visible += bool(shown.any())
    assert visible >= 5


def test_operations_of_color_leave_the_mask_alone(box):
    options = {"area": (0.3, 1.0), "interpolation": "random"}
    still, colored = (AugmentedCrop(32, auto_augment=name, **options) for name in ("", "3a"))
    randomly = AugmentedCrop(32, auto_augment="rand-m9-n2-p1", **options)
    made, moves = randomly._augment_mask, augmented_crop.GEOMETRIC
    made.ops = [each for each in made.ops if not each.name.startswith(moves)]
    assert len(made.ops) == 10
    for seed in range(10):
        shown = still.crop_foreground(box(seed), seed)
        assert torch.equal(colored.crop_foreground(box(seed), seed), shown)
        assert torch.equal(randomly.crop_foreground(box(seed), seed), shown)
