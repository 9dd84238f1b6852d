"""Two processes with gloo do what one does."""

import signal
from pathlib import Path

import pytest
import torch
from chaos import Attempt, wait
from runs import UNPROBED, read, run_ranks, weights

from vitlab.data.batch import Batch
from vitlab.encoders import ViT
from vitlab.encoders.cls_specialization import CLSSpecialization
from vitlab.encoders.locality import Locality
from vitlab.objectives import DINO, Classification, DINOHeadConfig, Objective
from vitlab.optim.schedules import Progress

HEAD = ("--model.objective.head.out_dim", "64")


@pytest.mark.slow
def test_two_ranks_take_the_steps_of_one_and_agree_on_its_scores(fit, drawn, tmp_path):
    one = fit(config="dino_registers", name="one")
    two = run_ranks(tmp_path / "two", drawn, ["dino_registers", "demo"], *HEAD)
    for name, tensor in weights(one).items():
        assert torch.allclose(tensor, weights(two)[name], atol=2e-4), name
    first, second = (read(folder / "results.json") for folder in (one, two))
    for a, b in zip(first[:2], second[:2], strict=True):  # before training: the same weights
        assert a == pytest.approx(b, abs=1e-3)


def gradients(folder: Path) -> dict[int, torch.Tensor]:
    """Return the gradients of a first step: AdamW's average of them begins with a tenth."""
    (state,) = torch.load(folder / "last.ckpt", weights_only=True)["optimizer_states"]
    return {index: 10 * values["exp_avg"] for index, values in state["state"].items()}


@pytest.mark.slow
@pytest.mark.parametrize("clip", ["per_parameter", "global"])
def test_a_global_batch_has_the_same_gradients_however_it_is_divided(fit, drawn, tmp_path, clip):
    """One step: on one rank, on one in four micro-batches, and on two in two; clipped hard."""
    options = (*UNPROBED, "--data.global_batch_size", "40", "--trainer.max_epochs", "1")
    options += ("--model.optimizer.clip_grad_norm", "0.01", "--model.optimizer.clip_mode", clip)
    options += ("--model.objective.freeze_last_layer", "0", "--model.optimizer.warmup_epochs", "0")
    divided = (*options, "--data.micro_batch_size", "10")
    whole, parts = fit(*options, name="whole"), fit(*divided, name="parts")
    ranks = run_ranks(tmp_path / "ranks", drawn, ["dino", "demo"], *HEAD, *divided)
    expected = gradients(whole)
    scale = max(gradient.abs().max() for gradient in expected.values())
    for other in (parts, ranks):
        for index, gradient in gradients(other).items():
            torch.testing.assert_close(gradient, expected[index], rtol=1e-5, atol=1e-6 * scale)
        ours, theirs = (weights(folder)["objective.center"] for folder in (whole, other))
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
def test_when_a_rank_dies_the_other_ends_within_a_minute_with_the_reason(drawn, tmp_path, victim):
    attempt = Attempt(tmp_path / "run", drawn, tmp_path / "log", epochs=1000)
    assert wait((tmp_path / "run/last.ckpt").exists, 300)
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
