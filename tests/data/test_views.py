import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from vitlab.data import MEAN, STD, CenterCrop, MultiCrop, Whole, read_image
from vitlab.data.views import normalize, resize

MEANS = torch.tensor(MEAN).view(3, 1, 1)
STDS = torch.tensor(STD).view(3, 1, 1)


@pytest.fixture
def image(tmp_path, draw):
    return read_image(draw(tmp_path / "a.png", size=(60, 50)))


def steps(pipeline):
    return {type(step).__name__: step for step in pipeline.transforms}


def test_each_view_has_the_probabilities_of_the_released_code():
    views = MultiCrop()
    for pipeline, blur, solarize in [
        (views.first, 1.0, 0.0),
        (views.second, 0.1, 0.2),
        (views.local, 0.5, 0.0),
    ]:
        found = steps(pipeline)
        order = ["RandomResizedCrop", "HorizontalFlip", "ColorJitter", "ToGray", "GaussianBlur"]
        assert list(found) == [*order, "Solarize"]
        assert found["HorizontalFlip"].p == 0.5
        assert found["ColorJitter"].p == 0.8
        assert found["ColorJitter"].brightness == found["ColorJitter"].contrast == (0.6, 1.4)
        assert found["ColorJitter"].saturation == (0.8, 1.2)
        assert found["ColorJitter"].hue == (-0.1, 0.1)
        assert found["ToGray"].p == 0.2
        assert found["GaussianBlur"].p == blur
        assert found["GaussianBlur"].sigma_limit == (0.1, 2.0)
        assert found["Solarize"].p == solarize
        assert found["RandomResizedCrop"].ratio == (3 / 4, 4 / 3)
    assert steps(views.first)["RandomResizedCrop"].scale == (0.4, 1.0)
    assert steps(views.local)["RandomResizedCrop"].scale == (0.05, 0.4)


def test_blur_is_always_on_the_first_crop_and_solarization_only_on_the_second(image):
    views = MultiCrop(16, 8, 1)
    counts = Counter()
    trials = 400
    for seed in range(trials):
        views(image, seed)
        for name in ("first", "second", "local"):
            # a step keeps the parameters of its last use, and none if it was left out
            counts.update(
                (name, kind) for kind, s in steps(getattr(views, name)).items() if s.params
            )
    assert counts["first", "GaussianBlur"] == trials
    assert counts["first", "Solarize"] == counts["local", "Solarize"] == 0
    for name, kind, chance in [
        ("second", "GaussianBlur", 0.1),
        ("second", "Solarize", 0.2),
        ("local", "GaussianBlur", 0.5),
        ("first", "HorizontalFlip", 0.5),
        ("first", "ColorJitter", 0.8),
        ("second", "ToGray", 0.2),
        ("local", "ToGray", 0.2),
    ]:
        spread = (trials * chance * (1 - chance)) ** 0.5
        # five standard deviations: one false alarm in a million changes of the random stream
        assert abs(counts[name, kind] - trials * chance) < 5 * spread, (name, kind)


def test_solarization_inverts_from_128_on():
    solarize = steps(MultiCrop().second)["Solarize"]
    values = np.tile(np.array([[0, 127, 128, 255]], dtype=np.uint8)[..., None], 3)
    assert solarize.apply(values, threshold=0.5)[0, :, 0].tolist() == [0, 127, 127, 0]


def test_the_same_seed_gives_the_same_crops_and_another_gives_others(image):
    views = MultiCrop(32, 16, 3)
    one, again, other = views(image, [0, 1, 2]), views(image, [0, 1, 2]), views(image, [0, 1, 3])
    copied = pickle.loads(pickle.dumps(views))(image, [0, 1, 2])
    for a, b, c, d in zip(one, again, other, copied, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, d)
        assert not torch.equal(a, c)


def test_crops_of_an_image_differ_from_each_other(image):
    large, small = MultiCrop(32, 16, 3)(image, 0)
    assert not torch.equal(large[0], large[1])
    assert not torch.equal(small[0], small[1])


def test_crops_have_the_sizes_that_are_promised(image):
    for views in (MultiCrop(32, 16, 3), MultiCrop(16, 16, 0), CenterCrop(32), Whole(24)):
        shapes = [tuple(stack.shape) for stack in views(image, 0)]
        assert shapes == [(count, 3, size, size) for count, size in views.crops]
        assert all(stack.is_contiguous() for stack in views(image, 0))


def test_the_image_is_left_as_it_was(image):
    before = image.copy()
    for views in (MultiCrop(32, 16, 3), CenterCrop(32), Whole(24)):
        views(image, 0)
    assert (image == before).all()


def test_views_draw_nothing_from_global_random_numbers(image):
    np.random.seed(0)  # noqa: NPY002, the stream that must stay untouched
    torch.manual_seed(0)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    MultiCrop(32, 16, 3)(image, 0)
    assert (before[0] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert torch.equal(before[1], torch.get_rng_state())


def test_normalization_is_undone_by_the_exported_constants(image):
    restored = (normalize(image[None]) * STDS + MEANS) * 255
    assert torch.allclose(restored[0], torch.from_numpy(image).permute(2, 0, 1).float(), atol=1e-3)


@pytest.mark.parametrize("size", [(60, 50), (50, 61), (33, 33), (400, 20)])
def test_the_center_crop_equals_pil_resizing(tmp_path, draw, size):
    image = read_image(draw(tmp_path / "b.png", size=size))
    width, height = size
    short, edge = 37, 32  # 32 * 256 / 224 rounded
    new = (short * width // min(size), short * height // min(size))
    resized = Image.fromarray(image).resize(new, Image.Resampling.BICUBIC)
    left, top = round((new[0] - edge) / 2), round((new[1] - edge) / 2)
    expected = np.array(resized.crop((left, top, left + edge, top + edge)))
    got = (CenterCrop(32)(image)[0][0] * STDS + MEANS) * 255
    assert abs(got.permute(1, 2, 0).numpy() - expected).max() < 1.01  # one level of rounding


def test_the_whole_view_equals_pil_resizing(image):
    expected = np.array(Image.fromarray(image).resize((24, 24), Image.Resampling.BICUBIC))
    assert abs(resize(image, 24, 24).astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 0}, "size 0 .* use a positive number"),
        ({"local_size": -96}, "local_size -96 .* use a positive number"),
        ({"locals": -1}, "locals -1 is negative; use 0"),
        ({"scale": (1.0, 0.4)}, r"scale \(1.0, 0.4\) .* use two numbers in \(0, 1\]"),
        ({"scale": (0.4, 1.2)}, r"scale \(0.4, 1.2\)"),
        ({"local_scale": (0.0, 0.4)}, r"local_scale \(0.0, 0.4\)"),
    ],
)
def test_wrong_arguments_are_refused_with_a_remedy(wrong, message):
    with pytest.raises(ValueError, match=message):
        MultiCrop(**wrong)
