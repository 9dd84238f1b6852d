"""DINO's head, against facebookresearch/dino at 7c446df."""

import pytest
import torch

from vitlab.objectives.dino_head import DINOHead, DINOHeadConfig


def test_weights_of_dino_give_dinos_logits(reference):
    head = DINOHead(32, DINOHeadConfig(24, 40, 16, norm_last_layer=False))
    prefix = "head.state."
    head.load_state_dict(
        {k[len(prefix) :]: v for k, v in reference.items() if k.startswith(prefix)}
    )
    torch.testing.assert_close(
        head(reference["head.x"]), reference["head.logits"], rtol=0, atol=1e-6
    )


def test_parameter_counts_are_those_of_the_specification():
    with torch.device("meta"):
        head = DINOHead(384, DINOHeadConfig())
    assert sum(p.numel() for p in head.parameters()) == 22_352_128
    assert sum(p.numel() for p in head.parameters() if p.requires_grad) == 22_286_592


def test_initialization_is_dinos():
    torch.manual_seed(0)
    head = DINOHead(384, DINOHeadConfig(out_dim=512))
    assert head.get_parameter("mlp.2.weight").std().item() == pytest.approx(0.02, rel=0.02)
    assert not head.get_parameter("mlp.4.bias").any()
    assert head.last_layer.weight_v.norm(dim=1).mean().item() == pytest.approx(0.577, abs=0.005)
    assert (head.last_layer.weight_g == 1).all()
    assert head(torch.randn(50, 384)).abs().max() <= 1 + 1e-6  # cosines
    for norm_last_layer in (True, False):  # only a free last layer learns its lengths
        head = DINOHead(32, DINOHeadConfig(24, 40, 16, norm_last_layer))
        head(torch.randn(5, 32)).sin().sum().backward()
        missing = [name for name, p in head.named_parameters() if p.grad is None]
        assert missing == ["last_layer.weight_g"] * norm_last_layer
