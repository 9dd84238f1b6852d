from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

StateDict = dict[str, torch.Tensor]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(content: dict, name: str = "weights.pth") -> Path:
        path = tmp_path / name
        if path.suffix == ".safetensors":
            save_file({key: value.contiguous() for key, value in content.items()}, path)
        else:
            torch.save(content, path)
        return path

    return write


@pytest.fixture
def dino(build) -> StateDict:
    """The tensors of a file that DINO released, of a tiny encoder for 32 x 32 images."""
    return build(pos_interpolation="dino").state_dict()


@pytest.fixture
def same(same_tokens) -> Callable[..., None]:
    def same(ours: nn.Module, theirs: nn.Module) -> None:
        a, b = ours.state_dict(), theirs.state_dict()
        assert list(a) == list(b)
        assert all(a[name].equal(b[name]) for name in a)
        for size in ((32, 32), (40, 56), (64, 64)):
            images = torch.randn(2, 3, *size)
            with torch.no_grad():
                # kernels differ in the last bit by where tensors lie in memory
                same_tokens(ours(images), theirs(images), 1e-6)

    return same
