"""The assembled encoder; weights of DINO are compared in checkpoint_io/test_families.py."""

import pytest
import torch
from refusals import refused
from timm.layers import DropPath
from timm.models.vision_transformer import VisionTransformer

from vitlab.encoders import CLSSpecialization, Normalizer, ViT


def test_parameter_counts_are_those_of_the_specification():
    with torch.device("meta"):
        for size, count in (("Ti", 5_524_416), ("S", 21_665_664), ("B", 85_798_656)):
            parameters = list(ViT(size).parameters())
            assert sum(p.numel() for p in parameters) == count
            assert len(parameters) == 150


@pytest.mark.parametrize("layer_scale", [0.0, 0.1])
def test_weights_of_timm_give_timms_features(jitter, layer_scale, same_tokens):
    shape = {"embed_dim": 32, "depth": 3, "num_heads": 2, "init_values": layer_scale or None}
    theirs = jitter(VisionTransformer(32, 8, num_classes=0, **shape).eval())
    ours = ViT("nano", 8, 32, layer_scale=layer_scale).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 32, 32)
    same_tokens(ours(images), theirs.forward_features(images), 1e-5)


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


def test_drop_path_grows_over_the_blocks():
    drops = [m for m in ViT("nano", 8, 32, drop_path=0.1).modules() if isinstance(m, DropPath)]
    assert [each.drop_prob for each in drops] == pytest.approx([0, 0.05, 0.1])
