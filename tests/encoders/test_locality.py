"""Facts 1 to 11 of section 9 of the specification of locality."""

import math
from dataclasses import replace

import pytest
import torch
from refusals import refused
from timm.layers import AttentionPoolPrr

from vitlab.encoders import Locality, ViT
from vitlab.encoders.locality import GaussianBias, refined_cls

GAUSSIAN = Locality("gaussian")
KINDS = ["gaussian", "constant", "fixed", "uniform"]


def count(module):
    return sum(p.numel() for p in module.parameters())


def gaussian(grid=(14, 14), spread=0.0, kind="gaussian", **options):
    """Return a bias for heads of 8 channels whose predictors are random by so much."""
    bias = GaussianBias(8, grid, Locality(kind, **options)).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in bias.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(noise * spread)
    return bias


def queries(n, channels=8):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, n, channels, generator=generator, dtype=torch.float64)


def test_parameter_counts_are_those_of_the_specification():
    with torch.device("meta"):
        vit, plain = ViT("S", locality=GAUSSIAN), ViT("S")
    assert count(vit) == 21_668_004 == count(plain) + 2_340
    assert not list(vit.buffers())


@pytest.mark.parametrize("normalizer", ["softmax", "entmax15"])
def test_without_amplitude_it_is_the_plain_model(build, images, normalizer, same_tokens):
    plain = build(normalizer=normalizer).double()
    local = build(locality=GAUSSIAN, normalizer=normalizer).double()
    local.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        for block in local.blocks:
            block.attn.gaug.log_alpha.weight.zero_()
            block.attn.gaug.log_alpha.bias.fill_(-1e4)
    assert not local.blocks[0].attn.gaug(queries(36, 16), (5, 7)).any()
    same_tokens(local(images.double()), plain(images.double()), 1e-12)


def test_the_kernel_starts_and_ends_at_the_values_of_the_specification():
    """The widest and the narrowest kernel between neighbors, and the initial one."""
    bias, q = gaussian(), queries(196)[:1, :1]
    alpha, variance = bias.predict(q, (14, 14))
    torch.testing.assert_close(alpha, torch.full_like(alpha, 0.693147181), rtol=0, atol=1e-9)
    torch.testing.assert_close(variance, torch.full_like(variance, 1.1))  # with epsilon
    for value, expected in ((0, 0.634736419), (1e4, 0.997453836), (-1e4, math.exp(-5))):
        with torch.no_grad():
            bias.log_var.bias.fill_(value)
        found = bias(q, (14, 14))[0, 0, 0, 1].item() / math.log(2)
        assert found == pytest.approx(expected, abs=1e-6)


def test_epsilon_grows_with_the_grid():
    grids = {14: 0.1, 26: 0.1, 27: 0.2, 51: 0.2, 52: 0.4}
    assert {n: GaussianBias(8, (n, n), GAUSSIAN).epsilon for n in grids} == grids


@pytest.mark.parametrize(
    ("grid", "resolution", "factors"),
    [
        ((14, 14), "linear", (1, 1)),
        ((20, 15), "linear", (1.0714286, 1.0714286)),
        ((32, 43), "linear", (2.2857143, 2.2857143)),
        ((6, 6), "linear", (0.4285714, 0.4285714)),
        ((28, 7), "quadratic", (4, 0.25)),
    ],
)
def test_the_variance_follows_the_grid(grid, resolution, factors):
    bias, q = gaussian(resolution=resolution, spread=1.0), queries(9)
    (_, before), (_, after) = bias.predict(q, (14, 14)), bias.predict(q, grid)
    ratio = (after - bias.epsilon) / (before - bias.epsilon)
    expected = torch.tensor(factors, dtype=torch.float64).expand_as(ratio)
    torch.testing.assert_close(ratio, expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize("resolution", ["linear", "quadratic"])
@pytest.mark.parametrize("grid", [(14, 14), (5, 9), (32, 43)])
def test_the_separable_kernel_is_the_direct_one(grid, resolution):
    """The predictors differ by axis and the last grid reaches beyond the clamp at 13 patches."""
    bias, q = gaussian(resolution=resolution, spread=1.0), queries(math.prod(grid))[:1, :1]
    alpha, variance = bias.predict(q, grid)
    exponent = torch.zeros(())
    for m, place in enumerate(torch.cartesian_prod(*map(torch.arange, grid)).double().T):
        d = (0.5 * (place[:, None] - place).square()).clamp(max=0.5 * 13**2)
        exponent = exponent + d / variance[..., m, None]
    torch.testing.assert_close(bias(q, grid) / alpha, torch.exp(-exponent), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("native", "grid", "pooled"),
    [((32, 32), (32, 32), True), ((32, 32), (6, 10), True), ((31, 31), (4, 6), False)],
)
def test_a_large_encoder_has_a_pooled_kernel_in_training(native, grid, pooled):
    """LocAtViT's `fast_gaug`, by its definition: a mean query and a distance for 2 x 2 patches."""
    bias, q = gaussian(native, spread=0.5), queries(math.prod(grid))[:1, :1]
    exact, found = bias.eval()(q, grid), bias.train()(q, grid)
    assert torch.equal(exact, found) != pooled
    if pooled:
        rows, columns = torch.cartesian_prod(*map(torch.arange, grid)).T // 2
        cells = rows * (grid[1] // 2) + columns  # of each patch
        mean = torch.stack([q[0, 0, cells == each].mean(0) for each in range(cells.max() + 1)])
        alpha, variance = (each[0, 0, cells] for each in bias.predict(mean[None, None], grid))
        exponent = torch.zeros(())
        for m, place in enumerate((2 * rows, 2 * columns)):
            d = (0.5 * (place[:, None] - place).square()).clamp(max=bias.largest_distance)
            exponent = exponent + d / variance[:, m, None]
        torch.testing.assert_close(found[0, 0], alpha * torch.exp(-exponent), rtol=0, atol=1e-14)
        with refused("encoder.img_size"):
            bias(queries(35), (5, 7))


def test_the_bias_is_computed_in_full_precision():
    bias, q = gaussian((5, 7), spread=1.0).float(), queries(36).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        s = bias(q, (5, 7))
    assert s.dtype == torch.bfloat16
    assert s.equal(bias(q.float(), (5, 7)).bfloat16())


@pytest.mark.parametrize("normalizer", ["softmax", "entmax15"])
def test_a_uniform_bias_with_a_boosted_prefix_is_the_plain_model(
    build, images, normalizer, same_tokens
):
    """Every key of a patch gets the same, which no normalizer sees."""
    options = {"normalizer": normalizer, "num_registers": 2}
    local = build(locality=Locality("uniform", boost_prefix=True), **options).double()
    plain = build(**options).double()
    plain.load_state_dict(local.state_dict(), strict=False)
    same_tokens(local(images.double()), plain(images.double()), 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_prefix_gives_nothing_and_gets_alpha_where_it_is_boosted(kind):
    grid, prefix = (5, 7), 3
    q = queries(prefix + 35)
    boosted = gaussian(grid, spread=1.0, kind=kind, boost_prefix=True)
    plain, s = gaussian(grid, spread=1.0, kind=kind)(q, grid), boosted(q, grid)
    alpha, _ = boosted.predict(q[:, :, prefix:], grid)
    assert s[:, :, prefix:, :prefix].equal(alpha.expand(-1, -1, -1, prefix))
    assert not s[:, :, :prefix].any()
    assert not plain[:, :, :prefix].any()
    assert not plain[..., :prefix].any()
    assert s[:, :, prefix:, prefix:].equal(plain[:, :, prefix:, prefix:])


def test_controls_are_gaussian_biases_with_fewer_parameters():
    shapes = {"constant": {"log_var.bias": (2,), "log_alpha.bias": (1,)}, "fixed": {}}
    shapes["uniform"] = {"log_alpha.weight": (1, 8), "log_alpha.bias": (1,)}
    for kind, expected in shapes.items():
        assert {k: tuple(v.shape) for k, v in gaussian(kind=kind).state_dict().items()} == expected
    grid, q = (5, 7), queries(36)
    full, constant = gaussian(grid, spread=1.0), gaussian(grid, kind="constant")
    with torch.no_grad():
        full.log_var.weight.zero_()
        full.log_alpha.weight.zero_()
    constant.load_state_dict(full.state_dict(), strict=False)
    assert constant(q, grid).equal(full(q, grid))
    fixed, start = gaussian(grid, kind="fixed"), gaussian(grid)
    torch.testing.assert_close(fixed(q, grid), start(q, grid))


@pytest.mark.parametrize("kind", ["gaussian", "constant", "uniform"])
def test_a_warm_start_is_almost_the_plain_model_and_learns(images, kind):
    warm = ViT("nano", 8, 32, locality=Locality(kind, init="warm"))
    warm(images).patches.sin().sum().backward()
    for block in warm.blocks:
        alpha, _ = block.attn.gaug.predict(torch.randn(1, 1, 4, 16), (2, 2))
        torch.testing.assert_close(alpha, torch.full_like(alpha, 0.0024757), rtol=1e-4, atol=0)
        assert all(p.grad.abs().max() > 0 for p in block.attn.gaug.log_alpha.parameters())


def test_settings_without_effect_and_an_encoder_of_one_patch_are_refused():
    for options in (
        {"resolution": "quadratic"},
        {"kind": "uniform", "resolution": "quadratic"},
        {"boost_prefix": True},
        {"init": "warm"},
        {"kind": "fixed", "init": "warm"},
    ):
        with refused(f"locality.{list(options)[-1]}"):
            Locality(**options)
    with refused("locality.kind"):
        ViT("nano", 8, 8, locality=GAUSSIAN)


def test_refinement_equals_timms_and_changes_cls_alone(build, images, same_tokens):
    x = torch.randn(2, 1 + 2 + 12, 32)
    pool = AttentionPoolPrr(32, num_heads=4)
    torch.testing.assert_close(refined_cls(x, 4), pool(x), rtol=0, atol=1e-6)
    plain, refined = build(num_registers=2), build(num_registers=2, locality=Locality(refine=True))
    assert list(plain.state_dict()) == list(refined.state_dict())
    (*_, last), tokens = plain.walk(images), plain(images)
    cls = refined_cls(plain.norm(last.x), 2)
    same_tokens(refined(images), replace(tokens, cls=cls))
    assert not torch.allclose(cls, tokens.cls, atol=1e-2)
