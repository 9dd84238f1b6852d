"""What tests of several folders share: one small collection of drawn data sets, and small runs."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from runs import run_fit

from vitlab.data.synthetic import Amounts, synthesize

SMALL = Amounts(
    imagenet_train=4,
    imagenet_val=2,
    voc_train=6,
    voc_val=4,
    ade_train=3,
    ade_val=2,
    cityscapes_train=3,
    cityscapes_val=2,
)

settings.register_profile("vitlab", deadline=None)  # a loaded machine is no failure
settings.load_profile("vitlab")
torch.set_num_threads(1)  # small tensors; and workers of a parallel test run would fight


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded data sets, a handful of images each."""
    root = tmp_path_factory.mktemp("drawn") / "synthetic"
    synthesize(root, seed=0, amounts=SMALL, processes=1)
    return root


@pytest.fixture
def fit(drawn: Path, tmp_path: Path) -> Callable[..., Path]:
    """Run `vitlab fit` in this process on the drawn data; returns the folder of the run."""

    def run(*options: str, config: str = "dino", name: str = "run") -> Path:
        head = ("--model.objective.head.out_dim", "64")
        return run_fit(tmp_path / name, drawn, [config, "demo"], *head, *options)

    return run
