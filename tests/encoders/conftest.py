import pytest
import torch

from vitlab.encoders import Tokens, vit


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Make the smallest size smaller still."""
    monkeypatch.setitem(vit.SHAPES, "nano", vit.Shape(embed_dim=32, depth=3, num_heads=2))


@pytest.fixture
def build(jitter):
    def build(**options):
        torch.manual_seed(0)
        return jitter(vit.ViT("nano", 8, 32, **options)).eval()

    return build


@pytest.fixture
def jitter():
    """Return a function that moves parameters from initial values, which could hide mistakes."""

    def jitter(module):
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        return module

    return jitter


@pytest.fixture
def images():
    """Two images of a size no test's encoder is made for."""
    return torch.randn(2, 3, 40, 56, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def same_tokens():
    """Return a function that compares tokens with ours or with a sequence of timm's features."""

    def same_tokens(ours, theirs, atol=0.0, rtol=0.0):
        if isinstance(theirs, torch.Tensor):
            prefix = 1 + ours.registers.shape[1]
            theirs = Tokens(theirs[:, 0], theirs[:, 1:prefix], theirs[:, prefix:], ours.grid)
        for part in ("cls", "registers", "patches"):
            found, expected = getattr(ours, part), getattr(theirs, part)
            torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)

    return same_tokens
