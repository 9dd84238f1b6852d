import pytest
import torch

from vitlab.encoders import CLSSpecialization, Locality, Pool, PromptedViT, Prompts, record
from vitlab.encoders.hooks import POINTS, hook_blocks, hook_points, recording


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
    vit = build(cls_specialization=CLSSpecialization(qkv=0.5))
    with pytest.raises(AttributeError, match="qkv_cls"), record(vit, "attn.qkv_cls"):
        pass
    assert not recording(vit.blocks[0].attn.qkv_cls)


def heard(vit, images):
    """What `visit` hands over: tokens by block and point, in the order of the calls."""
    found = {}
    with (
        hook_points(vit, lambda block, point, x: found.update({(block, point): x})),
        torch.no_grad(),
    ):
        vit(images)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layer_scale": 0.3},
        {"num_registers": 2, "normalizer": "entmax15", "drop_path": 0.5},
        {
            "cls_specialization": CLSSpecialization(norm=1.0, qkv=0.5, proj=1.0, mlp=0.5),
            "layer_scale": 0.3,
        },
    ],
)
def test_each_point_of_a_block_is_what_the_formula_says(build, images, options):
    vit = build(**options)
    found = heard(vit, images)
    assert list(found) == [(block, point) for block in range(3) for point in POINTS]
    with torch.no_grad():
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
            torch.testing.assert_close(
                x["residual1"] + block.route("ls2", x["mlp"]), x["output"], rtol=0, atol=1e-6
            )


def test_prompts_are_at_no_point(build, images):
    plain = heard(build(), images)
    prompted = PromptedViT(build(), Prompts(shared=3, cls=Pool(2), patches=Pool(2, top_k=1))).eval()
    found = heard(prompted, images)
    assert list(found) == list(plain)
    assert {x.shape for x in found.values()} == {x.shape for x in plain.values()}
    assert torch.equal(found[0, "norm1"], plain[0, "norm1"])
    assert not torch.equal(found[0, "attention"], plain[0, "attention"])


def test_visiting_changes_no_bit_and_leaves_nobody_behind(build, images):
    vit = build(cls_specialization=CLSSpecialization(mlp=1.0))
    alone = vit(images)
    with hook_points(vit, lambda *_: None):
        watched = vit(images)
    assert torch.equal(watched.patches, alone.patches)
    assert torch.equal(watched.cls, alone.cls)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in vit.modules())


def test_what_is_heard_belongs_to_its_block_and_cannot_replace_the_output(build, images):
    vit = build()
    alone = vit(images)
    seen = []

    def hear(block, given, output):
        seen.append((block, given[0].shape, output.shape))
        return torch.zeros_like(output)

    with hook_blocks(vit, "mlp", hear):
        watched = vit(images)
    assert torch.equal(watched.patches, alone.patches)
    assert seen == [(block, (2, 36, 32), (2, 36, 32)) for block in range(3)]
