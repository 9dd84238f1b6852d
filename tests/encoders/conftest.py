import pytest
import torch

from vitlab.encoders import vit


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Make the smallest size smaller still."""
    monkeypatch.setitem(vit.SHAPES, "nano", vit.Shape(embed_dim=32, depth=3, num_heads=2))


@pytest.fixture
def build():
    """Return a function that makes a tiny ViT for 32 x 32 images whose weights are all random."""

    def build(**options):
        torch.manual_seed(0)
        return jitter(vit.ViT("nano", 8, 32, **options)).eval()

    return build


def jitter(module):
    """Move all parameters away from their initial values, which could hide mistakes."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return module


@pytest.fixture(name="jitter")
def jitter_fixture():
    return jitter


@pytest.fixture
def images():
    """Two images of a size no test's encoder is made for."""
    return torch.randn(2, 3, 40, 56, generator=torch.Generator().manual_seed(2))


def assert_same_tokens(ours, theirs, atol=0.0, rtol=0.0):
    for part in ("cls", "registers", "patches"):
        torch.testing.assert_close(getattr(ours, part), getattr(theirs, part), rtol=rtol, atol=atol)


@pytest.fixture(name="same_tokens")
def same_tokens_fixture():
    return assert_same_tokens
