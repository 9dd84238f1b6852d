"""Weights of each family give its features; where its numbers come from is in references."""

import argparse
import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import checkpoint_filter_fn

from vitlab.encoders import Locality, load_pretrained
from vitlab.encoders.vit import SHAPES, Shape, resample

REFERENCES = Path(__file__).parents[2] / "references"
NUMBERS = load_file(REFERENCES / "interop.safetensors")
DINO = load_file(REFERENCES / "dino.safetensors")
GRIDS = [(6, 6), (9, 5), (4, 6), (12, 12), (3, 3), (9, 4)]
TINY = {"embed_dim": 32, "depth": 3, "num_heads": 2, "patch_size": 8, "img_size": 48}


def part(numbers, prefix):
    return {k[len(prefix) :]: v for k, v in numbers.items() if k.startswith(prefix)}


@pytest.fixture
def of_timm(jitter):
    def make(name, **options):
        model = timm.create_model(name, num_classes=0, dynamic_img_size=True, **options).eval()
        return model, {key: value.clone() for key, value in jitter(model).state_dict().items()}

    return make


@pytest.fixture
def compare(same_tokens):
    def compare(encoder, model, *size):
        images = torch.randn(1, 3, *size)
        with torch.no_grad():
            same_tokens(encoder(images), model.forward_features(images), 2e-5)

    return compare


@pytest.mark.parametrize(("registers", "covered"), [(0, False), (3, True), (3, False)])
def test_positions_of_timm_may_cover_all_tokens_or_patches_alone(
    compare, of_timm, write, registers, covered
):
    options = {"reg_tokens": registers, "no_embed_class": not covered}
    model, state = of_timm("vit_tiny_patch16_224", **TINY, **options)
    encoder = load_pretrained(write(state), "timm").encoder
    for size in ((48, 48), (32, 72), (96, 96)):
        compare(encoder, model, *size)


@pytest.mark.parametrize("which", ["", "student", "teacher"])
def test_weights_of_dino_give_its_features_from_either_kind_of_file(
    monkeypatch, write, which, same_tokens
):
    monkeypatch.setitem(SHAPES, "nano", Shape(embed_dim=32, depth=2, num_heads=2))
    content = state = part(DINO, "vit.state.")
    if which:
        other = {f"module.backbone.{k}": v + 1 for k, v in state.items()}
        content = {"student": other, "teacher": other, "args": argparse.Namespace(arch="vit")}
        # the student is wrapped for several devices, the teacher need not be
        prefix = "module." if which == "student" else ""
        content[which] = {f"{prefix}backbone.{k}": v for k, v in state.items()}
        content[which][f"{prefix}head.last_layer.weight_g"] = torch.ones(3, 1)
    loaded = load_pretrained(write(content), "dino", which)
    assert loaded.branch == which
    assert loaded.report.full
    assert len(loaded.report.ignored) == bool(which)
    for size in ("32x32", "48x40", "24x24", "64x16"):
        tokens = loaded.encoder(DINO[f"vit.images.{size}"])
        same_tokens(tokens, DINO[f"vit.tokens.{size}"], 2e-5)


@pytest.mark.parametrize(
    ("source", "rule"),
    [("dino", "dino"), ("dinov2", "dino"), ("dinov2_registers", "antialias"), ("deit", "size")],
)
def test_positions_are_resampled_by_the_rule_of_each_source(source, rule):
    table = NUMBERS["positions.table"]
    for grid in GRIDS:
        expected = NUMBERS.get(f"positions.{source}.{grid[0]}x{grid[1]}")
        if expected is None:
            assert source == "deit"  # whose code knows only squares
            continue
        ours = resample(table[:, 1:], (6, 6), grid, rule)
        torch.testing.assert_close(ours, expected[:, 1:], rtol=0, atol=1e-6)
        assert table[:, :1].equal(expected[:, :1])
        expected = resample_abs_pos_embed(table, list(grid), [6, 6])  # timm's own function
        assert resample(table[:, 1:], (6, 6), grid, "antialias").equal(expected[:, 1:])


def released_by_dinov2(state, registers):
    """Tensors of timm in the names and the layout of the DINOv2 repository."""
    state = {**state, "mask_token": torch.zeros(1, 32)}
    if registers:
        position = torch.randn(1, 1, 32)
        state["pos_embed"] = torch.cat([position, state["pos_embed"]], 1)
        state["cls_token"] = state["cls_token"] - position
        state["register_tokens"] = state.pop("reg_token")
    return state


@pytest.mark.parametrize(("registers", "chunked"), [(0, True), (4, False)])
def test_weights_of_dinov2_give_its_features(compare, of_timm, write, registers, chunked):
    model, state = of_timm(
        "vit_tiny_patch16_224",
        **TINY,
        init_values=1e-5,
        reg_tokens=registers,
        no_embed_class=registers > 0,
    )
    content = released_by_dinov2(state, registers)
    model.load_state_dict(checkpoint_filter_fn(dict(content), model))
    if chunked:
        content = {re.sub(r"^blocks\.", "blocks.0.", k): v for k, v in content.items()}
        content = {"teacher": {f"backbone.{key}": value for key, value in content.items()}}
    loaded = load_pretrained(write(content))
    assert loaded.family == "dinov2"
    assert loaded.report.full
    assert loaded.encoder.config["pos_interpolation"] == ("antialias" if registers else "dino")
    # without registers timm resamples in another way than DINOv2
    for size in ((48, 48), *([(32, 72)] if registers else [])):
        compare(loaded.encoder, model, *size)


@pytest.mark.parametrize(
    ("name", "tokens"), [("deit_tiny", 0), ("deit_tiny_distilled", 1), ("deit3_small", 0)]
)
def test_weights_of_deit_give_its_features_and_the_distillation_token_is_a_register(
    compare, of_timm, write, name, tokens
):
    model, state = of_timm(f"{name}_patch16_224", **TINY)
    state = {re.sub(r"\.ls(\d)\.gamma", r".gamma_\1", key): v for key, v in state.items()}
    heads = {"head.weight": torch.ones(2, 32), "head.bias": torch.ones(2)}
    if tokens:
        heads |= {"head_dist.weight": torch.ones(2, 32), "head_dist.bias": torch.ones(2)}
    family = "auto" if "deit3" in name else "deit"  # whose names are timm's as well
    content = {"model": {**state, **heads}, "args": argparse.Namespace()}
    loaded = load_pretrained(write(content), family)
    assert loaded.family == ("deit3" if "deit3" in name else "deit")
    assert set(loaded.report.ignored) == set(heads)
    assert loaded.encoder.config.get("num_registers", 0) == tokens
    compare(loaded.encoder, model, 48, 48)


@pytest.mark.parametrize("family", ["deit", "timm"])
def test_an_encoder_for_another_size_has_positions_by_the_rule_of_the_family(
    compare, of_timm, write, family
):
    _, state = of_timm("deit_tiny_patch16_224", **TINY)
    content = {**state, "head.weight": torch.ones(2, 32), "head.bias": torch.ones(2)}
    content["pos_embed"] = NUMBERS["positions.table"].repeat(1, 1, 4)
    loaded = load_pretrained(write(content), family, img_size=96)
    assert loaded.report.resized == ("pos_embed",)
    expected = NUMBERS["positions.deit.12x12"]
    if family == "timm":
        expected = resample_abs_pos_embed(NUMBERS["positions.table"], [12, 12])
    found = loaded.encoder.pos_embed.detach()[..., :8]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    model, _ = of_timm("deit_tiny_patch16_224", **{**TINY, "img_size": 96})
    model.load_state_dict(loaded.encoder.state_dict())
    compare(loaded.encoder, model, 96, 96)


def test_weights_of_locatvit_give_its_image_feature(monkeypatch, write):
    monkeypatch.setitem(SHAPES, "nano", Shape(embed_dim=16, depth=2, num_heads=2))
    state = part(NUMBERS, "locatvit.state.")
    content = {"teacher": {f"backbone.{key}": value for key, value in state.items()}}
    loaded = load_pretrained(write(content))
    assert loaded.family == "locatvit"
    assert loaded.encoder.config["locality"] == Locality("gaussian", refine=True)
    for size in ("32x32", "48x40"):
        cls = loaded.encoder(NUMBERS[f"locatvit.images.{size}"]).cls
        expected = NUMBERS[f"locatvit.cls.{size}"]
        torch.testing.assert_close(cls, expected, rtol=0, atol=2e-5)


def test_supervised_weights_of_locatvit_are_resampled_as_in_timm(build, write, same):
    locality = Locality("gaussian", refine=True)
    ours = build(locality=locality, num_registers=4, pos_interpolation="antialias")
    state = {**ours.state_dict(), "head.weight": torch.ones(2, 32), "head.bias": torch.ones(2)}
    table = state["pos_embed"]  # with positions for registers, which are 0
    state["pos_embed"] = torch.cat([table[:, :1], torch.zeros(1, 4, 32), table[:, 1:]], 1)
    same(load_pretrained(write(state, "model.safetensors"), "locatvit").encoder, ours)
