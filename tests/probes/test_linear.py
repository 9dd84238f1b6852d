import pytest
import torch
import torch.nn.functional as F

from vitlab.probes import Features, Linear
from vitlab.probes.linear import LinearMap


def table(count: int, seed: int) -> Features:
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return Features(x, (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long())


def test_a_linear_rule_is_found():
    assert Linear().score(table(400, 0), table(200, 1))["top1"] > 97


def test_the_scale_and_offset_of_a_feature_do_not_matter():
    train, test = table(200, 0), table(100, 1)
    factor, offset = torch.tensor([1.0, 1e3, 1e-3, 7.0]), torch.tensor([0.0, 5.0, -1.0, 100.0])
    moved = [Features(f.x * factor + offset, f.y) for f in (train, test)]
    assert Linear().score(*moved)["top1"] == pytest.approx(
        Linear().score(train, test)["top1"], abs=1
    )


def test_the_gradient_is_zero_where_fitting_ends():
    features = table(300, 0)
    target = F.one_hot(features.y, 4).float()
    fitted = LinearMap(features.x, target, decay=0.1, steps=200)
    fitted.weight.requires_grad_()
    loss = F.cross_entropy(fitted(features.x), target) + 0.05 * fitted.weight.square().sum()
    (gradient,) = torch.autograd.grad(loss, fitted.weight)
    assert gradient.abs().max() < 1e-3


def test_soft_targets_are_matched_in_the_mean():
    target = torch.tensor([[0.7, 0.3]]).repeat(50, 1)
    fitted = LinearMap(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), target)
    assert torch.allclose(fitted(torch.zeros(1, 3)).softmax(1), target[:1], atol=1e-2)


def test_fitting_draws_no_random_number():
    before = torch.get_rng_state()
    Linear(steps=5).score(table(50, 0), table(20, 1))
    assert torch.equal(before, torch.get_rng_state())
