"""Facts 1 to 4 of the entmax specification, and what makes the operator safe to train with."""

import entmax as package
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from vitlab.encoders.attention import Attention
from vitlab.encoders.entmax.operator import entmax15, threshold

LENGTHS = [1, 2, 37, 197, 1025, 4097]
GOLDEN = [1, 0.5, 0, -0.5, -1, -3]


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def rows(n, dtype=torch.float32):
    """Rows of many kinds: Gaussian, ties, uniform, ramps, one-hot."""
    g = torch.Generator().manual_seed(n)
    noise = torch.randn(6, n, generator=g, dtype=torch.float64)
    scale = double([0.1, 0.25, 0.5, 1, 2, 4])[:, None]
    ties = torch.randint(0, 3, (4, n), generator=g) * double([0.01, 0.3, 1, 5])[:, None]
    ramps = torch.linspace(0, 1, n, dtype=torch.float64) * double([0.1, 1, 10, 100])[:, None]
    geometric = -(2.0 ** torch.arange(n).clamp_max(30).double())[None]
    one_hot = torch.eye(min(n, 2), n, dtype=torch.float64) * 50
    constant = torch.zeros(1, n, dtype=torch.float64)
    return torch.cat([noise * scale, ties, ramps, geometric, one_hot, constant]).to(dtype)


def test_golden_rows():
    expected = double(
        [0.6234335740958187, 0.29114452469860624, 0.08385547530139376, 0.0015664259041812637, 0, 0]
    )
    torch.testing.assert_close(entmax15(double(GOLDEN)), expected, rtol=0, atol=1e-14)
    expected = double([0, 0.32600736366156174, 0.6739926363384381])
    torch.testing.assert_close(entmax15(double([-2, 0, 0.5])), expected, rtol=0, atol=1e-14)


def test_golden_threshold():
    z = double(GOLDEN) / 2
    tau = threshold(z - z.max()) + z.max()
    assert tau.item() == pytest.approx(-0.289578098794425, abs=1e-14)


@pytest.mark.parametrize("gap", [0.0, 0.3, 1.0, 1.9, 2.0, 3.0])
def test_two_logits_have_a_closed_form(gap):
    expected = ((gap / 2 + (2 - gap**2 / 4) ** 0.5) / 2) ** 2 if gap < 2 else 1.0
    p = entmax15(double([gap, 0]))
    torch.testing.assert_close(p, double([expected, 1 - expected]), rtol=0, atol=1e-14)
    assert (p[1] == 0) == (gap >= 2)


@pytest.mark.parametrize("n", [*LENGTHS, 128**2 + 1])  # the last one needs Newton's steps
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 4e-6), (torch.float64, 2e-13)])
def test_every_row_sums_to_one(n, dtype, tolerance):
    for scale in (1, 1e4):
        p = entmax15(rows(n, dtype) * scale)
        assert p.min() >= 0
        assert (p.double().sum(-1) - 1).abs().max() <= tolerance


@pytest.mark.parametrize("n", LENGTHS)
def test_it_equals_the_entmax_package(n):
    z = rows(n, torch.float64)
    expected = package.entmax15(z, dim=-1)
    torch.testing.assert_close(entmax15(z), expected, rtol=0, atol=2e-11)
    torch.testing.assert_close(entmax15(z.float()).double(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("n", LENGTHS)
def test_equal_logits_give_the_uniform_row(n):
    torch.testing.assert_close(entmax15(torch.full((n,), 3.0)), torch.full((n,), 1 / n))


@pytest.mark.parametrize("n", LENGTHS)
def test_a_gap_of_two_is_exactly_zero(n):
    z = rows(n) * torch.tensor([1.0, 30])[:, None, None]
    far = z.amax(-1, keepdim=True) - z >= 2
    assert (entmax15(z)[far] == 0).all()


@pytest.mark.parametrize("n", LENGTHS)
def test_a_small_range_leaves_no_zero(n):
    z = torch.rand(64, n, generator=torch.Generator().manual_seed(0)) * 1.998 / n**0.5
    assert (entmax15(z) > 0).all()


def test_a_shift_changes_nothing():
    z = rows(197, torch.float64)
    torch.testing.assert_close(entmax15(z + 7), entmax15(z), rtol=0, atol=1e-13)


def test_excluded_logits_are_as_if_absent():
    z = rows(37).requires_grad_()
    wide = torch.cat([z, torch.full((len(z), 5), -torch.inf)], dim=1)
    p = entmax15(wide)
    torch.testing.assert_close(p[:, :37], entmax15(z), rtol=0, atol=1e-6)
    assert (p[:, 37:] == 0).all()
    (gradient,) = torch.autograd.grad(p.square().sum(), z)
    assert gradient.isfinite().all()


def test_golden_gradient():
    z = double(GOLDEN).requires_grad_()
    (gradient,) = torch.autograd.grad(entmax15(z)[0], z)
    expected = [
        0.41363350843332275,
        -0.25691121325277155,
        -0.1378778361444409,
        -0.018844459036110223,
        0,
        0,
    ]
    torch.testing.assert_close(gradient, double(expected), rtol=0, atol=1e-14)


def test_the_jacobian_is_the_formula():
    z = double(GOLDEN)
    s = entmax15(z).sqrt()
    jacobian = torch.autograd.functional.jacobian(entmax15, z)
    torch.testing.assert_close(jacobian, s.diag() - s[:, None] * s / s.sum(), rtol=0, atol=1e-15)
    assert jacobian.sum(0).abs().max() < 1e-15


def test_logit_gradients_of_a_uniform_row_are_those_of_the_specification():
    z = torch.zeros(197, dtype=torch.float64)
    diagonal = torch.autograd.functional.jacobian(entmax15, z).diag()
    torch.testing.assert_close(
        diagonal, torch.full_like(z, 0.07088538983568675), rtol=0, atol=1e-14
    )
    softmax = torch.autograd.functional.jacobian(lambda x: x.softmax(-1), z).diag()
    torch.testing.assert_close(softmax, torch.full_like(z, 0.005050374913), rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])  # no zero, some, almost all
def test_both_derivatives_are_right(scale):
    g = torch.Generator().manual_seed(3)
    z = torch.randn(3, 7, generator=g, dtype=torch.float64).mul_(scale).requires_grad_()
    assert gradcheck(entmax15, z)
    assert gradgradcheck(entmax15, z)


def test_the_second_derivative_of_a_row_with_zeros_is_finite():
    z = rows(37).requires_grad_()
    (first,) = torch.autograd.grad(entmax15(z).square().sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), z)
    assert second.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_solved_in_full(dtype):
    for shift in (0, -1000):
        p = entmax15((rows(197) + shift).to(dtype))
        assert p.dtype == dtype
        assert (p.float().sum(-1) - 1).abs().max() < 5e-3


def test_attention_under_autocast_has_rows_that_sum_to_one():
    torch.manual_seed(0)
    attention = Attention(64, 2, "entmax15")
    kept = []
    attention.weights.register_forward_hook(lambda _, __, output: kept.append(output))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attention(torch.randn(2, 197, 64) * 10, (14, 14))
    assert kept[0].dtype == torch.bfloat16
    assert (kept[0].float().sum(-1) - 1).abs().max() < 5e-3


logits = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40).map(double)


@settings(deadline=None, max_examples=60)
@given(logits)
def test_any_row_is_a_distribution_in_the_order_of_its_logits(z):
    p = entmax15(z)
    assert p.sum().item() == pytest.approx(1, abs=1e-12)
    order = z.argsort()
    assert (p[order].diff() >= 0).all()
    assert (p[z.max() - z >= 2] == 0).all()
    assert (p[z.max() - z < 2 / len(z) ** 0.5 - 1e-6] > 0).all()


@settings(deadline=None, max_examples=60)
@given(logits, st.randoms(use_true_random=False), st.floats(-100, 100))
def test_order_and_shift_of_the_logits_do_not_matter(z, random, shift):
    order = random.sample(range(len(z)), len(z))
    torch.testing.assert_close(entmax15(z[order] + shift), entmax15(z)[order], rtol=0, atol=1e-12)
