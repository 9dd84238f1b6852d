"""Small protocols of trained heads."""

from dataclasses import replace

import pytest
import torch

from vitlab.data import SegmentationCrop, SingleCrop
from vitlab.encoders import ViT
from vitlab.evaluation.protocols import DenseHeads, ImageHeads
from vitlab.optim.lr_schedule import CosineAnnealing, WarmupPoly
from vitlab.probes.recipe import TrainingRecipe
from vitlab.probes.segmentation_inference import SegmentationInference


@pytest.fixture
def vit() -> ViT:
    torch.manual_seed(0)
    return ViT("nano", 8, 32).eval()


@pytest.fixture
def dense():
    """Make dense heads for crops of 32 pixels, with changes of the recipe and of others."""
    start = TrainingRecipe(WarmupPoly(warmup_steps=2), lrs=(0.05,), batch_size=4, iterations=4)

    def made(recipe: dict | None = None, **changes) -> DenseHeads:
        settings = {
            "transform": SegmentationCrop(32, 32, (1.0, 1.0), cat_max_ratio=1.0, photometric=False),
            "recipe": replace(start, **(recipe or {})),
            "inference": SegmentationInference(short=32, window=32, stride=16),
        }
        return DenseHeads(**{**settings, **changes})

    return made


@pytest.fixture
def image():
    """Make heads of images of 32 pixels."""
    start = TrainingRecipe(CosineAnnealing(), "sgd", (0.1,), batch_size=8, iterations=6)

    def made(recipe: dict | None = None, **changes) -> ImageHeads:
        settings = {"transform": SingleCrop(32), "size": 32}
        settings["recipe"] = replace(start, **(recipe or {}))
        return ImageHeads(**{**settings, **changes})

    return made


@pytest.fixture(params=["dense", "image"])
def heads(request, dense, image, make, imagenet):
    """Both kinds of heads: how they are made, and data for them."""
    return (dense, make()) if request.param == "dense" else (image, imagenet)
