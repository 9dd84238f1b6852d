"""The entmax family: facts 1 to 4 of the specification, and the entmax package as a reference."""

import entmax as package
import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from vitlab.encoders import Normalizer, record
from vitlab.encoders.attention import Attention
from vitlab.encoders.entmax.operator import entmax, entmax15

LENGTHS = [1, 2, 37, 197, 1025, 4097]
ALPHAS = [1.1, 1.25, 1.5, 1.75, 2.0]
alphas = pytest.mark.parametrize("alpha", ALPHAS)


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def rows(n, dtype=torch.float64):
    """Rows of many kinds: Gaussian, ties, ramps, geometric, one-hot, constant."""
    g = torch.Generator().manual_seed(n)
    scale = double([0.1, 0.5, 1, 4, 1e4])[:, None]
    noise = torch.randn(5, n, generator=g, dtype=torch.float64)
    ties = torch.randint(0, 3, (5, n), generator=g)
    ramp = torch.linspace(0, 1, n, dtype=torch.float64).expand(5, n)
    steep = -(2.0 ** torch.arange(n).clamp_max(30).double())[None] * double([[1], [1e-3]])
    shallow = -(2.0 ** -torch.arange(n).clamp_max(30).double()).expand(5, n)
    one_hot = torch.eye(1, n, dtype=torch.float64).expand(5, n)
    kinds = [*(x * scale for x in (noise, ties, ramp, shallow, one_hot)), steep]
    return torch.cat([*kinds, torch.zeros(1, n, dtype=torch.float64)]).to(dtype)


def by_package(z, alpha):
    if alpha == 1.5:
        return package.entmax15(z, dim=-1)
    if alpha == 2:
        return package.sparsemax(z, dim=-1)
    return package.entmax_bisect(z, alpha, dim=-1, n_iter=60)


@alphas
def test_it_equals_the_package_and_every_row_is_a_distribution(alpha):
    for n in LENGTHS if alpha != 1.5 else (*LENGTHS, 128**2 + 1):  # needs Newton's steps
        z = rows(n)
        p, single = entmax(z, alpha), entmax(z.float(), alpha).double()
        if n <= 4097:
            expected = by_package(z, alpha)
            torch.testing.assert_close(p, expected, rtol=0, atol=1e-9)
            torch.testing.assert_close(single, expected, rtol=0, atol=4e-6)
        for found, tolerance in ((p, 2e-13), (single, 4e-6 if n <= 4097 else 8e-6)):
            assert found.min() >= 0
            assert (found.sum(-1) - 1).abs().max() <= tolerance
        torch.testing.assert_close(p[-1], torch.full_like(p[-1], 1 / n))  # equal logits
        order = torch.randperm(n)
        torch.testing.assert_close(entmax(z[:, order] + 7, alpha), p[:, order], rtol=0, atol=1e-9)
        far = z.amax(-1, keepdim=True) - z >= 1 / (alpha - 1)
        assert (p[far] == 0).all()
        assert (single[far] == 0).all()


@alphas
def test_both_derivatives_are_right_and_finite_on_any_row(alpha):
    for scale in (0.1, 1.0, 5.0):  # no zero, some, almost all
        z = torch.randn(3, 7, dtype=torch.float64).mul_(scale).requires_grad_()
        assert gradcheck(lambda x: entmax(x, alpha), z)
        assert gradgradcheck(lambda x: entmax(x, alpha), z)
    z = rows(197, torch.float32).requires_grad_()
    (first,) = torch.autograd.grad(entmax(z, alpha).square().sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), z)
    assert first.isfinite().all()
    assert second.isfinite().all()


@alphas
def test_excluded_logits_are_as_if_absent_and_bad_rows_spoil_no_other(alpha):
    z = rows(37, torch.float32)[:15].requires_grad_()
    wide = entmax(torch.cat([z, torch.full((15, 5), -torch.inf)], dim=1), alpha)
    torch.testing.assert_close(wide[:, :37], entmax(z, alpha), rtol=0, atol=1e-6)
    assert (wide[:, 37:] == 0).all()
    assert torch.autograd.grad(wide.square().sum(), z)[0].isfinite().all()
    nothing = torch.full((2, 3), -torch.inf, requires_grad=True)
    p = entmax(nothing, alpha)
    assert not p.any()
    assert not torch.autograd.grad(p.sum(), nothing)[0].any()
    for value in (torch.nan, torch.inf):
        p = entmax(torch.tensor([[0.0, value, 1], [0, 1, 2]]), alpha)
        assert p[0].isnan().all()
        assert p[1].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@alphas
def test_half_precision_and_autocast_are_solved_in_full(alpha, dtype):
    p = entmax((rows(197)[:15] - 1000 * (alpha == 1.5)).to(dtype), alpha)
    assert p.dtype == dtype
    assert (p.float().sum(-1) - 1).abs().max() < 5e-3
    attention = Attention(64, 2, Normalizer(alpha, sharpness=2))
    holder = nn.ModuleDict({"blocks": nn.ModuleList([attention])})
    with record(holder, "weights") as weights, torch.autocast("cpu", dtype=dtype):
        attention(torch.randn(2, 197, 64) * 10, (14, 14))
    assert weights[0].dtype == dtype
    assert (weights[0].float().sum(-1) - 1).abs().max() < 5e-3


def test_towards_one_it_becomes_softmax():
    z = rows(37)[:15]
    torch.testing.assert_close(entmax(z, 1.0001), z.softmax(-1), rtol=0, atol=1e-3)
    assert Normalizer(alpha=1)(z).equal(z.softmax(-1))
    assert Normalizer()(z).equal(entmax15(z))


@pytest.mark.parametrize("n", [1, 197, 4097])
def test_a_graph_takes_enough_steps(monkeypatch, n):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    rows = torch.randn(20, n, dtype=torch.float64)
    scale = torch.logspace(-3, 4, 20, dtype=torch.float64)[:, None]
    for z in (rows * scale, rows.round() * scale, rows.cumsum(0).sort(-1).values, rows * 0):
        assert (entmax15(z).sum(-1) - 1).abs().max() <= 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [1.25, 1.5, 2.0])
def test_attention_can_be_exported_and_keeps_its_results(alpha):
    attention = Attention(32, 2, Normalizer(alpha, sharpness=2)).eval()
    x = torch.randn(2, 37, 32)
    program = torch.export.export(attention, (x, (6, 6))).module()
    for scale in (0.1, 1, 100):
        found, expected = program(scale * x, (6, 6)), attention(scale * x, (6, 6))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
