"""A frozen backbone with prompts: what is kept, what is refused, what it costs."""

import copy

import pytest
import torch
from refusals import refused
from torch.utils.flop_counter import FlopCounterMode

from vitlab.encoders import Locality, Normalizer, Pool, PromptedViT, Prompts, ViT, record

TCPA = Prompts(cls=Pool(4, 2, top_k=2), patches=Pool(5, 1, top_k=3))


def make(seed=0, prompts=TCPA, **options):
    torch.manual_seed(seed)
    return PromptedViT(ViT("nano", 8, 32, **options), prompts)


def test_the_state_holds_prompts_keys_and_a_fingerprint_alone():
    state = make().state_dict()
    parts = ("cls.prompts", "cls.keys", "patches.prompts", "patches.keys")
    names = {f"backbone.blocks.{block}.prompts.{part}" for block in range(3) for part in parts}
    assert set(state) == {*names, "fingerprint"}
    assert state["fingerprint"].shape == (32,)


def test_it_is_read_back_beside_the_same_backbone_weights_only():
    trained, images = make(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        for memory in trained.block_prompts:
            memory.cls.prompts.add_(1)
    state = torch.nn.ModuleDict({"encoder": trained}).state_dict()
    again = torch.nn.ModuleDict({"encoder": copy.deepcopy(make())})  # the hook goes with a copy
    again.load_state_dict(state)
    assert again["encoder"].eval()(images).cls.equal(trained.eval()(images).cls)
    assert not make().eval()(images).cls.equal(trained.eval()(images).cls)


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"normalizer": "entmax15"},
        {"normalizer": Normalizer(1.0, sharpness=2)},
        {"locality": Locality(refine=True)},
        {"pos_interpolation": "dino"},
    ],
    ids=str,
)
def test_another_backbone_is_refused_even_where_tensors_agree(other):
    with refused("backbone", wording=False):
        make(**other).load_state_dict(make().state_dict())


def test_what_is_no_other_backbone_is_accepted_and_other_prompts_are_not():
    state = make().state_dict()
    make(drop_path=0.3).load_state_dict(state)  # without effect on a frozen backbone
    make(normalizer=Normalizer(1.0)).load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"Missing key.*fingerprint"):
        make().load_state_dict({k: v for k, v in state.items() if k != "fingerprint"})
    with pytest.raises(RuntimeError, match="size mismatch"):
        make(prompts=Prompts(cls=Pool(6, 2, 2), patches=Pool(5, 1, 3))).load_state_dict(state)


def test_the_backbone_stays_in_evaluation_mode():
    encoder = make(drop_path=0.9)
    assert encoder.training
    assert all(memory.training for memory in encoder.block_prompts)
    assert not any(module.training for module in [encoder.backbone, encoder.backbone.norm])
    encoder.eval()
    assert not any(memory.training for memory in encoder.block_prompts)


def test_the_cost_is_that_of_the_specification():
    for prompts, expected in (
        (Prompts(shared=36), 1_318_021_632),  # with keys, values and attention
        (Prompts(cls=Pool(18, top_k=10), patches=Pool(18, top_k=10)), 1_326_191_616),  # and cosines
    ):
        encoder = PromptedViT(ViT("Ti"), prompts).eval()
        counter = FlopCounterMode(display=False)
        # attention written out, so that all of it is counted
        with record(encoder, "attn.weights"), torch.no_grad(), counter:
            encoder(torch.zeros(1, 3, 224, 224))
        assert counter.get_total_flops() // 2 == expected
