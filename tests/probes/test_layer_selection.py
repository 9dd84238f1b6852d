import pytest
import torch
from refusals import refused

from vitlab.encoders import Locality, Pixels, ViT
from vitlab.probes import InferenceConfig
from vitlab.probes.layer_selection import (
    FeatureSpec,
    LayerSelection,
    check_layers,
    concatenate_cls,
    extract_layers,
)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return ViT("nano", 8, 32, locality=Locality(refine=True), num_registers=2).eval()


@pytest.fixture
def images():
    return torch.rand(2, 3, 32, 24)


def test_the_last_layer_with_norm_is_the_output(encoder, images):
    (tokens,) = extract_layers(encoder, images, [LayerSelection()])
    expected = encoder(images)
    assert torch.equal(tokens.patches, expected.patches)
    assert torch.equal(tokens.cls, expected.cls)
    assert tokens.grid == (4, 3)
    joined = concatenate_cls(tokens)
    assert joined.shape == (2, 12, 256)
    assert torch.equal(joined[1, 5], torch.cat([tokens.patches[1, 5], tokens.cls[1]]))


def test_layers_are_counted_from_both_ends_by_one_pass(encoder, images):
    calls = []
    encoder.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    selections = (LayerSelection((0, 3), False), LayerSelection((-4, -1), False), LayerSelection())
    first, second, _ = extract_layers(encoder, images, selections)
    assert len(calls) == 1
    assert torch.equal(first.patches, second.patches)
    states = list(encoder.walk(images))
    joined = torch.cat([states[1].tokens().patches, states[4].tokens().patches], -1)
    assert torch.equal(first.patches, joined)
    for layer in (0, -1):  # of an encoder without blocks
        (tokens,) = extract_layers(Pixels(8), images, [LayerSelection((layer,))])
        assert torch.equal(tokens.patches, Pixels(8)(images).patches)
    spec = FeatureSpec(selections[:1] + selections[2:], (False, True))
    maps = spec.read(encoder, (255 * images).byte(), InferenceConfig(images.device))
    assert len(calls) == 3  # one for the walk above
    widths = {name: x.shape[-1] for name, x in maps.features.items()}
    assert widths == spec.widths(encoder)
    assert sorted(widths.values()) == [128, 256, 256, 512]


def test_layers_out_of_range_are_refused(encoder):
    for layer in (4, -5):
        with refused("layers"):
            check_layers(encoder, [LayerSelection((layer,))])
