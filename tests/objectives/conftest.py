from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vitlab.data.batch import Batch
from vitlab.encoders import ViT, vit
from vitlab.objectives import DINO, DINOHeadConfig


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """Make the smallest size the one of the reference."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vit.SHAPES, "nano", vit.Shape(embed_dim=32, depth=2, num_heads=2))
        yield


@pytest.fixture
def reference():
    """Numbers of facebookresearch/dino at 7c446df; see tests/references/README.md."""
    return load_file(Path(__file__).parents[1] / "references/dino.safetensors")


@pytest.fixture
def build():
    def build(encoder=None, head=None, **options):
        torch.manual_seed(0)
        encoder = ViT("nano", 8, 32, **(encoder or {}))
        return DINO(encoder, DINOHeadConfig(24, 40, 16, **(head or {})), **options)

    return build


@pytest.fixture
def labeled():
    """Four images of three of five classes."""
    g = torch.Generator().manual_seed(4)
    return Batch([torch.randn(1, 4, 3, 32, 32, generator=g)], torch.tensor([0, 3, 4, 3]))


@pytest.fixture
def batch():
    """Two large and three small crops of four images."""
    g = torch.Generator().manual_seed(4)
    crops = [torch.randn(2, 4, 3, 32, 32, generator=g), torch.randn(3, 4, 3, 16, 16, generator=g)]
    return Batch(crops)
