import math

import pytest
import torch
import torch.nn.functional as F

from vitlab.analysis.measures.context import label_patches
from vitlab.analysis.online_statistics import (
    LastStateRecorder,
    OnlineFeatureStatistics,
    background_class,
    label_patches_of_any_size,
)
from vitlab.encoders import Pixels, TokenSequence, ViT

GRID = (4, 4)
HALF = torch.arange(16) % 4 < 2  # the left half of the patches


class Planted(Pixels):
    """An encoder whose states are given; tokens are read behind a norm."""

    def __init__(self, x: torch.Tensor):
        super().__init__(8)
        self.x, self.embed_dim = x, x.shape[-1]

    def walk(self, images):
        yield TokenSequence(self.x, GRID)

    def read(self, state):
        return TokenSequence(F.normalize(state.x, dim=-1), GRID).tokens()

    def forward(self, images):
        raise AssertionError("one walk is enough")


def statistics(patches: torch.Tensor, cls: torch.Tensor, background: int | None = 0) -> dict:
    """What is found of planted tokens, whose left half is an object."""
    x = torch.cat([cls[:, None], patches], dim=1)
    watched = LastStateRecorder(Planted(x))
    found = OnlineFeatureStatistics(watched, background, len(x))
    mask = torch.kron(HALF.view(GRID).byte(), torch.ones(5, 5, dtype=torch.uint8))
    found.update(watched(torch.zeros(len(x), 3, 32, 32)), [mask] * len(x))
    return found.compute()


def test_object_and_background_that_share_nothing_have_no_diffusion():
    patches = F.one_hot((~HALF).long(), 4).float().expand(2, -1, -1)
    found = statistics(patches, patches[:, 0])
    assert found["diffusion_index"] == pytest.approx(0)
    assert found["cls_patch_cosine"] == pytest.approx(0.5)
    assert found["patch_patch_cosine"] == pytest.approx(2 * 8 * 7 / (16 * 15))
    assert found["feature_rank"] == pytest.approx(2, abs=1e-4)
    assert found["norm_outliers"] == 0


def test_a_planted_outlier_is_one_of_sixteen_patches():
    patches = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(0))
    patches = F.normalize(patches, dim=-1) * torch.linspace(1, 1.1, 16)[:, None]
    patches[:, 5] *= 100
    assert statistics(patches, patches[:, 0])["norm_outliers"] == pytest.approx(1 / 16)
    assert "diffusion_index" not in statistics(patches, patches[:, 0], None)
    assert background_class(("road", "sky")) is None
    assert background_class(("background", "cat")) == 0


def test_batches_do_not_change_what_is_found():
    torch.manual_seed(0)
    encoder = ViT("nano", patch_size=16, img_size=64).eval()
    images = torch.randn(4, 3, 64, 64)
    masks = [torch.randint(0, 3, (50, 70), dtype=torch.uint8) for _ in images]
    results = []
    for batch in (1, 2, 4):
        watched = LastStateRecorder(encoder)
        found = OnlineFeatureStatistics(watched, 0, len(images))
        with torch.no_grad():
            for start in range(0, 4, batch):
                part = slice(start, start + batch)
                found.update(watched(images[part]), masks[part])
        results.append(found.compute())
        assert results[-1] == pytest.approx(results[0], rel=1e-4)
    assert all(math.isfinite(value) for value in results[0].values())


def test_a_watched_encoder_returns_the_bits_of_the_encoder():
    encoder = ViT("nano", patch_size=16, img_size=64, num_registers=2).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        plain, watched = encoder(images), LastStateRecorder(encoder)(images)
    for name in ("cls", "registers", "patches"):
        assert torch.equal(getattr(plain, name), getattr(watched, name))


def test_masks_of_the_image_size_are_labeled_as_in_an_analysis():
    objects = torch.randint(0, 2, (3, 32, 32), dtype=torch.uint8)
    objects[torch.rand(3, 32, 32) < 0.4] = 255
    ours = label_patches_of_any_size(list(objects), GRID, 0)
    assert all(map(torch.equal, ours, label_patches(objects, 8)))
