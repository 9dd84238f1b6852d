"""Transforms of one image: functions of image and seed, with crops of the promised sizes."""

import math
import pickle
import random

import albumentations
import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused

from vitlab.data import (
    MEAN,
    STD,
    AlbumentationsCrop,
    AlbumentationsSegmentation,
    AugmentedCrop,
    CenterCrop,
    MultiCrop,
    ResizeRandomCrop,
    SingleCrop,
    normalize,
    read_image,
)
from vitlab.data.transforms import SegmentationCrop, SegmentationWhole, resize, stack_of
from vitlab.data.transforms.color import ColorJitter
from vitlab.data.transforms.random_crop import RandomCrop, uniforms
from vitlab.rng import seeded_rng

RANDOM = (MultiCrop(32, 16, 3), SingleCrop(32, color_jitter=0.4), ResizeRandomCrop(32, 40))
AUGMENTS = ("3a", "", "rand-m10-n2-p1", "rand-m9-mstd0.5-inc1")
SEEDED = (*RANDOM, *(AugmentedCrop(32, auto_augment=name) for name in AUGMENTS))
SEEDED += (AugmentedCrop(32, auto_augment="3a", interpolation="random", color_jitter=0.4),)
ALL = (*RANDOM, CenterCrop(32), CenterCrop(32, share=1.0), MultiCrop(16, 16, 0))


@pytest.fixture
def image(tmp_path, draw):
    return read_image(draw(tmp_path / "a.png", size=(60, 50)))


def test_each_crop_has_the_probabilities_of_the_released_code():
    transform = MultiCrop()
    jitter = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    common = {"flip": 0.5, "jitter": jitter, "jittered": 0.8, "gray": 0.2, "sigmas": (0.1, 2.0)}
    assert transform.first == RandomCrop(224, (0.4, 1.0), blur=1.0, solarize=0.0, **common)
    assert transform.second == RandomCrop(224, (0.4, 1.0), blur=0.1, solarize=0.2, **common)
    assert transform.local == RandomCrop(96, (0.05, 0.4), blur=0.5, solarize=0.0, **common)
    jitter = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4)
    supervised = RandomCrop(16, (0.08, 1.0), flip=0.1, jitter=jitter)
    assert SingleCrop(16, color_jitter=0.4, flip=0.1).crop == supervised


@pytest.mark.parametrize("size", [(1, 1), (1, 60), (47, 2), (400, 20), (33, 60)])
def test_images_of_any_size_have_all_crops_and_stay_as_they_were(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 1), dtype=np.uint8).repeat(3, 2)
    before = image.copy()
    # also where a crop has the size of the part that it is made of, so that nothing is resampled
    for transform in (*ALL, MultiCrop(size[0], size[0], 3, scale=(1.0, 1.0))):
        stacks = transform(image, size[0])
        shapes = [tuple(stack.shape) for stack in stacks]
        assert shapes == [(count, 3, edge, edge) for count, edge in transform.crop_sizes]
        for stack in stacks:
            assert stack.dtype == torch.uint8
            assert stack[0].permute(1, 2, 0).stride(2) == 1  # in memory, channels come last
            assert (stack == stack[:, :1]).all()  # gray stays gray
        # resampling and blur invent no contrast at the borders
        for stack in transform(np.full_like(image, 127), size[0]):
            assert (stack == stack[..., :1, :1]).all()
    assert (image == before).all()


def test_a_reduced_image_suffices_for_the_smallest_crop():
    assert [CenterCrop(size).resize_size for size in (224, 384, 96)] == [256, 439, 110]
    assert CenterCrop().min_size == (0, 0)  # published evaluations see every pixel
    # a crop of 5 % of the area, 3/4 as wide as high, of 496 x 496 pixels is 111 high and 96 wide
    assert MultiCrop().min_size == (496, 496)
    assert MultiCrop(num_local_crops=0).min_size == (409, 409)
    assert SingleCrop().min_size == AugmentedCrop().min_size == (915, 915)
    assert ResizeRandomCrop().min_size == (256, 256)
    numbers = uniforms(0)
    for least, crop in ((496, MultiCrop().local), (915, SingleCrop().crop)):
        for size in [(least, least), (least, 3 * least)] * 300:
            box = crop.draw(*size, numbers).box
            assert min(s.stop - s.start for s in box) >= crop.size - 1  # sides are rounded


def streams() -> tuple:
    """States of the global streams, but for Python's, which the shape checker draws from."""
    numpy = np.random.get_state()  # noqa: NPY002
    return numpy[1].tobytes(), numpy[2:], torch.get_rng_state().tolist()


def test_a_seeded_block_leaves_the_global_streams_as_they_were():
    before, python = streams(), random.getstate()
    with seeded_rng(3):
        first = random.random(), random.gauss(), np.random.random()  # noqa: NPY002
    assert (streams(), random.getstate()) == (before, python)
    with seeded_rng(3):
        assert (random.random(), random.gauss(), np.random.random()) == first  # noqa: NPY002


@pytest.mark.parametrize("transform", SEEDED)
def test_crops_are_a_function_of_the_seed_and_draw_nothing_from_global_streams(image, transform):
    before = streams()
    copied = pickle.loads(pickle.dumps(transform))(image, [0, 1, 2])
    one, other = transform(image, [0, 1, 2]), transform(image, [0, 1, 3])
    assert streams() == before
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(99)
    again = transform(image, [0, 1, 2])
    for a, b, c, d in zip(one, again, other, copied, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, d)
        assert not torch.equal(a, c)
        assert len(a) == 1 or not torch.equal(a[0], a[1])


def test_normalization_is_undone_by_the_exported_constants(image):
    stack = stack_of(image[None])
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (MEAN, STD))
    restored = (normalize(stack) * std + mean) * 255
    assert torch.allclose(restored, stack.float(), atol=1e-3)
    assert restored.is_contiguous()


@pytest.mark.parametrize("size", [(60, 50), (50, 61), (33, 33), (400, 20)])
@pytest.mark.parametrize(("share", "short"), [(0.875, 37), (1.0, 32), (0.5, 64)])
def test_the_center_crop_equals_pil_resizing(tmp_path, draw, size, share, short):
    image = read_image(draw(tmp_path / "b.png", size=size))
    new = (short * size[0] // min(size), short * size[1] // min(size))
    resized = Image.fromarray(image).resize(new, Image.Resampling.BICUBIC)
    left, top = round((new[0] - 32) / 2), round((new[1] - 32) / 2)
    expected = np.array(resized.crop((left, top, left + 32, top + 32)))
    got = CenterCrop(32, share)(image)[0][0].permute(1, 2, 0).numpy()
    assert abs(got.astype(int) - expected).max() <= 1
    whole = np.array(Image.fromarray(image).resize((24, 24), Image.Resampling.BICUBIC))
    assert abs(resize(image, 24, 24).astype(int) - whole).max() <= 1


def test_the_resized_crop_is_a_square_at_every_place():
    image = np.tile(np.arange(20, dtype=np.uint8)[:, None, None], (1, 20, 3))
    rows = [ResizeRandomCrop(16, 20, flip=0)(image, seed)[0][0, 0, 0] for seed in range(100)]
    assert {int(row[0]) for row in rows} == {0, 1, 2, 3, 4}
    image = image.transpose(1, 0, 2)
    lefts = [ResizeRandomCrop(16, 20)(image, seed)[0][0, 0, 0, 0] for seed in range(100)]
    assert {*map(int, lefts)} == {0, 1, 2, 3, 4, 15, 16, 17, 18, 19}  # or flipped


def test_wrong_arguments_are_refused():
    for kind, name, wrong in (
        *((MultiCrop, "size", 0), (MultiCrop, "local_size", -96)),
        *((MultiCrop, "num_local_crops", -1), (MultiCrop, "scale", (1.0, 0.4))),
        *((MultiCrop, "local_scale", (0.0, 0.4)), (SingleCrop, "scale", (0.4, 1.2))),
        *((SingleCrop, "color_jitter", 1.5), (SingleCrop, "flip", -0.5)),
        *((CenterCrop, "share", 0.0), (CenterCrop, "share", 1.1)),
        *((ResizeRandomCrop, "resize_size", 200), (AugmentedCrop, "color_jitter", 0.4)),
        *((AugmentedCrop, "auto_augment", "rand"), (AugmentedCrop, "auto_augment", "rand-x9")),
        *((SegmentationCrop, "short_side", -1), (SegmentationCrop, "ratio_range", (2.0, 0.5))),
        *((SegmentationCrop, "ratio_range", (1.0, math.nan)),),
        *((SegmentationCrop, "cat_max_ratio", 75.0),),
        *((SegmentationCrop, "max_aspect_ratio", math.nan),),
        *((SegmentationWhole, "max_aspect_ratio", 0.5),),
    ):
        with refused(name):
            kind(**{name: wrong})


def test_pipelines_of_albumentations_are_functions_of_the_seed(tmp_path, image):
    file = tmp_path / "pipeline.json"
    steps = [albumentations.RandomResizedCrop(size=(24, 24)), albumentations.GaussNoise(p=1)]
    albumentations.save(albumentations.Compose(steps), file)
    transform = AlbumentationsCrop(str(file), size=24)
    one, again, other = (transform(image, (0, 1, seed))[0] for seed in (2, 2, 3))
    assert transform.crop_sizes == [(one.shape[0], one.shape[-1])] == [(1, 24)]
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    with refused("pipeline"):
        AlbumentationsCrop(str(file), size=32)(image)
    file.write_text("{}")
    with refused("pipeline", wording=False):
        AlbumentationsCrop(str(file))


def test_pipelines_of_albumentations_move_image_and_mask_together(tmp_path):
    file = tmp_path / "pipeline.yaml"
    steps = [albumentations.RandomCrop(20, 20), albumentations.HorizontalFlip()]
    albumentations.save(albumentations.Compose(steps), file, data_format="yaml")
    rows, columns = np.mgrid[:15, :16].astype(np.uint8).repeat(3, 1).repeat(3, 2)
    image, mask = np.stack([rows, columns, rows], -1), 16 * rows + columns
    for seed in range(10):
        view = AlbumentationsSegmentation(str(file))(image, mask, (seed, 0))
        assert view.mask.shape == (20, 20)
        assert torch.equal(view.mask, 16 * view.image[0] + view.image[1])
