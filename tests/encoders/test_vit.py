"""The assembled encoder. The numbers of DINO come from facebookresearch/dino at 7c446df."""

from itertools import product
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

from vitlab.encoders import CLSSpecialization, Locality, Normalizer, TokenSequence, ViT, record
from vitlab.encoders.vit import SHAPES, DropPath, Shape

DINO = load_file(Path(__file__).parents[1] / "references/dino.safetensors")
OPTIONS: dict[str, list] = {
    "normalizer": ["softmax", "entmax15", Normalizer(1.25, sharpness=2, blocks=(0, 2))],
    "cls_specialization": [
        CLSSpecialization(),
        CLSSpecialization(norm=1, qkv=0.334, mlp=0.67, registers="cls"),
    ],
    "kind": ["none", "uniform", "gaussian"],
    "refine": [False, True],
    "num_registers": [0, 2],
    "layer_scale": [0.0, 1e-4],
}
COMBINATIONS = [dict(zip(OPTIONS, values, strict=True)) for values in product(*OPTIONS.values())]


def with_locality(kind, refine, **options):
    return {"locality": Locality(kind, refine=refine), **options}


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("size", "parameters"), [("Ti", 5_524_416), ("S", 21_665_664), ("B", 85_798_656)]
)
def test_parameter_counts_are_those_of_the_specification(size, parameters):
    with torch.device("meta"):
        vit = ViT(size)
    assert count(vit) == parameters
    assert len(list(vit.parameters())) == 150


def test_entmax_adds_no_parameter():
    with torch.device("meta"):
        softmax, entmax = ViT("S"), ViT("S", normalizer="entmax15")
    shapes = [{name: p.shape for name, p in vit.state_dict().items()} for vit in (softmax, entmax)]
    assert shapes[0] == shapes[1]


def test_names_and_shapes_are_timms():
    with torch.device("meta"):
        ours = ViT("S").state_dict()
        theirs = timm.create_model("vit_small_patch16_224", num_classes=0).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.parametrize("layer_scale", [0.0, 0.1])
def test_weights_of_timm_give_timms_features(jitter, layer_scale):
    theirs = jitter(
        VisionTransformer(
            32,
            8,
            num_classes=0,
            embed_dim=32,
            depth=3,
            num_heads=2,
            init_values=layer_scale or None,
        ).eval()
    )
    ours = ViT("nano", 8, 32, layer_scale=layer_scale).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 32, 32)
    tokens, expected = ours(images), theirs.forward_features(images)
    torch.testing.assert_close(tokens.cls, expected[:, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(tokens.patches, expected[:, 1:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", ["32x32", "48x40", "24x24", "64x16"])
def test_weights_of_dino_give_dinos_features_at_every_size(monkeypatch, size):
    monkeypatch.setitem(SHAPES, "nano", Shape(embed_dim=32, depth=2, num_heads=2))
    vit = ViT("nano", 8, 32, pos_interpolation="dino").eval()
    prefix = "vit.state."
    vit.load_state_dict({k[len(prefix) :]: v for k, v in DINO.items() if k.startswith(prefix)})
    tokens, expected = vit(DINO[f"vit.images.{size}"]), DINO[f"vit.tokens.{size}"]
    torch.testing.assert_close(tokens.cls, expected[:, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(tokens.patches, expected[:, 1:], rtol=0, atol=1e-5)


def test_dinos_way_to_resample_positions_is_another_one(build, images):
    size, dino = build(), build(pos_interpolation="dino")
    native = images[..., :32, :32]
    assert size(native).cls.equal(dino(native).cls)
    assert not torch.allclose(size(images).cls, dino(images).cls, atol=1e-3)


@pytest.mark.parametrize(
    "neutral",
    [
        {"cls_specialization": CLSSpecialization(registers="cls")},
        {"normalizer": Normalizer(alpha=1)},
        {"drop_path": 0.5},  # only in training
    ],
    ids=str,
)
def test_a_neutral_option_builds_nothing_and_changes_nothing(build, images, neutral):
    plain, option = build(), build(**neutral)
    assert list(plain.state_dict()) == list(option.state_dict())
    assert plain(images).cls.equal(option(images).cls)
    assert plain(images).patches.equal(option(images).patches)


@pytest.mark.parametrize("options", COMBINATIONS, ids=str)
def test_every_combination_learns_at_a_foreign_size(build, images, options):
    vit = build(**with_locality(**options)).train()
    tokens = vit(images)
    assert tokens.grid == (5, 7)
    assert tokens.map.shape == (2, 32, 5, 7)
    assert tokens.registers.shape == (2, options["num_registers"], 32)
    parts = (tokens.cls, tokens.registers, tokens.patches)
    sum((part * torch.randn_like(part)).sum() for part in parts).backward()
    for name, parameter in vit.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("options", COMBINATIONS, ids=str)
def test_options_leave_shared_weights_and_the_random_stream_alone(options):
    """Any two arms agree on all the parameters they both have."""
    torch.manual_seed(0)
    full = ViT("nano", 8, 32, **with_locality(**COMBINATIONS[-1])).state_dict()
    stream = torch.get_rng_state()
    torch.manual_seed(0)
    other = ViT("nano", 8, 32, **with_locality(**options)).state_dict()
    assert torch.get_rng_state().equal(stream)
    for name, weight in other.items():
        assert weight.equal(full[name]), name


@pytest.mark.parametrize("options", [COMBINATIONS[0], COMBINATIONS[-1]], ids=["plain", "all"])
def test_forward_is_the_end_of_the_walk(build, images, options):
    vit = build(**with_locality(**{**options, "refine": False}))
    states = list(vit.walk(images))
    assert len(states) == len(vit.blocks) + 1
    last = TokenSequence(vit.route("norm", states[-1].x), states[-1].grid).tokens()
    assert last.cls.equal(vit(images).cls)
    assert last.patches.equal(vit(images).patches)
    for block, state, following in zip(vit.blocks, states[:-1], states[1:], strict=True):
        assert block(state.x, state.grid).equal(following.x)


def test_an_image_that_patches_do_not_tile_is_refused_with_a_remedy(build):
    with pytest.raises(ValueError, match="multiple of patch 8; use image size 32 or 40"):
        build()(torch.zeros(1, 3, 32, 33))
    with pytest.raises(ValueError, match=r"patch 16; use encoder\.img_size 224 or 240"):
        ViT("nano", 16, 225)
    with pytest.raises(ValueError, match=r"use encoder\.img_size 16 or 32"):
        ViT("nano", 16, 8)


def test_initialization_is_dinos():
    torch.manual_seed(0)
    vit = ViT("Ti")
    weights = [vit.get_parameter(f"blocks.5.{name}.weight") for name in ("attn.qkv", "mlp.fc2")]
    for weight in (*weights, vit.pos_embed):
        assert weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not vit.get_parameter("blocks.5.attn.qkv.bias").any()
    assert (vit.norm.weight == 1).all()
    # the convolution keeps torch's default: uniform within 1 / sqrt(768)
    assert vit.patch_embed.proj.weight.std().item() == pytest.approx((768 * 3) ** -0.5, rel=0.02)
    assert vit.get_parameter("patch_embed.proj.bias").any()


def test_drop_path_skips_whole_images_and_keeps_the_mean():
    torch.manual_seed(0)
    drop = DropPath(0.25)
    x = torch.ones(20_000, 2, 3)
    assert drop.eval()(x) is x
    y = drop.train()(x)
    assert (y == y[:, :1, :1]).all()
    assert set(y.unique().tolist()) == {0.0, y.max().item()}
    assert y.max().item() == pytest.approx(4 / 3)
    assert y.mean().item() == pytest.approx(1, abs=0.02)


def test_drop_path_grows_linearly_over_the_blocks():
    vit = ViT("nano", 8, 32, drop_path=0.1)
    assert [
        module.rate for module in vit.modules() if isinstance(module, DropPath)
    ] == pytest.approx([0, 0.05, 0.1])


def test_entmax_at_the_start_is_sparse_at_224_and_dense_at_96():
    torch.manual_seed(0)
    vit = ViT("S", normalizer="entmax15").eval()
    for size, low, high in ((224, 0.25, 0.45), (96, 0, 0.08)):
        noise = torch.randn(2, 3, size // 16, size // 16)
        images = F.interpolate(noise, size=(size, size), mode="bicubic")
        with torch.no_grad(), record(vit, "attn.weights") as weights:
            vit(images / images.std())
        for w in weights:
            assert low <= (w == 0).float().mean() <= high
