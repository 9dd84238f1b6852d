import copy

import pytest
import torch
from torch import nn

from vitlab.encoders import Encoder, Locality, Pixels, Pool, PromptedViT, Prompts, ViT
from vitlab.evaluation.features import Source, patch_table
from vitlab.evaluation.fingerprint import (
    fingerprint,
    fingerprint_of_data,
    fingerprint_of_heads,
    unknown,
)
from vitlab.evaluation.frozen_encoder import Renormalized
from vitlab.probes.layer_selection import LayerSelection


def test_weights_and_arguments_decide_the_fingerprint():
    torch.manual_seed(0)
    first, second = ViT("nano", 16, 32), ViT("nano", 16, 32)
    assert fingerprint(first) != fingerprint(second)
    second.load_state_dict(first.state_dict())
    assert fingerprint(first) == fingerprint(second)
    assert fingerprint(Pixels(8)) == fingerprint(Pixels(8)) != fingerprint(Pixels(16))


class Wrapped(Encoder):
    """Knows nothing that it is not given."""

    embed_dim, patch_size = 768, 16

    def __init__(self, **attributes):
        super().__init__()
        self.inner = Pixels(16)
        for name, value in attributes.items():
            setattr(self, name, value)

    def walk(self, images):
        return self.inner.walk(images)

    def forward(self, images):
        return self.inner(images)


def buffered(value: float) -> Wrapped:
    encoder = Wrapped()
    encoder.register_buffer("shift", torch.tensor(value), persistent=False)
    return encoder


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (buffered(1.0), buffered(2.0)),
        (Wrapped(_t=torch.zeros(2)), Wrapped(_t=torch.ones(2))),
        (Wrapped(t=[torch.zeros(5000)]), Wrapped(t=[torch.eye(5000)[2500]])),  # of one repr
        (Wrapped(_scale=1.0), Wrapped(_scale=2.0)),
        (Wrapped(on=True), Wrapped(on=None)),
        (Wrapped(sizes=[1, 2]), Wrapped(sizes=[2, 1])),
        (Wrapped(act=nn.GELU()), Wrapped(act=nn.ReLU())),
        (Wrapped(act=nn.GELU()), Wrapped(act=nn.GELU("tanh"))),
        (Wrapped(act=torch.relu), Wrapped(act=torch.tanh)),
        (Wrapped(norm=nn.LayerNorm), Wrapped(norm=nn.Identity)),
        (Wrapped(by={1: 2}), Wrapped(by={"1": 2})),
        (Wrapped(at=LayerSelection()), Wrapped(at=LayerSelection((-2,)))),
        (Wrapped(config={"t": torch.zeros(5000)}), Wrapped(config={"t": torch.eye(5000)[2500]})),
    ],
)
def test_all_that_can_be_hashed_of_an_encoder_decides_its_fingerprint(one, other):
    assert unknown(one) == unknown(other) == []
    assert fingerprint(one) == fingerprint(one)
    assert fingerprint(one) != fingerprint(other)


def test_a_fingerprint_stays_the_same_after_a_forward_pass_and_in_a_copy():
    tcpa = Prompts(cls=Pool(4, 2, top_k=2), patches=Pool(5, 1, top_k=3))
    prompted = PromptedViT(ViT("nano", 16, 32), tcpa)
    vits = ViT("nano", 16, 32), Renormalized(ViT("nano", 16, 32, locality=Locality("fixed")))
    for encoder in (*vits, prompted.eval(), buffered(1.0)):
        before = fingerprint(encoder)
        encoder(torch.rand(1, 3, 32, 32))
        assert fingerprint(encoder) == fingerprint(copy.deepcopy(encoder)) == before
        assert unknown(encoder) == []


def hooked() -> Encoder:
    encoder = ViT("nano", 16, 32)
    encoder.blocks[0].register_forward_hook(lambda _, __, out: 2 * out)
    return encoder


def replaced() -> Encoder:
    encoder = ViT("nano", 16, 32)
    encoder.blocks[0].forward = lambda x, _: x
    return encoder


def plain(scale: float) -> Wrapped:
    return Wrapped(shade=lambda x: scale * x)


@pytest.mark.parametrize(
    ("encoder", "name"),
    [
        (plain(1.0), "shade"),
        (Wrapped(a=[{"b": object()}]), "a"),
        (Wrapped(blocks=[Pixels(16)]), "blocks"),  # which torch does not see
        (Wrapped(inner=Wrapped(rule=object())), "inner.rule"),
        (Wrapped(config={"rule": object()}, rule=object()), "config"),
        (Wrapped(walk=plain(1.0).walk), "walk"),
        (hooked(), "hooks of blocks.0"),
        (replaced(), "blocks.0.forward"),
    ],
)
def test_what_cannot_be_hashed_is_named(encoder, name):
    assert unknown(encoder) == [name]
    assert len(fingerprint(encoder)) == 64  # that a result has


def test_a_config_says_what_attributes_cannot():
    one, other = (Wrapped(config={"scale": s}, shade=lambda x, s=s: s * x) for s in (1, 2))
    assert unknown(one) == []
    assert fingerprint(one) != fingerprint(other)


def test_features_of_what_cannot_be_told_apart_are_not_kept(make, job, tmp_path):
    class Shaded(Wrapped):
        def walk(self, images):
            return self.inner.walk(self.shade(images))

        def forward(self, images):
            return next(iter(self.walk(images))).tokens()

    data, kept = make(), job(batch=8, cache=tmp_path / "cache")
    found = []
    for scale in (1.0, 2.0):
        source = Source(Shaded(shade=lambda x, s=scale: s * x), data, LayerSelection(), 64)
        with (
            pytest.warns(UserWarning, match="features of Shaded are not kept: shade may change"),
            patch_table(source, "val", kept) as table,
        ):
            found.append(table.x)
    assert torch.allclose(2 * found[0], found[1])
    assert not (tmp_path / "cache").exists()
    with patch_table(source, "val", job(batch=8)):  # nothing to say where nothing is kept
        pass


def test_heads_of_what_cannot_be_told_apart_are_not_resumed(make):
    samples = make().samples("train")
    assert fingerprint_of_heads(plain(1.0), samples, 0) != fingerprint_of_heads(
        plain(1.0), samples, 0
    )
    assert fingerprint_of_heads(Pixels(8), samples, 0) == fingerprint_of_heads(
        Pixels(8), samples, 0
    )


def test_names_and_classes_decide_the_fingerprint_of_data(make):
    data = make()
    assert fingerprint_of_data(data, "train") != fingerprint_of_data(data, "val")
    assert fingerprint_of_data(data, "train") == fingerprint_of_data(make(void=3), "train")
    assert fingerprint_of_data(data, "train") != fingerprint_of_data(make(train=5), "train")
