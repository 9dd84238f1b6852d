"""The contract of an encoder of one's own."""

import copy

import pytest
import torch
from refusals import refused
from torch import nn

from vitlab.encoders import Encoder, Tokens
from vitlab.encoders.encoder import check_encoder


class Own(Encoder):
    def __init__(self, width: int = 4, *, shift: int = 0, **more: int):
        super().__init__()
        self.embed_dim, self.patch_size, self.shift = width, 8, shift
        self.net = nn.Conv2d(3, width, 8, 8)

    def forward(self, images):
        features = self.net(images)
        patches = features.flatten(2).transpose(1, 2)[:, self.shift :]
        return Tokens(patches.mean(1), patches[:, :0], patches, features.shape[2:])


def test_arguments_are_kept_without_a_line_for_it():
    own = Own(6, other=2)
    assert own.config == {"width": 6, "shift": 0, "other": 2}
    assert copy.deepcopy(own).config == own.config
    assert own.spec()["init_args"] == own.config


def test_without_blocks_the_walk_is_one_sequence_that_reads_as_the_features():
    own, images = Own(), torch.rand(2, 3, 16, 24)
    (state,) = own.walk(images)
    expected, found = own(images), own.read(state)
    for name in ("cls", "patches", "registers"):
        assert torch.equal(getattr(found, name), getattr(expected, name))


def test_what_is_missing_is_named_before_a_run():
    check_encoder(Own(), 16)

    class NoWidth(Own):
        def __init__(self):
            super().__init__()
            del self.embed_dim

    class NoTokens(Own):
        def forward(self, images):
            return self.net(images)

    class OtherWidth(Own):
        def __init__(self):
            super().__init__()
            self.embed_dim = 5

    for encoder in (NoWidth(), NoTokens(), OtherWidth(), Own(shift=1)):
        with refused("model.objective.encoder"):
            check_encoder(encoder, 16)


def test_a_check_changes_nothing():
    own = Own().train()
    own.norm = nn.BatchNorm1d(3)
    before = torch.get_rng_state()
    check_encoder(own, 16)
    assert own.training
    assert own.norm.num_batches_tracked == 0
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("value", [torch.relu, nn.Identity(), {1, 2}])
def test_arguments_that_no_checkpoint_can_describe_are_refused(value):
    with refused("model.objective.encoder", wording=False):
        Own(other=value).spec()
