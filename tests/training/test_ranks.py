"""Two processes with gloo do what one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_ranks_take_the_steps_of_one_and_agree_on_its_scores(drawn: Path, tmp_path: Path):
    def fit(name: str, *options: str) -> Path:
        folder = tmp_path / name
        command = [
            *(sys.executable, "-m", "vitlab", "fit"),
            *("--config", str(ROOT / "configs/dino_registers.yaml")),
            *("--config", str(ROOT / "configs/demo.yaml"), "--synthetic.root", ""),
            *("--data.root", str(drawn / "imagenet"), "--data.workers", "0"),
            *("--probing.dense.voc2012.root", str(drawn / "VOCdevkit")),
            *("--probing.workers", "0", "--trainer.enable_progress_bar", "false"),
            *("--trainer.precision", "32-true", "--data.batch_size", "20"),
            *("--trainer.max_epochs", "2", "--model.optimizer.warmup", "1"),
            *("--run", str(folder), *options),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return folder

    one = fit("one")
    two = fit("two", "--trainer.devices", "2", "--trainer.strategy", "ddp")
    ours, theirs = (
        torch.load(folder / "last.ckpt", weights_only=True)["state_dict"] for folder in (one, two)
    )
    for name, tensor in ours.items():
        assert torch.allclose(tensor, theirs[name], atol=2e-4), name
    first, second = (json.loads((folder / "results.json").read_text()) for folder in (one, two))
    for a, b in zip(first[:2], second[:2], strict=True):  # before training: the same weights
        assert a == pytest.approx(b, abs=1e-3)
