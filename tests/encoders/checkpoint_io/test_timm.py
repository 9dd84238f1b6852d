"""Our encoders as models of timm."""

import subprocess
import sys

import pytest
import timm
import torch
from refusals import refused
from timm.optim import param_groups_layer_decay

import vitlab.timm
from vitlab.encoders import CLSSpecialization, Locality

NAMES = [
    f"vitlab_vit_{size}_patch16_{variant}"
    for size in ("tiny", "small", "base")
    for variant in ("entmax15", "cls_specialized", "locat")
]


@pytest.fixture
def model(build):
    """A tiny encoder behind timm's interface, with an option of each kind."""
    encoder = build(
        cls_specialization=CLSSpecialization(norm=1, qkv=0.334, final_norm=True), num_registers=2
    )
    return vitlab.timm.TimmViT(encoder, num_classes=5).eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if "tiny" in name])
def test_a_model_is_made_by_name_and_takes_other_sizes(name):
    model = timm.create_model(name, num_classes=7, drop_path_rate=0.1, dynamic_img_size=True).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 224, 224)).shape == (1, 7)
        assert model.forward_features(torch.randn(1, 3, 96, 160)).shape == (1, 61, 192)
        features = timm.create_model(name, features_only=True, out_indices=(1, -1)).eval()
        maps = features(torch.randn(1, 3, 64, 96))
    assert [tuple(each.shape) for each in maps] == [(1, 192, 4, 6)] * 2
    assert features.feature_info.channels() == [192, 192]
    assert features.feature_info.reduction() == [16, 16]


def test_importing_vitlab_alone_loads_neither_torch_nor_timm():
    code = "import vitlab, sys; assert not {'torch', 'timm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_features_are_those_of_the_encoder(build, model, images):
    assert sorted(timm.list_models("vitlab_*")) == sorted(NAMES)
    assert not timm.list_models("vitlab_*", pretrained=True)
    tokens = model.encoder(images)
    features = model.forward_features(images)
    assert features[:, 0].equal(tokens.cls)
    assert features[:, 3:].equal(tokens.patches)
    assert model(images).equal(model.head(tokens.cls))
    assert model.forward_head(features, pre_logits=True).equal(tokens.cls)
    model.reset_classifier(4, "avg")
    torch.testing.assert_close(model(images), model.head(tokens.patches.mean(1)))
    model.reset_classifier(0, "")
    assert model(images).equal(features)
    # timm's own refinement (global_pool="prr") is not part of its features either
    refined = vitlab.timm.TimmViT(build(locality=Locality(refine=True)), num_classes=5).eval()
    features, cls = refined.forward_features(images), refined.encoder(images).cls
    assert not features[:, 0].equal(cls)
    assert refined.forward_head(features, pre_logits=True).equal(cls)
    assert refined(images).equal(refined.head(cls))
    assert refined.forward_intermediates(images)[0].equal(features)


def test_intermediates_are_the_states_of_the_walk(model, images):
    states = list(model.encoder.walk(images))
    final, maps = model.forward_intermediates(images)
    assert final.equal(model.forward_features(images))
    assert len(maps) == 3
    for state, found in zip(states[1:], maps, strict=True):
        assert found.equal(state.tokens().map)
    ((patches, prefix),) = model.forward_intermediates(
        images, 1, return_prefix_tokens=True, norm=True, output_fmt="NLC", intermediates_only=True
    )
    assert torch.cat([prefix, patches], 1).equal(final)
    (first,) = model.forward_intermediates(images, [0], stop_early=True, intermediates_only=True)
    assert first.equal(maps[0])


def test_pruning_keeps_what_is_asked_for(model, images):
    expected = model.forward_intermediates(images, [1], intermediates_only=True)
    assert model.prune_intermediate_layers([1], prune_norm=True) == [1]
    assert len(model.encoder.blocks) == 2
    assert "norm_cls" not in dict(model.encoder.named_children())
    found = model.forward_intermediates(images, [1], norm=True, intermediates_only=True)
    assert found[0].equal(expected[0])
    assert model.num_classes == 0


def test_timm_groups_parameters_by_depth(model):
    groups = param_groups_layer_decay(model, 0.05, model.no_weight_decay(), layer_decay=0.5)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    by_scale = {group["lr_scale"] for group in groups}
    assert by_scale == {0.5**k for k in range(5)}  # stem, 3 blocks with the norm, head


def test_what_cannot_be_done_is_refused(model, images):
    for field, wrong in (
        ("global_pool", lambda: model.reset_classifier(3, "map")),
        ("indices", lambda: model.forward_intermediates(images, [3])),
        ("indices", lambda: model.forward_intermediates(images, 4)),
        ("output_fmt", lambda: model.forward_intermediates(images, output_fmt="CHW")),
        ("set_grad_checkpointing", lambda: model.set_grad_checkpointing()),
        ("img_size", lambda: timm.create_model(NAMES[0], img_size=(224, 320))),
        ("img_size", lambda: timm.create_model(NAMES[0], in_chans=1)),
        ("drop_pth_rate", lambda: timm.create_model(NAMES[0], drop_pth_rate=0.1)),
        (
            "dynamic_img_size",
            lambda: timm.create_model(NAMES[0], dynamic_img_size=False),
        ),
    ):
        with refused(field):
            wrong()
    model.set_grad_checkpointing(False)
