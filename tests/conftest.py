"""What tests of several folders share: one small collection of drawn data sets, and small runs."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vitlab.cli import main
from vitlab.data.synthetic import Amounts, synthesize

ROOT = Path(__file__).parents[1]
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

    def run(*options: str, config: str = "dino", name: str = "run", demo: bool = True) -> Path:
        folder = tmp_path / name
        overlays = ["--config", str(ROOT / "configs/demo.yaml")] if demo else []
        main(
            [
                "fit",
                *("--config", str(ROOT / f"configs/{config}.yaml"), *overlays),
                *("--run-dir", str(folder), "--synthetic.root", ""),
                *("--data.root", str(drawn / "imagenet"), "--data.num_workers", "0"),
                *("--probing.dense.voc2012.root", str(drawn / "VOCdevkit")),
                *("--probing.num_workers", "0", "--trainer.enable_progress_bar", "false"),
                *("--trainer.accelerator", "cpu", "--trainer.devices", "1"),
                *("--trainer.precision", "32-true", "--data.global_batch_size", "20"),
                *("--trainer.max_epochs", "2", "--model.optimizer.warmup_epochs", "1"),
                *("--model.objective.head.out_dim", "64"),
                *options,
            ]
        )
        return folder

    return run
