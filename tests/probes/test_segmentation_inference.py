import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from refusals import refused

from vitlab.data import normalize
from vitlab.encoders import Pixels
from vitlab.probes import InferenceConfig
from vitlab.probes.layer_selection import FeatureSpec, LayerSelection
from vitlab.probes.segmentation_inference import SegmentationInference, resize_mask

CPU = InferenceConfig(torch.device("cpu"))
PATCH = 8
CLASSES = 5
GENERATOR = torch.Generator().manual_seed(0)
WEIGHT = torch.randn(3 * PATCH * PATCH, CLASSES, generator=GENERATOR) / 10


def image(height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    small = torch.randint(0, 256, (1, 3, 9, 9), generator=generator).float()
    large = F.interpolate(small, (height, width), mode="bilinear")
    return large[0].to(torch.uint8)


def logits(features: dict[str, torch.Tensor]) -> torch.Tensor:
    (x,) = features.values()
    return x @ WEIGHT


def predict(
    test: SegmentationInference, images: list[torch.Tensor], size: tuple[int, int], fit="refuse"
):
    views = test.encode(Pixels(PATCH), FeatureSpec(fit=fit), images, CPU)
    return test.predict(views, logits, size)


def by_hand(part: torch.Tensor) -> torch.Tensor:
    """Logits of the pixels of one window."""
    weight = WEIGHT.T.reshape(CLASSES, 3, PATCH, PATCH)
    small = F.conv2d(normalize(part[None]), weight, stride=PATCH)
    return F.interpolate(small, part.shape[-2:], mode="bilinear")[0]


def slide_by_hand(whole: torch.Tensor, size: int, stride: int, probabilities: bool):
    """Sum and count as mmsegmentation does it, written apart from `slide`."""
    height, width = whole.shape[-2:]
    total, count = torch.zeros(CLASSES, height, width), torch.zeros(height, width)
    for row in range(max(math.ceil((height - size) / stride), 0) + 1):
        for column in range(max(math.ceil((width - size) / stride), 0) + 1):
            bottom, right = min(row * stride + size, height), min(column * stride + size, width)
            top, left = max(bottom - size, 0), max(right - size, 0)
            scores = by_hand(whole[:, top:bottom, left:right])
            total[:, top:bottom, left:right] += scores.softmax(0) if probabilities else scores
            count[top:bottom, left:right] += 1
    return total / count


def agree(found: torch.Tensor, scores: torch.Tensor) -> None:
    """The same classes, but where two are equal up to rounding."""
    assert found.shape == scores.shape[-2:]
    expected = scores.argmax(0)
    first, second = scores.topk(2, dim=0).values
    assert torch.equal(found[first - second > 1e-4], expected[first - second > 1e-4])
    assert (first - second > 1e-4).float().mean() > 0.99


@pytest.mark.parametrize(
    ("height", "width", "average"),
    [(48, 72, "logits"), (32, 61, "probabilities"), (32, 32, "logits"), (80, 33, "probabilities")],
)
def test_windows_are_averaged_as_by_hand(height: int, width: int, average):
    whole = image(height, width)
    test = SegmentationInference(short=32, window=32, stride=20, average=average)
    scores = slide_by_hand(whole, 32, 20, average == "probabilities")
    agree(predict(test, [whole], (height, width)), scores)
    enlarged = F.interpolate(scores[None], (91, 57), mode="bilinear")[0]
    agree(predict(test, [whole], (91, 57)), enlarged)


def test_a_whole_image_is_one_window():
    whole = image(48, 72)
    found = predict(SegmentationInference(short=48), [whole], (48, 72))
    agree(found, by_hand(whole))
    windowed = SegmentationInference(short=48, window=500, stride=300)
    assert torch.equal(predict(windowed, [whole], (48, 72)), found)


def test_scales_and_flips_average_probabilities():
    images = [image(32, 48, 1), image(48, 72, 2)]
    test = SegmentationInference(short=32, window=32, stride=16, ratios=(1.0, 1.5), flip=True)
    total = torch.zeros(CLASSES, 40, 50)
    for each in images:
        for mirrored in (False, True):
            scores = slide_by_hand(each.flip(-1) if mirrored else each, 32, 16, False)
            scores = F.interpolate(scores[None], (40, 50), mode="bilinear")[0].softmax(0)
            total += scores.flip(-1) if mirrored else scores
    agree(predict(test, images, (40, 50)), total / 4)


def test_at_100_pixels_logits_go_there_at_once():
    whole = image(64, 64)
    small = FeatureSpec().read(Pixels(PATCH), whole[None], CPU)
    (features,) = small.features.values()
    scores = F.interpolate(
        (features @ WEIGHT).transpose(1, 2).unflatten(2, (8, 8)), (20, 20), mode="bilinear"
    )[0]
    test = SegmentationInference(short=64, square=True, pixels=20)
    agree(predict(test, [whole], (171, 93)), scores)
    mask = torch.from_numpy(np.random.default_rng(0).integers(0, 9, (171, 93)).astype(np.uint8))
    truth = test.target(mask)
    assert truth.shape == (20, 20)
    assert truth[3, 7] == mask[int(3.5 * 171 / 20), int(7.5 * 93 / 20)]
    assert torch.equal(resize_mask(mask[None], 0)[0], mask)


@pytest.mark.parametrize("fit", ["pad", "pad end", "crop"])
def test_sides_that_are_no_multiple_of_the_patch_are_made_one(fit):
    whole = image(30, 45)
    maps = FeatureSpec(fit=fit).read(Pixels(PATCH), whole[None], CPU)
    values = normalize(whole[None])
    if fit == "crop":
        expected, grid = values[..., :24, :40], (3, 5)
    else:
        down, across = (0, 0) if fit == "pad end" else (1, 1)  # of 2 and 3 pixels
        expected, grid = torch.zeros(1, 3, 32, 48), (4, 6)
        expected[..., down : down + 30, across : across + 45] = values
    assert maps.grid == grid
    (found,) = maps.features.values()
    assert torch.equal(found, Pixels(PATCH)(expected).patches)
    assert predict(SegmentationInference(short=30), [whole], (30, 45), fit).shape == (30, 45)


def test_impossible_settings_are_refused():
    for field, wrong in (
        ("ratios", {"ratios": ()}),
        ("short", {"short": 0, "square": True}),
        ("pixels", {"pixels": 100, "flip": True}),
        ("pixels", {"pixels": 100, "window": 32, "stride": 20}),
    ):
        with refused(f"protocol.inference.{field}"):
            SegmentationInference(**wrong)
    for wrong in ({"window": 32, "stride": 33}, {"window": 32}):
        with pytest.raises(ValueError, match=r"gaps|not a length"):
            SegmentationInference(**wrong)


def test_sizes_that_differ_need_a_way_to_fit():
    for expected, settings in (
        (512, {"short": 512, "window": 512, "stride": 341}),
        (0, {"short": 512, "window": 512, "stride": 341, "aspect": 4}),  # narrow images
        (0, {"short": 448, "window": 512, "stride": 341}),
        (448, {"short": 448, "square": True}),
        (0, {"short": 448}),
    ):
        assert SegmentationInference(**settings).edge() == expected
    for encoder, size in ((Pixels(14), 512), (Pixels(16), 0)):
        with refused("protocol.features.fit"):
            FeatureSpec().check(encoder, size, "test.window")
    FeatureSpec(fit="crop").check(Pixels(14), 512, "test.window")
    with refused("layers"):
        FeatureSpec((LayerSelection((3,)),), fit="pad").check(Pixels(16), 512, "test.window")
    with refused("protocol.features.cls"):
        FeatureSpec(cls=(True, True))
