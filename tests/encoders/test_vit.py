"""The assembled encoder. The numbers of DINO come from facebookresearch/dino at 7c446df."""

from pathlib import Path

import pytest
import timm
import torch
from encoder_options import options_of
from refusals import refused
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

from vitlab.encoders import CLSSpecialization, Normalizer, ViT
from vitlab.encoders.vit import SHAPES, DropPath, Shape

DINO = load_file(Path(__file__).parents[1] / "references/dino.safetensors")


def test_parameter_counts_are_those_of_the_specification():
    with torch.device("meta"):
        for size, count in (("Ti", 5_524_416), ("S", 21_665_664), ("B", 85_798_656)):
            parameters = list(ViT(size).parameters())
            assert sum(p.numel() for p in parameters) == count
            assert len(parameters) == 150


def test_names_and_shapes_are_timms_with_any_normalizer():
    with torch.device("meta"):
        states = [ViT("S").state_dict(), ViT("S", normalizer="entmax15").state_dict()]
        states.append(timm.create_model("vit_small_patch16_224", num_classes=0).state_dict())
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in states]
    assert shapes[0] == shapes[1] == shapes[2]


@pytest.mark.parametrize("layer_scale", [0.0, 0.1])
def test_weights_of_timm_give_timms_features(jitter, layer_scale, same_tokens):
    shape = {"embed_dim": 32, "depth": 3, "num_heads": 2, "init_values": layer_scale or None}
    theirs = jitter(VisionTransformer(32, 8, num_classes=0, **shape).eval())
    ours = ViT("nano", 8, 32, layer_scale=layer_scale).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 32, 32)
    same_tokens(ours(images), theirs.forward_features(images), 1e-5)


def test_weights_of_dino_give_dinos_features_at_every_size(monkeypatch, same_tokens):
    monkeypatch.setitem(SHAPES, "nano", Shape(embed_dim=32, depth=2, num_heads=2))
    dino, plain = (ViT("nano", 8, 32, pos_interpolation=rule).eval() for rule in ("dino", "size"))
    prefix = "vit.state."
    for vit in (dino, plain):
        vit.load_state_dict({k[len(prefix) :]: v for k, v in DINO.items() if k.startswith(prefix)})
    for size in ("32x32", "48x40", "24x24", "64x16"):
        images, expected = DINO[f"vit.images.{size}"], DINO[f"vit.tokens.{size}"]
        same_tokens(dino(images), expected, 1e-5)
        other = plain(images).cls  # resamples in another way
        assert torch.allclose(other, expected[:, 0], atol=1e-5) == (size == "32x32")


@pytest.mark.parametrize(
    "neutral",
    [
        {"cls_specialization": CLSSpecialization(registers="cls")},
        {"normalizer": Normalizer(alpha=1)},
        {"drop_path": 0.5},  # only in training
    ],
    ids=str,
)
def test_a_neutral_option_builds_nothing_and_changes_nothing(build, images, neutral, same_tokens):
    plain, option = build(), build(**neutral)
    assert list(plain.state_dict()) == list(option.state_dict())
    same_tokens(plain(images), option(images))


@pytest.mark.parametrize("row", ["000000", "122112", "324112"])
def test_forward_is_the_end_of_the_walk(build, images, row, same_tokens):
    vit = build(**options_of(row))
    tokens, states = vit(images), list(vit.walk(images))
    assert len(states) == len(vit.blocks) + 1
    assert (tokens.grid, tokens.map.shape) == ((5, 7), (2, 32, 5, 7))
    assert tokens.registers.shape == (2, options_of(row)["num_registers"], 32)
    same_tokens(vit.read(states[-1]), tokens)
    assert vit.route("norm", states[-1].x)[:, -35:].equal(tokens.patches)
    for block, state, following in zip(vit.blocks, states[:-1], states[1:], strict=True):
        assert block(state.x, state.grid).equal(following.x)


def test_an_image_that_patches_do_not_tile_is_refused(build):
    with refused("image size"):
        build()(torch.zeros(1, 3, 32, 33))
    for size in (225, 8):
        with refused("encoder.img_size"):
            ViT("nano", 16, size)


def test_initialization_is_dinos():
    vit = ViT("Ti")
    weights = [vit.get_parameter(f"blocks.5.{name}.weight") for name in ("attn.qkv", "mlp.fc2")]
    for weight in (*weights, vit.pos_embed):
        assert weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not vit.get_parameter("blocks.5.attn.qkv.bias").any()
    assert (vit.norm.weight == 1).all()
    # the convolution keeps torch's default: uniform within 1 / sqrt(768)
    assert vit.patch_embed.proj.weight.std().item() == pytest.approx((768 * 3) ** -0.5, rel=0.02)
    assert vit.get_parameter("patch_embed.proj.bias").any()


def test_drop_path_skips_whole_images_keeps_the_mean_and_grows_over_the_blocks():
    drop, x = DropPath(0.25), torch.ones(20_000, 2, 3)
    assert drop.eval()(x) is x
    y = drop.train()(x)
    assert (y == y[:, :1, :1]).all()
    assert set(y.unique().tolist()) == {0.0, y.max().item()}
    assert y.max().item() == pytest.approx(4 / 3)
    assert y.mean().item() == pytest.approx(1, abs=0.02)
    drops = [each for each in ViT("nano", 8, 32, drop_path=0.1).modules() if type(each) is DropPath]
    assert [each.rate for each in drops] == pytest.approx([0, 0.05, 0.1])
