"""Views of supervised training: functions of image and seed; equal to timm's where it has them."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment as timm

from vitlab.data import AugmentedCrop, GlobalBatchSampler
from vitlab.data.errors import DataError
from vitlab.data.sampler import split_global_batch
from vitlab.data.transforms.augmented import posterize
from vitlab.data.transforms.functional import stack_of
from vitlab.data.transforms.random_crop import RandomCrop, make_all, uniforms
from vitlab.rng import seeded_rng

ALL = [
    {},
    {"auto_augment": "3a", "color_jitter": 0.3},
    {"auto_augment": "", "interpolation": "random", "color_jitter": 0.4},
    {"auto_augment": "rand-m10-n2-p1", "interpolation": "bilinear"},
    {"auto_augment": "rand-m9-mstd0.5-inc1", "interpolation": "random"},
]

NEARLY = "rand-m8-mstd0.5-inc1"  # of magnitude 8: at 10, timm itself fails (see `posterize`)


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)


@pytest.mark.parametrize("options", ALL, ids=str)
def test_a_crop_is_a_function_of_image_and_seed(picture, options):
    view = AugmentedCrop(32, **options)
    first = [view(picture, (0, 1, i))[0] for i in range(20)]
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002
    torch.manual_seed(99)
    again = [AugmentedCrop(32, **options)(picture, (0, 1, i))[0] for i in range(20)]
    for a, b in zip(first, again, strict=True):
        assert a.shape == (1, 3, 32, 32)
        assert a.dtype == torch.uint8
        assert torch.equal(a, b)
    assert len({a.numpy().tobytes() for a in first}) == 20


def test_the_global_streams_do_not_notice(picture):
    def streams():
        numpy = np.random.get_state()  # noqa: NPY002
        return numpy[1].tobytes(), numpy[2:], torch.get_rng_state().tolist()

    before, python = streams(), random.getstate()
    with seeded_rng(3):
        first = random.random(), random.gauss()
    assert random.getstate() == python  # the rest without Python's: the shape checker draws from it
    with seeded_rng(3):
        assert (random.random(), random.gauss()) == first
    for options in ALL:
        AugmentedCrop(32, **options)(picture, 5)
    assert streams() == before


def test_without_augmentation_it_is_the_plain_crop(picture):
    plain = RandomCrop(32, (0.08, 1.0), flip=0.5)
    for seed in range(10):
        box = plain.draw(90, 120, uniforms(seed))
        ours = AugmentedCrop(32, auto_augment="")(picture, seed)[0]
        theirs = stack_of(make_all([plain], picture, uniforms(seed)))
        assert torch.equal(ours, theirs), (seed, box)


def test_randaugment_does_to_a_crop_what_timm_does(picture):
    """The published recipes name timm's string: what it means must be timm's, to the bit."""
    view = AugmentedCrop(90, auto_augment=NEARLY)
    settings = {
        "translate_const": 40,
        "img_mean": (124, 116, 104),
        "interpolation": Image.Resampling.BICUBIC,
    }
    theirs = timm.rand_augment_transform(NEARLY, settings)
    image = Image.fromarray(picture)
    names = [op.name for op in theirs.ops]
    assert [op.name for op in view._augment.ops] == names
    for seed in range(40):
        states = []
        for transform in (theirs, view._augment):
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            states.append(np.array(transform(image)))
        assert np.array_equal(*states), seed


def test_three_augment_is_gray_solarized_or_blurred(picture):
    view = AugmentedCrop(64, auto_augment="3a")
    plain = AugmentedCrop(64, auto_augment="")
    seen = set()
    for seed in range(30):
        crop, before = view(picture, seed)[0][0].float(), plain(picture, seed)[0][0].float()
        if torch.equal(crop[0], crop[1]):
            seen.add("gray")
        elif torch.equal(torch.where(before < 128, before, 255 - before), crop):
            seen.add("solarized")
        else:
            assert crop.std() < before.std()
            seen.add("blurred")
    assert seen == {"gray", "solarized", "blurred"}


def test_no_bits_are_a_black_image_and_not_an_error(picture):
    image = Image.fromarray(picture)
    assert not np.array(posterize(image, 0)).any()
    assert np.array_equal(np.array(posterize(image, 3)), picture & 0b11100000)
    view = AugmentedCrop(16, auto_augment="rand-m10-inc1-p1-n2")
    for seed in range(60):
        view(picture, seed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"color_jitter": 0.4}, "timm ignores the jitter"),
        ({"auto_augment": "rand"}, "auto_augment 'rand' is unknown"),
        ({"auto_augment": "augmix-m5"}, "is unknown"),
        ({"auto_augment": "rand-x9"}, "is unknown"),
        ({"size": 0}, "size 0"),
        ({"area": (0.5, 0.1)}, "area shares"),
        ({"flip": 2.0}, "flip 2.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AugmentedCrop(**options)


def test_repeated_samples_lie_together_whatever_the_world():
    whole = list(GlobalBatchSampler(40, 12, repeats=3, seed=1))
    assert len(whole) == 40 // 12  # as many steps as without
    for step in whole:
        indices = [index for _, index, _ in step]
        assert [copy for _, _, copy in step] == [0, 1, 2] * 4
        assert indices[::3] == indices[1::3] == indices[2::3]
    for world, accumulate in [(2, 1), (3, 2), (1, 4)]:
        ranks = [
            list(GlobalBatchSampler(40, 12, world, rank, accumulate, 1, 3)) for rank in range(world)
        ]
        for number, step in enumerate(whole):
            parts = slice(number * accumulate, (number + 1) * accumulate)
            found = [place for rank in ranks for part in rank[parts] for place in part]
            assert sorted(found) == sorted(step)
    assert split_global_batch(12, 3).micro_batch_size == 4


def test_an_epoch_of_repeats_has_other_samples_the_next_time():
    batches = GlobalBatchSampler(40, 12, repeats=3)
    first = {index for step in batches for _, index, _ in step}
    batches.set_epoch(1)
    assert first != {index for step in batches for _, index, _ in step}
    assert len(first) == 12


def test_one_repeat_is_the_usual_order():
    assert list(GlobalBatchSampler(40, 12, seed=1)) == list(
        GlobalBatchSampler(40, 12, seed=1, repeats=1)
    )


def test_copies_of_a_sample_are_augmented_differently(drawn):
    from vitlab.data import ImageNet

    data = ImageNet(
        str(drawn / "imagenet"),
        6,
        num_workers=0,
        repeats=3,
        transform=AugmentedCrop(32, auto_augment=""),
    )
    batch = next(iter(data.train_dataloader()))
    crops = batch.views[0][0]
    assert batch.labels.tolist()[:3] == [batch.labels[0]] * 3
    assert not torch.equal(crops[0], crops[1])
    assert not torch.equal(crops[1], crops[2])
    plain = ImageNet(
        str(drawn / "imagenet"), 6, num_workers=0, transform=AugmentedCrop(32, auto_augment="")
    )
    first = next(iter(plain.train_dataloader()))
    assert torch.equal(first.views[0][0][0], crops[0])  # copy 0 is what it would be alone


def test_no_repeats_are_refused(drawn):
    from vitlab.data import ImageNet

    with pytest.raises(DataError, match="repeats 0"):
        ImageNet(str(drawn / "imagenet"), repeats=0)
