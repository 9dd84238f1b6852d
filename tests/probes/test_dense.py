import math

import pytest
import torch
import torch.nn.functional as F
from refusals import refused
from torch.utils.data import Dataset

from vitlab.encoders import Pixels
from vitlab.probes import DenseProbe, InferenceConfig
from vitlab.probes.dense import class_counts, encode_by, patch_logits, upsample

CPU = InferenceConfig(torch.device("cpu"), batch_size=2)


class Halves(Dataset):
    """Black images with a white part of varying width; class 1 where it is white."""

    def __init__(self, count: int, void: int = 0, bad: bool = False):
        self.count, self.void, self.bad = count, void, bad

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        image = torch.zeros(3, 32, 32)
        edge = 8 * (1 + index % 3)
        image[:, :, edge:] = 1.0
        image[0, 0, 0] = torch.nan if self.bad else 0.0
        mask = torch.zeros(64, 48, dtype=torch.uint8)  # of its own size
        mask[:, edge * 48 // 32 :] = 1
        mask[: self.void] = 255
        return image, mask


PIXELS = encode_by(Pixels(8), CPU)


def test_classes_of_color_are_separated_whatever_the_batch_size():
    probe = DenseProbe(2)
    fitted = probe.fit(PIXELS, Halves(6), CPU)
    scores = [
        probe.score(PIXELS, fitted, Halves(3), InferenceConfig(CPU.device, size))[0].value
        for size in (1, 2, 5)
    ]
    assert scores[0] > 95
    assert scores[0] == scores[1] == scores[2]
    image, mask = Halves(1)[0]
    logits = upsample(patch_logits(fitted[0], *PIXELS(image[None])), mask.shape)
    assert (logits[0].argmax(0) == mask).float().mean() > 0.9


def test_void_counts_for_nothing_and_features_that_are_not_finite_are_refused():
    probe = DenseProbe(2)
    rows = [len(next(probe.tables(PIXELS, Halves(1, void), CPU))[0]) for void in (64, 32)]
    assert rows == [0, 8]  # the lower two of four rows of patches
    fitted = probe.fit(PIXELS, Halves(6), CPU)
    (counts,) = probe.score(PIXELS, fitted, Halves(2, void=64), CPU)
    assert math.isnan(counts.value)
    for field, use in (
        ("data", lambda: probe.fit(PIXELS, Halves(2, void=64), CPU)),
        ("features", lambda: probe.fit(PIXELS, Halves(3, bad=True), CPU)),
        ("features", lambda: probe.score(PIXELS, fitted, Halves(3, bad=True), CPU)),
    ):
        with refused(field):
            use()


def test_targets_are_the_cross_entropy_of_pixels():
    """Soft targets of patches equal all pixels under logits that are repeated over the patch."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.randint(0, 3, (16, 16), generator=generator).to(torch.uint8)
    logits = torch.randn(4, 3, generator=generator)
    target = DenseProbe(3).class_shares(mask, (2, 2))
    repeated = F.interpolate(logits.T.reshape(1, 3, 2, 2), scale_factor=8, mode="nearest")
    by_pixel = F.cross_entropy(repeated, mask[None].long())
    assert F.cross_entropy(logits, target) == pytest.approx(float(by_pixel), abs=1e-6)


def test_pixels_of_no_class_are_counted_in_the_last_column():
    mask = torch.tensor([[0, 0, 1, 255], [0, 255, 1, 1]], dtype=torch.uint8)
    assert class_counts(mask, (1, 2), 2).tolist() == [[3, 0, 1], [0, 3, 1]]
    # patches that do not tile the mask still share out all of it
    assert int(class_counts(mask, (1, 3), 2).sum()) == 8
