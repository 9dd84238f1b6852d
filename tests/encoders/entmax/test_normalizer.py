"""The family from softmax to sparsemax, against the entmax package."""

from dataclasses import asdict

import entmax as package
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from torch.autograd import gradcheck, gradgradcheck

import vitlab
from vitlab.encoders import Encoder, Locality, Normalizer, ViT, record, save
from vitlab.encoders.attention import Attention
from vitlab.encoders.entmax.normalizer import NORMALIZERS, SOFTMAX, get_normalizer
from vitlab.encoders.entmax.operator import entmax, entmax15

ALPHAS = [1.1, 1.25, 1.75, 2.0]


def rows(n, dtype=torch.float64):
    """Rows of many kinds: Gaussian, ties, ramps, geometric, one-hot, constant."""
    g = torch.Generator().manual_seed(n)
    scale = torch.tensor([0.1, 0.5, 1, 4, 1e4], dtype=torch.float64)[:, None]
    noise = torch.randn(5, n, generator=g, dtype=torch.float64)
    ties = torch.randint(0, 3, (5, n), generator=g)
    ramp = torch.linspace(0, 1, n, dtype=torch.float64).expand(5, n)
    geometric = -(2.0 ** -torch.arange(n).clamp_max(30).double()).expand(5, n)
    one_hot = torch.eye(1, n, dtype=torch.float64).expand(5, n)
    all_rows = torch.cat([x * scale for x in (noise, ties, ramp, geometric, one_hot)])
    return torch.cat([all_rows, torch.zeros(1, n, dtype=torch.float64)]).to(dtype)


@pytest.mark.parametrize("n", [1, 2, 37, 197, 1025, 4097])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_it_equals_the_entmax_package(n, alpha):
    z = rows(n)
    if alpha == 2:
        expected = package.sparsemax(z, dim=-1)
    else:
        expected = package.entmax_bisect(z, alpha, dim=-1, n_iter=60)
    torch.testing.assert_close(entmax(z, alpha), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(entmax(z.float(), alpha).double(), expected, rtol=0, atol=4e-6)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-13)])
def test_every_row_is_a_distribution(alpha, dtype, tolerance):
    for n in (1, 37, 197, 4097):
        p = entmax(rows(n, dtype), alpha)
        assert p.min() >= 0
        assert (p.double().sum(-1) - 1).abs().max() <= tolerance


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])  # no zero, some, almost all
@pytest.mark.parametrize("alpha", ALPHAS)
def test_both_derivatives_are_right(scale, alpha):
    g = torch.Generator().manual_seed(3)
    z = torch.randn(3, 7, generator=g, dtype=torch.float64).mul_(scale).requires_grad_()
    assert gradcheck(lambda x: entmax(x, alpha), z)
    assert gradgradcheck(lambda x: entmax(x, alpha), z)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_gradients_are_finite_on_any_row(alpha):
    z = rows(197, torch.float32).requires_grad_()
    (first,) = torch.autograd.grad(entmax(z, alpha).square().sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), z)
    assert first.isfinite().all()
    assert second.isfinite().all()


def test_towards_one_it_becomes_softmax():
    z = rows(37)[:15]
    torch.testing.assert_close(entmax(z, 1.0001), z.softmax(-1), rtol=0, atol=1e-3)
    assert Normalizer(alpha=1)(z).equal(z.softmax(-1))
    assert Normalizer()(z).equal(entmax15(z))


@pytest.mark.parametrize("alpha", [*ALPHAS, 1.5])
def test_excluded_logits_are_as_if_absent_and_a_row_without_any_is_zero(alpha):
    z = rows(37, torch.float32)[:15]
    wide = torch.cat([z, torch.full((15, 5), -torch.inf)], dim=1)
    torch.testing.assert_close(entmax(wide, alpha)[:, :37], entmax(z, alpha), rtol=0, atol=1e-6)
    assert (entmax(wide, alpha)[:, 37:] == 0).all()
    nothing = torch.full((2, 3), -torch.inf, requires_grad=True)
    p = entmax(nothing, alpha)
    (gradient,) = torch.autograd.grad(p.sum(), nothing)
    assert not p.any()
    assert not gradient.any()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_row_that_is_no_row_is_nan(value):
    z = torch.tensor([[0.0, value, 1], [0, 1, 2]])
    p = entmax(z, 1.25)
    assert p[0].isnan().all()
    assert p[1].isfinite().all()


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_attention_under_autocast_has_rows_that_sum_to_one(alpha, dtype):
    torch.manual_seed(0)
    attention = Attention(64, 2, Normalizer(alpha, sharpness=2))
    kept = []
    attention.weights.register_forward_hook(lambda _, __, output: kept.append(output))
    with torch.autocast("cpu", dtype=dtype):
        attention(torch.randn(2, 197, 64) * 10, (14, 14))
    assert kept[0].dtype == dtype
    assert (kept[0].float().sum(-1) - 1).abs().max() < 5e-3


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [1.25, 2.0])
def test_attention_can_be_exported_and_keeps_its_results(alpha):
    torch.manual_seed(0)
    attention = Attention(32, 2, Normalizer(alpha, sharpness=2)).eval()
    x = torch.randn(2, 37, 32)
    program = torch.export.export(attention, (x, (6, 6))).module()
    for scale in (0.1, 1, 100):
        found, expected = program(scale * x, (6, 6)), attention(scale * x, (6, 6))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


logits = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40)


@settings(deadline=None, max_examples=60)
@given(logits, st.floats(1.01, 2), st.floats(-100, 100))
def test_any_row_is_a_distribution_in_the_order_of_its_logits(row, alpha, shift):
    z = torch.tensor(row, dtype=torch.float64)
    p = entmax(z, alpha)
    assert p.sum().item() == pytest.approx(1, abs=1e-10)
    assert (p[z.argsort()].diff() >= 0).all()
    assert (p[(alpha - 1) * (z.max() - z) >= 1] == 0).all()
    torch.testing.assert_close(entmax(z + shift, alpha), p, rtol=0, atol=1e-9)


@pytest.mark.parametrize("normalizer", [Normalizer(1, 2), Normalizer(1.5, 2), Normalizer(1.25, 2)])
@pytest.mark.parametrize("locality", [Locality(), Locality("gaussian")])
def test_sharpness_is_a_factor_on_the_queries_that_a_bias_does_not_see(
    build, images, normalizer, locality
):
    sharp = build(normalizer=normalizer, locality=locality).double()
    plain = build(normalizer=Normalizer(normalizer.alpha), locality=locality).double()
    for block in plain.blocks:
        block.attn.register_forward_pre_hook(stretch)
    out, expected = sharp(images.double()), plain(images.double())
    torch.testing.assert_close(out.cls, expected.cls, rtol=0, atol=1e-12)
    torch.testing.assert_close(out.patches, expected.patches, rtol=0, atol=1e-12)


def stretch(attention, given):
    """Double keys, which neither the bias nor the values depend on."""
    if attention.qkv.weight.requires_grad:
        with torch.no_grad():
            attention.qkv.weight[32:64] *= 2
            attention.qkv.bias[32:64] *= 2
        attention.qkv.requires_grad_(False)


def test_sharpness_alone_leaves_no_zero_but_raises_the_largest_weight(build, images):
    with torch.no_grad():
        largest = {}
        for name, normalizer in (("plain", "softmax"), ("sharp", Normalizer(1, sharpness=2))):
            vit = build(normalizer=normalizer)
            with record(vit, "attn.weights") as weights:
                vit(images)
            largest[name] = weights[0].amax(-1).mean()
            assert (weights[0] > 0).all()
    assert largest["sharp"] > largest["plain"]


def test_blocks_choose_who_has_it(build, images):
    vit = build(normalizer=Normalizer(2, blocks=(0, 2)))
    assert [block.attn.normalizer for block in vit.blocks] == [
        Normalizer(2),
        SOFTMAX,
        Normalizer(2),
    ]
    with record(vit, "attn.weights") as weights:
        vit(images)
    assert [bool((w == 0).any()) for w in weights] == [True, False, True]


@pytest.mark.parametrize("name", NORMALIZERS)
def test_a_name_is_a_member_of_the_family(build, images, name):
    ours, get_normalizer = build(normalizer=NORMALIZERS[name]), build(normalizer=name)
    assert ours(images).patches.equal(get_normalizer(images).patches)


def test_a_normalizer_in_no_block_does_not_exist_and_in_every_block_is_the_default(build, images):
    everywhere = build(normalizer=Normalizer(1.5, blocks=(0, 1, 2)))
    assert everywhere(images).cls.equal(build(normalizer="entmax15")(images).cls)
    assert build(normalizer=Normalizer(1))(images).cls.equal(build()(images).cls)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.99}, r"alpha 0.99 is not in \[1, 2\]; give 1 \(softmax\)"),
        ({"alpha": 2.01}, r"alpha 2.01 is not in \[1, 2\]"),
        ({"alpha": float("nan")}, r"alpha nan is not in \[1, 2\]"),
        ({"sharpness": 0.0}, "sharpness 0.0 is not a positive number; give 1"),
        ({"sharpness": float("inf")}, "sharpness inf is not a positive number"),
        ({"alpha": 1, "blocks": (1,)}, r"blocks \[1\] .* which all have; leave blocks out"),
    ],
)
def test_what_is_no_member_is_refused_with_a_remedy(options, message):
    with pytest.raises(ValueError, match=message):
        Normalizer(**options)


@pytest.mark.parametrize("blocks", [(3,), (-1,), (0, 7)])
def test_a_block_that_there_is_not_is_refused_with_a_remedy(build, blocks):
    with pytest.raises(ValueError, match="of an encoder of 3 blocks; give numbers from 0 to 2"):
        build(normalizer=Normalizer(blocks=blocks))


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'sigmoid' is unknown; choose softmax, entmax15, spars"):
        getattr(get_normalizer, "__wrapped__", get_normalizer)(
            "sigmoid"
        )  # beneath the checks of types


def parse(tmp_path, *lines):
    parser = ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_argument("--encoder", type=Encoder)
    path = tmp_path / "config.yaml"
    head = ["encoder:", "  class_path: vitlab.encoders.ViT", "  init_args:", "    size: nano"]
    path.write_text("\n".join([*head, *(f"    {line}" for line in lines)]))
    return parser, ["--config", str(path)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("normalizer: entmax15", "entmax15"),
        ("normalizer: {alpha: 1.25, sharpness: 2}", Normalizer(1.25, 2)),
        ("normalizer: {alpha: 2, blocks: [0, 2]}", Normalizer(2, blocks=(0, 2))),
    ],
)
def test_yaml_names_it_or_spells_it_out_and_a_saved_encoder_repeats_it(tmp_path, line, expected):
    parser, words = parse(tmp_path, line)
    encoder = parser.instantiate(parser.parse_args(words)).encoder
    assert isinstance(encoder, ViT)
    assert encoder.config["normalizer"] == expected
    save(encoder, tmp_path / "folder")
    again = vitlab.load(tmp_path / "folder")
    assert again.config == encoder.config
    assert [b.attn.normalizer for b in again.blocks] == [b.attn.normalizer for b in encoder.blocks]


def test_the_command_line_changes_one_part_of_it(tmp_path):
    parser, words = parse(tmp_path, "normalizer: {alpha: 1.25, sharpness: 2}")
    parsed = parser.parse_args([*words, "--encoder.init_args.normalizer.alpha", "1.75"])
    assert parser.instantiate(parsed).encoder.config["normalizer"] == Normalizer(1.75, 2)
    parsed = parser.parse_args([*words, "--encoder.init_args.normalizer", "softmax"])
    assert parser.instantiate(parsed).encoder.config["normalizer"] == "softmax"


def test_timm_gets_softmax_by_any_spelling_and_nothing_else(build, tmp_path):
    save(build(normalizer=Normalizer(1)), tmp_path / "softmax.safetensors", "timm")
    for normalizer in (Normalizer(1, sharpness=2), "sparsemax"):
        with pytest.raises(ValueError, match=r"attention \(normalizer\)"):
            save(build(normalizer=normalizer), tmp_path / "other.safetensors", "timm")


def test_its_fields_are_plain_values():
    assert asdict(Normalizer(1.25, blocks=(1,))) == {
        "alpha": 1.25,
        "sharpness": 1.0,
        "blocks": (1,),
    }
