import pytest
import torch

from vitlab.encoders import CLSSpecialization, Locality, record
from vitlab.encoders.hooks import POINTS, HookPoint, hook_blocks, hook_points, record_calls


@pytest.mark.parametrize("kind", ["none", "gaussian"])
@pytest.mark.parametrize("normalizer", ["softmax", "entmax15"])
def test_recorded_weights_are_distributions_in_graph_and_change_no_output(
    build, images, normalizer, kind, same_tokens
):
    vit = build(normalizer=normalizer, locality=Locality(kind))
    alone = vit(images)
    with record(vit, "attn.weights") as weights:
        watched = vit(images)
        vit(images[:1])
    # the fused softmax adds in another order
    same_tokens(watched, alone, atol=0 if normalizer == "entmax15" else 5e-6)
    assert [tuple(w.shape) for w in weights] == [(2, 2, 36, 36)] * 3 + [(1, 2, 36, 36)] * 3
    torch.testing.assert_close(weights[2][:1], weights[5], rtol=0, atol=1e-5)
    for w in weights:
        torch.testing.assert_close(w.sum(-1), torch.ones(w.shape[:3]), rtol=0, atol=5e-6)
    (gradient,) = torch.autograd.grad(weights[2].square().sum(), vit.pos_embed)
    assert gradient.abs().max() > 0


def test_no_hook_stays_and_fused_attention_returns(build, images):
    vit = build()
    points = [module for module in vit.modules() if isinstance(module, HookPoint)]
    with pytest.raises(ZeroDivisionError), record(vit, "attn.weights") as weights:
        sum(point.hooks for point in points) / (sum(point.hooks for point in points) - 3)
    split = build(cls_specialization=CLSSpecialization(qkv=0.5))
    with pytest.raises(AttributeError, match="qkv_cls"), record(split, "attn.qkv_cls"):
        pass  # a name that only some blocks have
    with hook_points(vit, lambda *_: None), record(vit, "mlp.hidden"):
        pass
    vit(images)
    assert weights == []
    assert not any(point.hooks for point in points)
    for module in (*vit.modules(), *split.modules()):
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_a_hook_of_torch_may_replace_the_tensor_and_a_function_may_not(build, images):
    vit = build()
    alone, seen = vit(images), []

    def read(block, inputs, output):
        seen.append((block, inputs[0].shape, output.shape))
        return torch.zeros_like(output)

    with hook_blocks(vit, "mlp", read), record_calls(vit.norm) as calls:
        watched = vit(images)
    assert torch.equal(watched.patches, alone.patches)
    assert seen == [(block, (2, 36, 32), (2, 36, 32)) for block in range(3)]
    (call,) = calls
    assert call.returned[:, 0].equal(alone.cls)
    assert call.returned.equal(vit.norm(call.given))
    vit.blocks[0].attn.weights.register_forward_hook(lambda _, __, w: torch.full_like(w, 1 / 36))
    assert not vit(images).cls.allclose(alone.cls)


def points_of(vit, images):
    """Tokens by block and point, in the order of the calls."""
    found = {}
    with hook_points(vit, lambda block, point, x: found.update({(block, point): x})):
        vit(images)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"num_registers": 2, "normalizer": "entmax15", "drop_path": 0.5},
        {
            "cls_specialization": CLSSpecialization(norm=1.0, qkv=0.5, proj=1.0, mlp=0.5),
            "layer_scale": 0.3,
        },
    ],
)
@torch.no_grad()
def test_each_point_of_a_block_is_its_term_of_the_formula(build, images, options):
    vit = build(**options)
    alone, found = vit(images), points_of(vit, images)
    assert vit(images).cls.equal(alone.cls)
    assert list(found) == [(block, point) for block in range(3) for point in POINTS]
    states = list(vit.walk(images))
    for index, block in enumerate(vit.blocks):
        x = {point: found[index, point] for point in POINTS}
        attended = block.attn(x["norm1"], states[index].grid)
        expected = {
            "input": states[index].x,
            "norm1": block.route("norm1", x["input"]),
            "attention": attended,
            "scale1": block.route("ls1", attended),
            "residual1": x["input"] + x["scale1"],
            "norm2": block.route("norm2", x["residual1"]),
            "mlp": block.route("mlp", x["norm2"]),
            "output": states[index + 1].x,
        }
        for point, tokens in expected.items():
            assert torch.equal(x[point], tokens), (index, point)
        last = x["residual1"] + block.route("ls2", x["mlp"])
        torch.testing.assert_close(last, x["output"], rtol=0, atol=1e-6)
