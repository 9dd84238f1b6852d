"""The memory a plan foresees: what is frozen keeps nothing until backward."""

import pytest
import torch

from vitlab.encoders import PromptedViT, Prompts, ViT
from vitlab.objectives import DINO, Classification, PromptTuning
from vitlab.training.plan import kept_for_backward, trained_encoder


def vit() -> ViT:
    torch.manual_seed(0)
    return ViT("nano", 8, 32)


def kept(objective) -> int:
    return kept_for_backward(trained_encoder(objective), 32, mixed=False)


def test_a_linear_probe_of_a_frozen_encoder_keeps_nothing():
    assert kept(PromptTuning(PromptedViT(vit()), 3)) == 0


def test_prompts_keep_less_than_training_all_of_the_encoder():
    prompts = kept(PromptTuning(PromptedViT(vit(), Prompts(shared=2, dropout=0.0)), 3))
    assert 0 < prompts < kept(Classification(vit(), 3))


def test_of_dino_the_student_is_measured():
    objective = DINO(vit())
    assert trained_encoder(objective) is objective.student.encoder
    assert kept(objective) == kept(Classification(vit(), 3))


@pytest.mark.parametrize("frozen", [False, True])
def test_measuring_changes_nothing(frozen):
    encoder = vit().requires_grad_(not frozen)
    state = torch.get_rng_state()
    assert (kept_for_backward(encoder, 32, mixed=True) == 0) is frozen
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.requires_grad is not frozen for p in encoder.parameters())
