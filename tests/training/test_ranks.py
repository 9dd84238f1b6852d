"""Two processes with gloo do what one does."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from chaos import Attempt, Setting, command

from vitlab.data.batch import Batch
from vitlab.encoders import ViT
from vitlab.encoders.cls_specialization import CLSSpecialization
from vitlab.encoders.locality import Locality
from vitlab.objectives import DINO, Classification, DINOHeadConfig, Objective
from vitlab.optim.schedules import Progress

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_ranks_take_the_steps_of_one_and_agree_on_its_scores(drawn: Path, tmp_path: Path):
    def fit(name: str, *options: str) -> Path:
        folder = tmp_path / name
        command = [
            *(sys.executable, "-m", "vitlab", "fit"),
            *("--config", str(ROOT / "configs/dino_registers.yaml")),
            *("--config", str(ROOT / "configs/demo.yaml"), "--synthetic.root", ""),
            *("--data.root", str(drawn / "imagenet"), "--data.num_workers", "0"),
            *("--probing.dense.voc2012.root", str(drawn / "VOCdevkit")),
            *("--probing.num_workers", "0", "--trainer.enable_progress_bar", "false"),
            *("--trainer.precision", "32-true", "--data.global_batch_size", "20"),
            *("--trainer.max_epochs", "2", "--model.optimizer.warmup_epochs", "1"),
            *("--run-dir", str(folder), *options),
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


def gradients(folder: Path) -> dict[int, torch.Tensor]:
    """Return the gradients of a first step: AdamW's average of them begins with a tenth."""
    (state,) = torch.load(folder / "last.ckpt", weights_only=True)["optimizer_states"]
    return {index: 10 * values["exp_avg"] for index, values in state["state"].items()}


@pytest.mark.slow
@pytest.mark.parametrize("clip", ["each", "all"])
def test_a_global_batch_has_the_same_gradients_however_it_is_divided(fit, drawn, tmp_path, clip):
    """One step: on one rank, on one in four micro-batches, and on two in two; clipped hard."""
    options = (
        "--data.global_batch_size",
        "40",
        "--trainer.max_epochs",
        "1",
        "--probing.dense",
        "{}",
    )
    options += ("--probing.every_n_epochs", "0", "--probing.baselines", "false")
    options += ("--model.optimizer.clip_grad_norm", "0.01", "--model.optimizer.clip_mode", clip)
    options += ("--model.objective.freeze_last_layer", "0", "--model.optimizer.warmup_epochs", "0")
    whole = fit(*options, name="whole")
    parts = fit(*options, "--data.micro_batch_size", "10", name="parts")
    ranks = tmp_path / "ranks"
    words = [
        *(sys.executable, "-m", "vitlab", "fit", "--config", str(ROOT / "configs/dino.yaml")),
        *("--config", str(ROOT / "configs/demo.yaml"), "--synthetic.root", ""),
        *("--data.root", str(drawn / "imagenet"), "--data.num_workers", "0"),
        *("--run-dir", str(ranks)),
        *("--trainer.precision", "32-true", "--trainer.enable_progress_bar", "false"),
        *("--model.objective.head.out_dim", "64", *options),
        *("--data.micro_batch_size", "10", "--trainer.devices", "2", "--trainer.strategy", "ddp"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = gradients(whole)
    scale = max(gradient.abs().max() for gradient in expected.values())
    for other in (parts, ranks):
        for index, gradient in gradients(other).items():
            torch.testing.assert_close(gradient, expected[index], rtol=1e-5, atol=1e-6 * scale)
        center = "objective.center"
        ours, theirs = (
            torch.load(folder / "last.ckpt", weights_only=True)["state_dict"][center]
            for folder in (whole, other)
        )
        torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-6)


OPTIONS = [
    {},
    {"num_registers": 2},
    {"normalizer": "entmax15"},
    {"cls_specialization": CLSSpecialization(norm=1.0, qkv=0.5, proj=0.5, mlp=0.5)},
    {"cls_specialization": CLSSpecialization(norm=1.0, mlp=1.0), "num_registers": 2},
    {"locality": Locality("gaussian", refine=True)},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "+".join(options) or "plain")
@pytest.mark.parametrize("kind", ["dino", "labels"])
def test_every_trained_parameter_takes_part_in_the_loss(options, kind):
    """So that ranks need not look for unused ones (find_unused_parameters)."""
    encoder = ViT("nano", 8, 32, **options)
    images = torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    objective: Objective = DINO(encoder, DINOHeadConfig(16, 24, 8))
    batch = Batch([images, images[..., :16, :16]])
    if kind == "labels":
        objective = Classification(encoder, 4)
        batch = Batch([images[:1]], torch.arange(4))
    objective.loss(batch, Progress(0, steps=4, epochs=2, batch_size=4)).value.backward()
    unused = [n for n, p in objective.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["first", "second"])
def test_when_a_rank_dies_the_other_ends_within_a_minute_with_the_reason(
    drawn: Path, tmp_path: Path, victim: str
):
    words = command(tmp_path / "run", drawn, Setting(epochs=1000))
    attempt = Attempt(words, tmp_path / "log")
    until = time.monotonic() + 300
    while not (tmp_path / "run/last.ckpt").exists() and time.monotonic() < until:
        time.sleep(0.1)
    second, everyone = attempt.second_rank(), attempt.family()
    assert second is not None
    attempt.send(signal.SIGKILL, victim)
    code = attempt.ended(everyone, seconds=60)
    said = (tmp_path / "log").read_text()
    if victim == "second":
        assert code == 1
        assert f"rank 1 (process {second.pid}) was killed by SIGKILL" in said
    else:
        assert f"the process {attempt.process.pid} of the first rank is gone" in said
    assert f"continue with --run-dir {tmp_path / 'run'} --ckpt_path last" in said
