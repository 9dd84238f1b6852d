import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vitlab.data import MEAN, STD, CenterCrop, MultiCrop, read_image
from vitlab.data.transforms import SingleCrop, normalize, resize, stack_of
from vitlab.data.transforms.color import Jitter
from vitlab.data.transforms.random_crop import RandomCrop, uniforms

ALL = (MultiCrop(32, 16, 3), SingleCrop(32, color_jitter=0.4), CenterCrop(32))

MEANS = torch.tensor(MEAN).view(3, 1, 1)
STDS = torch.tensor(STD).view(3, 1, 1)


@pytest.fixture
def image(tmp_path, draw):
    return read_image(draw(tmp_path / "a.png", size=(60, 50)))


def test_each_view_has_the_probabilities_of_the_released_code():
    views = MultiCrop()
    common = {
        "flip": 0.5,
        "jitter": Jitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1),
        "jittered": 0.8,
        "gray": 0.2,
        "sigmas": (0.1, 2.0),
    }
    assert views.first == RandomCrop(224, (0.4, 1.0), blur=1.0, solarize=0.0, **common)
    assert views.second == RandomCrop(224, (0.4, 1.0), blur=0.1, solarize=0.2, **common)
    assert views.local == RandomCrop(96, (0.05, 0.4), blur=0.5, solarize=0.0, **common)


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.integers(1, 60), st.integers(1, 60)) | st.sampled_from([(1, 400), (400, 20)]),
    st.integers(0, 2**64),
)
def test_images_of_any_size_have_all_views(size, seed):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    for views in (MultiCrop(24, 12, 2), SingleCrop(24, color_jitter=0.4), CenterCrop(24)):
        shapes = [tuple(stack.shape) for stack in views(image, seed)]
        assert shapes == [(count, 3, edge, edge) for count, edge in views.crop_sizes]


def test_an_even_image_stays_even():
    """Whatever resampling and blur do at the borders, they invent no contrast."""
    for value in (0, 1, 127, 128, 254, 255):
        image = np.full((50, 70, 3), value, np.uint8)
        for seed in range(5):
            for stack in MultiCrop(32, 16, 4)(image, seed):
                assert (stack == stack[..., :1, :1]).all()


def test_a_gray_image_stays_gray():
    rough = np.random.default_rng(0).integers(0, 256, (60, 80, 1), dtype=np.uint8)
    for stack in MultiCrop(32, 16, 8)(np.repeat(rough, 3, axis=2), 0):
        assert (stack == stack[:, :1]).all()


def test_a_reduced_image_suffices_for_the_smallest_crop():
    assert CenterCrop().min_size == (0, 0)  # published evaluations see every pixel
    # a crop of 5 % of the area, 3/4 as wide as high, of 496 x 496 pixels is 111 high and 96 wide
    assert MultiCrop().min_size == (496, 496)
    assert MultiCrop(num_local_crops=0).min_size == (409, 409)
    assert SingleCrop().min_size == (915, 915)
    for views in (MultiCrop(), SingleCrop()):
        crops = [views.first, views.local] if isinstance(views, MultiCrop) else [views.crop]
        numbers = uniforms(0)
        for height, width in (views.min_size, (views.min_size[0], 3 * views.min_size[0])):
            for crop in crops * 300:
                box = crop.draw(height, width, numbers).box
                assert min(box.height, box.width) >= crop.size - 1  # sides are rounded


def test_the_same_seed_gives_the_same_crops_and_another_gives_others(image):
    for views in (MultiCrop(32, 16, 3), SingleCrop(32, color_jitter=0.4)):
        copied = pickle.loads(pickle.dumps(views))(image, [0, 1, 2])
        one, other, again = (views(image, [0, 1, seed]) for seed in (2, 3, 2))
        for a, b, c, d in zip(one, again, other, copied, strict=True):
            assert torch.equal(a, b)
            assert torch.equal(a, d)
            assert not torch.equal(a, c)


def test_crops_of_an_image_differ_from_each_other(image):
    large, small = MultiCrop(32, 16, 3)(image, 0)
    assert not torch.equal(large[0], large[1])
    assert not torch.equal(small[0], small[1])


def test_crops_have_the_sizes_that_are_promised(image):
    for views in (*ALL, MultiCrop(16, 16, 0), CenterCrop(32, share=1.0)):
        stacks = views(image, 0)
        shapes = [tuple(stack.shape) for stack in stacks]
        assert shapes == [(count, 3, size, size) for count, size in views.crop_sizes]
        assert all(stack.dtype == torch.uint8 for stack in stacks)
        # as they lie in memory, channels come last
        assert all(stack[0].permute(1, 2, 0).stride(2) == 1 for stack in stacks)


def test_the_image_is_left_as_it_was(image):
    before = image.copy()
    # also where a crop has the size of the part that it is made of, so that nothing is resampled
    for views in (*ALL, MultiCrop(50, 50, 3, scale=(1.0, 1.0))):
        for seed in range(10):
            views(image, seed)
    assert (image == before).all()


def test_views_draw_nothing_from_global_random_numbers(image):
    np.random.seed(0)  # noqa: NPY002, the stream that must stay untouched
    torch.manual_seed(0)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    for views in ALL:
        views(image, 0)
    assert (before[0] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert torch.equal(before[1], torch.get_rng_state())


def test_normalization_is_undone_by_the_exported_constants(image):
    stack = stack_of(image[None])
    restored = (normalize(stack) * STDS + MEANS) * 255
    assert torch.allclose(restored, stack.float(), atol=1e-3)
    assert restored.is_contiguous()


@pytest.mark.parametrize("size", [(60, 50), (50, 61), (33, 33), (400, 20)])
@pytest.mark.parametrize(("share", "short"), [(0.875, 37), (1.0, 32), (0.5, 64)])
def test_the_center_crop_equals_pil_resizing(tmp_path, draw, size, share, short):
    image = read_image(draw(tmp_path / "b.png", size=size))
    width, height = size
    edge = 32
    new = (short * width // min(size), short * height // min(size))
    resized = Image.fromarray(image).resize(new, Image.Resampling.BICUBIC)
    left, top = round((new[0] - edge) / 2), round((new[1] - edge) / 2)
    expected = np.array(resized.crop((left, top, left + edge, top + edge)))
    got = CenterCrop(32, share)(image)[0][0].permute(1, 2, 0).numpy()
    assert abs(got.astype(int) - expected).max() <= 1


def test_the_center_crop_has_the_short_side_that_classifiers_are_evaluated_with():
    assert [CenterCrop(size).short for size in (224, 384, 96)] == [256, 439, 110]


def test_the_whole_view_equals_pil_resizing(image):
    expected = np.array(Image.fromarray(image).resize((24, 24), Image.Resampling.BICUBIC))
    assert abs(resize(image, 24, 24).astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("views", "wrong", "message"),
    [
        (MultiCrop, {"size": 0}, "size 0 .* use a positive number"),
        (MultiCrop, {"local_size": -96}, "local_size -96 .* use a positive number"),
        (MultiCrop, {"num_local_crops": -1}, "num_local_crops -1 is negative; use 0"),
        (MultiCrop, {"scale": (1.0, 0.4)}, r"scale \(1.0, 0.4\) .* two numbers in \(0, 1\]"),
        (MultiCrop, {"scale": (0.4, 1.2)}, r"scale \(0.4, 1.2\)"),
        (MultiCrop, {"local_scale": (0.0, 0.4)}, r"local_scale \(0.0, 0.4\)"),
        (SingleCrop, {"size": 0}, "size 0"),
        (SingleCrop, {"scale": (0.0, 1.0)}, r"scale \(0.0, 1.0\)"),
        (
            SingleCrop,
            {"color_jitter": 1.5},
            "color_jitter 1.5 is not between 0 and 1; 0 leaves it out",
        ),
        (SingleCrop, {"flip": -0.5}, "flip -0.5 is not between 0 and 1"),
        (CenterCrop, {"share": 0.0}, r"share 0.0 .* use a number in \(0, 1\]"),
        (CenterCrop, {"share": 1.1}, "share 1.1"),
    ],
)
def test_wrong_arguments_are_refused_with_a_remedy(views, wrong, message):
    with pytest.raises(ValueError, match=message):
        views(**wrong)
