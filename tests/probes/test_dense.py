import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from vitlab.encoders import Pixels
from vitlab.probes import DenseProbe, InferenceConfig
from vitlab.probes.dense import class_counts, enlarge

CPU = InferenceConfig(torch.device("cpu"), batch_size=2)


class Halves(Dataset):
    """Black images with a white part of varying width; class 1 where it is white."""

    def __init__(self, count: int, void: int = 0):
        self.count, self.void = count, void

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        image = torch.zeros(3, 32, 32)
        edge = 8 * (1 + index % 3)
        image[:, :, edge:] = 1.0
        mask = torch.zeros(64, 48, dtype=torch.uint8)  # of its own size
        mask[:, edge * 48 // 32 :] = 1
        mask[: self.void] = 255
        return image, mask


def test_colors_that_are_classes_are_told_apart():
    dense = DenseProbe(2)
    fitted = dense.fit(Pixels(8), Halves(6), CPU)
    score = dense.evaluate(Pixels(8), fitted, Halves(3), CPU)
    assert score.miou > 95
    assert score.iou.shape == (2,)


def test_batches_do_not_change_the_score():
    dense = DenseProbe(3)
    fitted = dense.fit(Pixels(8), Halves(5), CPU)
    scores = [
        dense.evaluate(Pixels(8), fitted, Halves(5), InferenceConfig(CPU.device, batch)).miou
        for batch in (1, 2, 5)
    ]
    assert scores[0] == scores[1] == scores[2]


def test_void_counts_for_nothing():
    dense = DenseProbe(2)
    patches = dense.patches(Pixels(8), Halves(1, void=64), CPU)
    assert len(patches.x) == 0
    half_void = dense.patches(Pixels(8), Halves(1, void=32), CPU)
    assert len(half_void.x) == 8  # the lower two of four rows of patches
    fitted = dense.fit(Pixels(8), Halves(6), CPU)
    score = dense.evaluate(Pixels(8), fitted, Halves(2, void=64), CPU)
    assert math.isnan(score.miou)


def test_targets_are_the_cross_entropy_of_pixels():
    """Soft targets of patches equal all pixels under logits that are repeated over the patch."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.randint(0, 3, (16, 16), generator=generator).to(torch.uint8)
    logits = torch.randn(4, 3, generator=generator)
    target = DenseProbe(3).share_of_classes(mask, (2, 2))
    repeated = F.interpolate(logits.T.reshape(1, 3, 2, 2), scale_factor=8, mode="nearest")
    by_pixel = F.cross_entropy(repeated, mask[None].long())
    assert F.cross_entropy(logits, target) == pytest.approx(float(by_pixel), abs=1e-6)


def test_pixels_of_no_class_are_counted_behind_the_classes():
    mask = torch.tensor([[0, 0, 1, 255], [0, 255, 1, 1]], dtype=torch.uint8)
    assert class_counts(mask, (1, 2), 2).tolist() == [[3, 0, 1], [0, 3, 1]]
    # patches that do not tile the mask still share out all of it
    assert int(class_counts(mask, (1, 3), 2).sum()) == 8


def test_masks_of_void_alone_are_refused():
    with pytest.raises(ValueError, match="nothing to learn from"):
        DenseProbe(2).fit(Pixels(8), Halves(2, void=64), CPU)


def test_enlarging_keeps_a_constant():
    assert torch.allclose(enlarge(torch.full((2, 3, 4), 0.5), (11, 7)), torch.tensor(0.5))
