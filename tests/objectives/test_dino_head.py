"""DINO's head, against facebookresearch/dino at 7c446df."""

import pytest
import torch
from torch.nn.utils import parametrizations

from vitlab.objectives.dino_head import DINOHead, DINOHeadConfig, Prototypes


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


def test_rows_and_logits_are_those_of_torchs_weight_norm():
    ours = Prototypes(16, 24)
    theirs = parametrizations.weight_norm(torch.nn.Linear(16, 24, bias=False))
    with torch.no_grad():
        ours.weight_g.uniform_(0.5, 2)
        theirs.parametrizations.weight.original0.copy_(ours.weight_g)
        theirs.parametrizations.weight.original1.copy_(ours.weight_v)
    x = torch.randn(5, 16)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-6)


def test_initialization_is_dinos():
    torch.manual_seed(0)
    head = DINOHead(384, DINOHeadConfig(out_dim=512))
    assert head.get_parameter("mlp.2.weight").std().item() == pytest.approx(0.02, rel=0.02)
    assert not head.get_parameter("mlp.4.bias").any()
    assert head.last_layer.weight_v.norm(dim=1).mean().item() == pytest.approx(0.577, abs=0.005)
    assert (head.last_layer.weight_g == 1).all()
    assert head(torch.randn(50, 384)).abs().max() <= 1 + 1e-6  # cosines


def test_only_a_free_last_layer_learns_its_lengths():
    for norm_last_layer, missing in ((True, {"last_layer.weight_g"}), (False, set())):
        head = DINOHead(32, DINOHeadConfig(24, 40, 16, norm_last_layer))
        head(torch.randn(5, 32)).sin().sum().backward()
        assert {name for name, p in head.named_parameters() if p.grad is None} == missing
