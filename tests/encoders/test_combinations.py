"""Options together: every pair of values in the fast suite, the full product in the slow one."""

from itertools import combinations, product

import pytest
import torch

import vitlab
from vitlab.encoders import (
    CLSSpecialization,
    Locality,
    Normalizer,
    Pool,
    PromptedViT,
    Prompts,
    ViT,
    save,
)

OPTIONS: dict[str, list] = {
    "normalizer": [
        "softmax",
        "entmax15",
        "sparsemax",
        Normalizer(1.25, sharpness=2, blocks=(0, 2)),
    ],
    "cls_specialization": [
        CLSSpecialization(),
        CLSSpecialization(norm=1, qkv=0.334, registers="cls"),
        CLSSpecialization(norm=0.67, qkv=1, proj=0.67, mlp=0.334, final_norm=True, init="random"),
    ],
    "locality": [
        Locality(),
        Locality(refine=True),
        Locality("gaussian", refine=True, resolution="quadratic"),
        Locality("constant", init="warm"),
        Locality("fixed", refine=True),
        Locality("uniform", boost_prefix=True),
    ],
    "num_registers": [0, 2],
    "layer_scale": [0.0, 1e-2],
    "pos_interpolation": ["size", "dino", "antialias"],
}
# index of the value of each option
ROWS = [
    *("002011", "010102", "013111", "021110", "024002", "025001", "103010", "105002"),
    *("111102", "114001", "120101", "122102", "204110", "205010", "210011", "212100"),
    *("221010", "223102", "300100", "301001", "313002", "314110", "315112", "322102"),
]


def options_of(row: str) -> dict:
    return {
        name: values[int(index)] for (name, values), index in zip(OPTIONS.items(), row, strict=True)
    }


FULL = ["".join(map(str, each)) for each in product(*(range(len(v)) for v in OPTIONS.values()))]
rows = pytest.mark.parametrize(
    "row", [*ROWS, *(pytest.param(row, marks=pytest.mark.slow) for row in FULL if row not in ROWS)]
)

SIZES = [(64, 64), (48, 80)]  # the constructed one and another


def parts(tokens):
    return [tokens.cls, tokens.registers, tokens.patches]


def make(row):
    torch.manual_seed(0)
    return ViT("nano", 16, 64, **options_of(row))


def test_the_rows_cover_every_pair_of_values():
    for a, b in combinations(range(len(OPTIONS)), 2):
        assert {(row[a], row[b]) for row in ROWS} == {(row[a], row[b]) for row in FULL}


@rows
def test_an_encoder_is_trained_saved_and_loaded_to_the_bit(tmp_path, row):
    vit = make(row)
    optimizer = torch.optim.AdamW(vit.parameters(), lr=1e-3, foreach=True)
    images = [torch.randn(2, 3, *size) for size in SIZES]
    targets = [[torch.randn_like(x) for x in parts(vit(stack))] for stack in images]
    before = {name: value.clone() for name, value in vit.state_dict().items()}
    for step in range(4):
        outputs = parts(vit(images[step % 2]))
        pairs = zip(outputs, targets[step % 2], strict=True)
        optimizer.zero_grad()
        sum((x - y).square().sum() for x, y in pairs).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in vit.parameters())
        optimizer.step()
    assert not any(value.equal(before[name]) for name, value in vit.state_dict().items())
    save(vit.eval(), tmp_path / "folder")
    again = vitlab.load(tmp_path / "folder")
    assert again.config == vit.config
    assert not again.training
    with torch.no_grad():
        for stack in images:
            for ours, theirs in zip(parts(vit(stack)), parts(again(stack)), strict=True):
                assert ours.isfinite().all()
                assert ours.equal(theirs)


@rows
def test_an_option_leaves_shared_weights_and_the_random_stream_alone(row):
    """Any two arms agree on the parameters they both have."""
    full = make("322112").state_dict()
    stream = torch.get_rng_state()
    other = make(row).state_dict()
    assert torch.get_rng_state().equal(stream)
    for name, weight in other.items():
        if name in full and "_cls." not in name and ("gaug" not in name or row[2] in "25"):
            assert weight.equal(full[name]), name


@rows
def test_prompts_learn_beside_every_option_at_a_foreign_size(row):
    mode = ("post_softmax", "pre_softmax")[sum(map(int, row)) % 2]
    encoder = PromptedViT(make(row), Prompts(1, Pool(4, 2, 2), Pool(5, 1, 3), mask_mode=mode))
    tokens = encoder(torch.randn(2, 3, 80, 112))
    assert tokens.registers.shape == (2, options_of(row)["num_registers"], 32)
    (tokens.cls.sum() + tokens.patches.square().sum()).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.requires_grad == (".prompts." in name), name
        learns = parameter.requires_grad and ".keys" not in name
        assert (parameter.grad is not None) == learns, name
        assert not learns or parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("row", ["000000", "122112", "324112"])
def test_forward_is_the_end_of_the_walk(build, images, row, same_tokens):
    vit = build(**options_of(row))
    tokens, states = vit(images), list(vit.walk(images))
    assert len(states) == len(vit.blocks) + 1
    assert (tokens.grid, tokens.map.shape) == ((5, 7), (2, 32, 5, 7))
    assert tokens.registers.shape == (2, options_of(row)["num_registers"], 32)
    same_tokens(vit.read(states[-1]), tokens)
    assert vit.route("norm", states[-1].x)[:, -35:].equal(tokens.patches)
    for block, state, following in zip(vit.blocks, states[:-1], states[1:], strict=True):
        assert block(state.x, state.grid).equal(following.x)


class Parts(torch.nn.Module):
    """An encoder that returns a tuple, as torch.export needs it."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, images):
        return tuple(parts(self.encoder(images)))


@pytest.mark.parametrize(
    ("row", "prompted"),
    [
        ("012101", True),
        *(pytest.param(row, False, marks=pytest.mark.slow) for row in ROWS),
        *(pytest.param(row, True, marks=pytest.mark.slow) for row in ROWS),
    ],
)
def test_an_encoder_is_exported_for_any_number_of_images(row, prompted):
    encoder = make(row).eval()
    if prompted:
        encoder = PromptedViT(encoder, Prompts(1, Pool(4, 2, 2), Pool(5, 1, 3))).eval()
    module, shapes = Parts(encoder), ({0: torch.export.Dim("images", min=1, max=64)},)
    exported = torch.export.export(module, (torch.randn(2, 3, 48, 48),), dynamic_shapes=shapes)
    with torch.no_grad():
        for count in (1, 3):
            images = torch.randn(count, 3, 48, 48)
            for ours, theirs in zip(module(images), exported.module()(images), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
