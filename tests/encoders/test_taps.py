import pytest
import torch

from vitlab.encoders import Locality, Specialize, record
from vitlab.encoders.taps import recording


@pytest.mark.parametrize("kind", ["none", "gaussian"])
@pytest.mark.parametrize("normalizer", ["softmax", "entmax15"])
def test_recording_changes_no_output(build, images, normalizer, kind):
    vit = build(normalizer=normalizer, locality=Locality(kind))
    alone = vit(images)
    with record(vit, "attn.weights") as weights:
        watched = vit(images)
    tolerance = 0 if normalizer == "entmax15" else 5e-6  # the fused softmax adds in another order
    torch.testing.assert_close(watched.cls, alone.cls, rtol=0, atol=tolerance)
    torch.testing.assert_close(watched.patches, alone.patches, rtol=0, atol=tolerance)
    assert [tuple(w.shape) for w in weights] == [(2, 2, 36, 36)] * 3
    for w in weights:
        torch.testing.assert_close(w.sum(-1), torch.ones(2, 2, 36), rtol=0, atol=5e-6)


def test_every_forward_pass_is_recorded_in_order_of_the_blocks(build, images):
    vit = build()
    with record(vit, "mlp") as outputs:
        vit(images)
        vit(images[:1])
    assert [len(output) for output in outputs] == [2, 2, 2, 1, 1, 1]
    torch.testing.assert_close(outputs[5], outputs[2][:1], rtol=0, atol=1e-5)


def test_what_is_recorded_is_part_of_the_graph(build, images):
    vit = build(normalizer="entmax15")
    with record(vit, "attn.weights") as weights:
        vit(images)
    (gradient,) = torch.autograd.grad(weights[-1].square().sum(), vit.pos_embed)
    assert gradient.abs().max() > 0


def test_nobody_listens_afterwards(build, images):
    vit = build()
    with pytest.raises(RuntimeError, match="stop"), record(vit, "attn.weights") as weights:
        raise RuntimeError("stop")
    vit(images)
    assert weights == []
    assert not any(recording(block.attn.weights) for block in vit.blocks)


def test_a_name_that_only_some_blocks_have_is_refused_and_leaves_no_trace(build):
    vit = build(specialize=Specialize(qkv=0.5))
    with pytest.raises(AttributeError, match="qkv_cls"), record(vit, "attn.qkv_cls"):
        pass
    assert not recording(vit.blocks[0].attn.qkv_cls)
