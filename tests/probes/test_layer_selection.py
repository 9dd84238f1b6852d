import pytest
import torch

from vitlab.encoders import Locality, Pixels, ViT
from vitlab.probes.layer_selection import (
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


def test_negative_layers_count_from_the_end(encoder, images):
    first, second = extract_layers(
        encoder, images, [LayerSelection((0, 3), False), LayerSelection((-4, -1), False)]
    )
    assert torch.equal(first.patches, second.patches)
    states = list(encoder.walk(images))
    joined = torch.cat([states[1].tokens().patches, states[4].tokens().patches], -1)
    assert torch.equal(first.patches, joined)


def test_many_readings_cost_one_pass(encoder, images):
    calls = []
    encoder.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    extract_layers(
        encoder,
        images,
        [LayerSelection((layer,), norm) for layer in range(4) for norm in (True, False)],
    )
    assert len(calls) == 1


def test_an_encoder_without_blocks_has_one_layer(images):
    for layer in (0, -1):
        (tokens,) = extract_layers(Pixels(8), images, [LayerSelection((layer,))])
        assert torch.equal(tokens.patches, Pixels(8)(images).patches)


@pytest.mark.parametrize("layer", [4, -5])
def test_a_layer_that_is_not_there_is_refused(encoder, layer):
    with pytest.raises(ValueError, match="use 0 to 3, or -4 to -1"):
        check_layers(encoder, [LayerSelection((layer,))])


def test_cls_stands_behind_each_patch(encoder, images):
    tokens = encoder(images)
    joined = concatenate_cls(tokens)
    assert joined.shape == (2, 12, 256)
    assert torch.equal(joined[1, 5], torch.cat([tokens.patches[1, 5], tokens.cls[1]]))
