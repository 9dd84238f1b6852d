"""The module's own part of a step: its seed, and a loss that is not finite."""

from unittest.mock import Mock, PropertyMock

import torch
from lightning import Trainer

from vitlab.data.batch import Batch
from vitlab.encoders import ViT
from vitlab.objectives import DINO, DINOHeadConfig, Loss
from vitlab.optim.schedules import Progress
from vitlab.run.module import Pretraining


def module(seed: int = 0, step: int = 0, rank: int = 0) -> Pretraining:
    built = Pretraining(DINO(ViT("nano", img_size=32), DINOHeadConfig(8, 8, 4)), seed=seed)
    built.trainer = Mock(Trainer, global_step=step, global_rank=rank)
    return built


def test_every_micro_batch_has_a_seed_of_its_own():
    places = [{}, {"seed": 1}, {"step": 1}, {"rank": 1}]
    seeds = [module(**place).step_seed(index) for place in places for index in (0, 1)]
    assert len(set(seeds)) == len(seeds)
    assert module(step=1).step_seed(1) == seeds[5]


def test_an_infinite_loss_reaches_the_gradients_as_nan(monkeypatch):
    """So that all ranks see it."""
    built = module()
    monkeypatch.setattr(Pretraining, "progress", PropertyMock(return_value=Progress(0, 1, 1, 1)))
    monkeypatch.setattr(built, "log", Mock())
    monkeypatch.setattr(built, "log_dict", Mock())
    weight = built.objective.student.head.mlp[0].weight
    monkeypatch.setattr(built.objective, "loss", lambda *_: Loss(weight.sum() + torch.inf))
    built.training_step(Batch([]), 0).backward()
    assert weight.grad.isnan().all()
