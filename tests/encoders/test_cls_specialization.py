"""Facts 1 to 7 of section 12 of the specification of specialized layers."""

import pytest
import torch
from refusals import refused

from vitlab.encoders import CLSSpecialization, Locality, ViT
from vitlab.encoders.vit import SHAPES

NORM = CLSSpecialization(norm=1)
RECIPE = CLSSpecialization(norm=1, qkv=0.334)
EVERYTHING = CLSSpecialization(norm=1, qkv=1, proj=1, mlp=1, final_norm=True)


def clone(plain, split):
    """Give both copies of every split layer the weights of the plain model."""
    weights = plain.state_dict()
    names = split.state_dict()
    split.load_state_dict({name: weights[name.replace("_cls.", ".")] for name in names})
    return split


@pytest.mark.parametrize(
    ("size", "layer_scale", "plain", "norm", "recipe"),
    [
        # DINOv2's convention: LayerScale, no head, a mask token that we do not have
        ("S", 1e-5, 21_675_264, 21_702_912, 23_476_992),
        ("L", 1e-5, 303_351_808, 303_499_264, 328_689_664),
        # DeiT's: no LayerScale, a classifier of 1,000 classes
        ("B", 0.0, 86_567_656, 86_604_520, 93_691_624),
    ],
)
def test_parameter_counts_are_those_of_the_specification(size, layer_scale, plain, norm, recipe):
    d = SHAPES[size].embed_dim
    more = d if layer_scale else 1000 * (d + 1)
    for options, expected in (
        ({}, plain),
        ({"cls_specialization": NORM}, norm),
        ({"cls_specialization": RECIPE}, recipe),
        ({"cls_specialization": RECIPE, "num_registers": 4}, recipe + 4 * d),
        ({"cls_specialization": CLSSpecialization(final_norm=True)}, plain + 2 * d),
    ):
        with torch.device("meta"):
            vit = ViT(size, layer_scale=layer_scale, **options)
        assert sum(p.numel() for p in vit.parameters()) + more == expected


def test_what_is_no_fraction_or_less_than_a_block_is_refused():
    for fraction in (-0.1, 1.1):
        with refused("cls_specialization.mlp"):
            CLSSpecialization(mlp=fraction)
    with refused("cls_specialization.qkv"):
        CLSSpecialization(qkv=0.04).check(12)
    CLSSpecialization(qkv=0.042).check(12)
    with refused("cls_specialization.norm"):
        ViT("nano", 8, 32, cls_specialization=CLSSpecialization(norm=0.1))  # of 3 blocks
    for options in ({}, {"norm": 1, "final_norm": True}):
        with refused("cls_specialization.init"):
            CLSSpecialization(init="random", **options)


@pytest.mark.parametrize(
    ("fraction", "blocks"),
    [
        (0.333, {12: 4, 24: 8, 32: 11, 40: 13}),
        (0.334, {12: 4, 24: 8, 32: 11, 40: 13}),
        (1 / 3, {12: 4, 24: 8}),
        (0.666, {12: 8, 24: 16, 40: 27}),
        (0.25, {12: 3, 24: 6, 40: 10, 2: 1}),
        (0.5, {12: 6, 24: 12, 40: 20, 3: 2}),
        (1, {12: 12, 40: 40}),
    ],
)
def test_a_fraction_is_rounded_to_the_nearest_block(fraction, blocks):
    options = CLSSpecialization(qkv=fraction)
    for depth, count in blocks.items():
        split = [bool(options.splits(block, depth)) for block in range(depth)]
        assert split == [True] * count + [False] * (depth - count), depth


@pytest.mark.parametrize("registers", ["patches", "cls"])
@pytest.mark.parametrize("specialization", [NORM, RECIPE, EVERYTHING])
def test_equal_roles_change_nothing(build, images, specialization, registers, same_tokens):
    roles = CLSSpecialization(**{**vars(specialization), "registers": registers})
    plain = build(layer_scale=0.5, num_registers=2)
    split = clone(plain, build(layer_scale=0.5, num_registers=2, cls_specialization=roles))
    exact = specialization == NORM
    tolerances = {torch.float32: 1e-6 if exact else 1e-5, torch.float64: 1e-15 if exact else 1e-12}
    for dtype, tolerance in tolerances.items():
        ours, theirs = split.to(dtype)(images.to(dtype)), plain.to(dtype)(images.to(dtype))
        same_tokens(ours, theirs, tolerance, tolerance)


def test_random_copies_are_drawn_apart_from_the_stream_and_from_each_other():
    random = CLSSpecialization(norm=1, qkv=0.67, proj=0.34, mlp=1, init="random")

    def make(seed=0, **options):
        torch.manual_seed(seed)
        return ViT("nano", 8, 32, layer_scale=1e-5, **options).state_dict()

    plain, stream = make(), torch.get_rng_state()
    weights = make(cls_specialization=random)
    assert torch.get_rng_state().equal(stream)
    assert all(weight.equal(weights[name]) for name, weight in plain.items())
    drawn = [name for name in weights if "_cls." in name and weights[name].ndim == 2]
    assert len(drawn) == 2 + 1 + 2 * 3
    assert len({weights[name][0, 0].item() for name in drawn}) == len(drawn)
    for name, copied in weights.items():
        shared = weights[name.replace("_cls.", ".")]
        if name in drawn:
            assert copied.std().item() == pytest.approx(0.02, rel=0.1)
            pair = torch.stack([copied.flatten(), shared.flatten()])
            assert pair.corrcoef()[0, 1].abs() < 0.1
        else:  # norms, scales and biases
            assert copied.equal(shared), name
    qkv = "blocks.0.attn.qkv_cls.weight"
    alone = make(cls_specialization=CLSSpecialization(qkv=0.34, init="random"), num_registers=2)
    assert alone[qkv].equal(weights[qkv])  # whatever else is split
    assert not make(1, cls_specialization=random)[qkv].equal(weights[qkv])


CLS, REST, ALL = (True, False, False), (False, True, True), (True, True, True)
Q, K, V = slice(0, 32), slice(32, 64), slice(64, 96)
WHOLE = slice(None)
# of the last block: change one weight, and see whether [CLS], registers and patches move
MOVES = [
    *((f"{layer}_cls.{name}", WHOLE, CLS) for layer, name in (("norm2", "bias"), ("ls1", "gamma"))),
    *((f"{layer}.{name}", WHOLE, REST) for layer, name in (("norm2", "weight"), ("ls2", "gamma"))),
    *(("attn.proj_cls.bias", WHOLE, CLS), ("attn.proj.bias", WHOLE, REST)),
    *(("mlp_cls.fc1.bias", WHOLE, CLS), ("mlp.fc1.bias", WHOLE, REST)),
    *(("attn.qkv_cls.weight", Q, CLS), ("attn.qkv.weight", Q, REST)),
    # keys, values and the norm before them reach all
    *((f"attn.qkv{copy}.weight", part, ALL) for copy in ("", "_cls") for part in (K, V)),
    *(("norm1.weight", WHOLE, ALL), ("norm1_cls.weight", WHOLE, ALL)),
]


@torch.no_grad()
def test_each_copy_moves_the_tokens_of_its_role_and_exactly_no_other(build, images):
    def moved(vit, name, part=WHOLE):
        def tokens():
            return list(vit.walk(images.double()))[-1].tokens()

        before, weight = tokens(), vit.blocks[-1].get_parameter(name)
        weight[part] += 0.1
        after = tokens()
        weight[part] -= 0.1
        parts = ("cls", "registers", "patches")
        return tuple(not getattr(before, p).equal(getattr(after, p)) for p in parts)

    options = {"layer_scale": 0.5, "num_registers": 2}
    every = CLSSpecialization(norm=1, qkv=1, proj=1, mlp=1)
    vit = build(cls_specialization=every, **options).double()
    for name, part, expected in MOVES:
        assert moved(vit, name, part) == expected, name
    split = CLSSpecialization(norm=1, registers="cls")
    vit = build(cls_specialization=split, **options).double()
    assert moved(vit, "norm2_cls.weight") == (True, True, False)
    assert moved(vit, "norm2.weight") == (False, False, True)
    # the Gaussian bias sees only queries of patches, although [CLS] shares the predictors
    split = CLSSpecialization(qkv=1)
    vit = build(cls_specialization=split, locality=Locality("gaussian"), **options).double()
    assert moved(vit, "attn.qkv_cls.weight", Q) == CLS
