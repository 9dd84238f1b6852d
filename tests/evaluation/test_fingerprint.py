import copy

import torch

from vitlab.encoders import Encoder, Locality, Pixels, ViT
from vitlab.evaluation.fingerprint import features_key, fingerprint, fingerprint_of_data
from vitlab.evaluation.frozen_encoder import Renormalized


class Wrapped(Encoder):
    """An encoder of one's own, without a config."""

    embed_dim, patch_size = 768, 16

    def __init__(self, shift: float = 0.0, **attributes):
        super().__init__()
        self.inner = Pixels(16)
        self.register_buffer("shift", torch.tensor(shift), persistent=False)
        for name, value in attributes.items():
            setattr(self, name, value)

    def shade(self, images):
        return images

    def walk(self, images):
        return self.inner.walk(self.shade(images))

    def forward(self, images):
        return self.inner(self.shade(images))


def test_weights_and_arguments_decide_the_fingerprint():
    torch.manual_seed(0)
    first, second = ViT("nano", 16, 32), ViT("nano", 16, 32)
    assert fingerprint(first) != fingerprint(second)
    second.load_state_dict(first.state_dict())
    assert fingerprint(first) == fingerprint(second)
    others = [
        *(Pixels(8), Pixels(16), Wrapped(), Wrapped(1.0)),
        *(Wrapped(act=torch.nn.GELU()), Wrapped(act=torch.nn.ReLU())),
        *(Wrapped(config={"scale": 1}), Wrapped(config={"scale": 2})),
    ]
    assert len({fingerprint(each) for each in others}) == len(others)
    assert fingerprint(Pixels(8)) == fingerprint(Pixels(8))


def test_a_fingerprint_stays_the_same_after_a_forward_pass_and_in_a_copy():
    vits = ViT("nano", 16, 32), Renormalized(ViT("nano", 16, 32, locality=Locality("fixed")))
    for encoder in (*vits, Wrapped(1.0)):
        before = fingerprint(encoder)
        encoder(torch.rand(1, 3, 32, 32))
        assert fingerprint(encoder) == fingerprint(copy.deepcopy(encoder)) == before
        assert features_key(encoder.eval(), 32) == features_key(copy.deepcopy(encoder), 32)


def test_what_cannot_be_hashed_changes_the_features_and_rounding_does_not():
    hooked, shaded = Wrapped(), Wrapped()
    shaded.shade = lambda x: 1.1 * x
    hooked.inner.register_forward_pre_hook(lambda _, given: (given[0] * 1.1,))
    for other in (shaded, hooked):
        assert fingerprint(other) == fingerprint(Wrapped())
        assert features_key(other, 32) != features_key(Wrapped(), 32)
    torch.manual_seed(0)
    encoder = ViT("nano", 16, 32).eval()
    moved = copy.deepcopy(encoder)
    for each in moved.parameters():
        each.data *= 1 + 1e-7
    assert features_key(encoder, 32) == features_key(moved, 32)


def test_names_and_classes_decide_the_fingerprint_of_data(make):
    first = fingerprint_of_data(make(), "train")
    assert first == fingerprint_of_data(make(void=3), "train")
    assert first != fingerprint_of_data(make(), "val")
    assert first != fingerprint_of_data(make(train=5), "train")
