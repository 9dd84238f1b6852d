"""Facts 1 to 7 of section 12 of the specification of specialized layers."""

import pytest
import torch
from refusals import refused
from torch.nn import Parameter
from torch.utils.flop_counter import FlopCounterMode

from vitlab.encoders import CLSSpecialization, Locality, ViT
from vitlab.encoders.vit import SHAPES

NORM = CLSSpecialization(norm=1)
RECIPE = CLSSpecialization(norm=1, qkv=0.334)
EVERYTHING = CLSSpecialization(norm=1, qkv=1, proj=1, mlp=1, final_norm=True)


def clone(plain, split):
    """Give both copies of every split layer the weights of the plain model."""
    weights = plain.state_dict()
    split.load_state_dict(
        {name: weights[name.replace("_cls.", ".")] for name in split.state_dict()}
    )
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


def test_no_specialization_costs_an_operation():
    for specialization in (CLSSpecialization(), RECIPE, EVERYTHING):
        with torch.device("meta"):
            vit = ViT("S", layer_scale=1e-5, cls_specialization=specialization)
            images = torch.empty(1, 3, 224, 224)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            vit(images)
        flops = counter.get_flop_counts()["Global"]
        assert sum(flops.values()) == 9_196_996_608
        assert sum(n for kind, n in flops.items() if kind != torch.ops.aten.bmm) == 8_481_669_120


def test_a_third_of_twelve_blocks_is_four():
    for fraction in (1 / 3, 0.334, 0.34):
        split = [CLSSpecialization(qkv=fraction).splits(block, 12) for block in range(12)]
        assert [bool(names) for names in split] == [True] * 4 + [False] * 8


def test_what_is_no_fraction_or_less_than_a_block_is_refused():
    for fraction in (-0.1, 1.1):
        with refused("cls_specialization.mlp"):
            CLSSpecialization(mlp=fraction)
    with refused("cls_specialization.qkv"):
        CLSSpecialization(qkv=0.08).check(12)
    CLSSpecialization(qkv=0.084).check(12)
    with refused("cls_specialization.norm"):
        ViT("nano", 8, 32, cls_specialization=CLSSpecialization(norm=0.1))
    for options in ({}, {"norm": 1, "final_norm": True}):
        with refused("cls_specialization.init"):
            CLSSpecialization(init="random", **options)


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


def test_a_new_split_model_equals_the_plain_one(same_tokens):
    torch.manual_seed(0)
    plain = ViT("nano", 8, 32).double()
    torch.manual_seed(0)
    split = ViT("nano", 8, 32, cls_specialization=EVERYTHING).double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    same_tokens(split(images), plain(images), 1e-12)


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


@pytest.mark.parametrize("normalizer", ["softmax", "entmax15"])
def test_gradients_of_the_copies_add_up_to_the_plain_one(build, images, normalizer):
    options = {"layer_scale": 0.5, "normalizer": normalizer}
    plain = build(**options).double()
    split = clone(plain, build(**options, cls_specialization=EVERYTHING).double())
    for vit in (plain, split):
        tokens = vit(images.double())
        (tokens.cls.sin().sum() + tokens.patches.cos().sum()).backward()
    total: dict[str, torch.Tensor] = {}
    for name, parameter in split.named_parameters():
        shared = name.replace("_cls.", ".")
        total[shared] = total.get(shared, torch.zeros(())) + parameter.grad
    for name, parameter in plain.named_parameters():
        tolerance = 1e-10 * parameter.grad.norm().clamp_min(1e-3)
        assert (total[name] - parameter.grad).norm() <= tolerance, name


class TestRoutingInTheLastBlock:
    """Change one copy and see which tokens change; 0 must be exactly 0."""

    CLS, REST, ALL = (True, False, False), (False, True, True), (True, True, True)
    Q, K, V = slice(0, 32), slice(32, 64), slice(64, 96)

    @pytest.fixture
    def vit(self, build):
        split = CLSSpecialization(norm=1, qkv=1, proj=1, mlp=1)
        return build(layer_scale=0.5, num_registers=2, cls_specialization=split).double()

    @torch.no_grad()
    def moved(self, vit, images, name, part=slice(None)):
        """Return whether [CLS], the registers and the patches move."""

        def tokens():
            return list(vit.walk(images.double()))[-1].tokens()

        before, weight = tokens(), vit.blocks[-1].get_parameter(name)
        weight[part] += 0.1
        after = tokens()
        weight[part] -= 0.1
        parts = ("cls", "registers", "patches")
        return tuple(not getattr(before, p).equal(getattr(after, p)) for p in parts)

    def test_what_follows_attention_and_queries_stay_in_their_role(self, vit, images):
        for name in ("norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma", "attn.proj.bias"):
            layer, _, parameter = name.rpartition(".")
            assert self.moved(vit, images, f"{layer}_cls.{parameter}") == self.CLS
            assert self.moved(vit, images, name) == self.REST
        assert self.moved(vit, images, "mlp_cls.fc1.bias") == self.CLS
        assert self.moved(vit, images, "mlp.fc1.bias") == self.REST
        assert self.moved(vit, images, "attn.qkv_cls.weight", self.Q) == self.CLS
        assert self.moved(vit, images, "attn.qkv.weight", self.Q) == self.REST

    def test_keys_values_and_the_norm_before_them_reach_all(self, vit, images):
        for copy in ("", "_cls"):
            for part in (self.K, self.V):
                assert self.moved(vit, images, f"attn.qkv{copy}.weight", part) == self.ALL
            assert self.moved(vit, images, f"norm1{copy}.weight") == self.ALL

    def test_registers_may_go_with_cls(self, build, images):
        split = CLSSpecialization(norm=1, registers="cls")
        vit = build(layer_scale=0.5, num_registers=2, cls_specialization=split).double()
        assert self.moved(vit, images, "norm2_cls.weight") == (True, True, False)
        assert self.moved(vit, images, "norm2.weight") == (False, False, True)

    def test_the_gaussian_bias_sees_only_queries_of_patches(self, build, images):
        """Moving the queries of [CLS] moves no patch, although they share the predictors."""
        options = {"locality": Locality("gaussian"), "num_registers": 2}
        vit = build(cls_specialization=CLSSpecialization(qkv=1), **options).double()
        assert self.moved(vit, images, "attn.qkv_cls.weight", self.Q) == self.CLS


@pytest.mark.parametrize("registers", ["patches", "cls"])
def test_the_affine_of_a_split_norm_folds_into_a_split_projection(
    build, images, registers, same_tokens
):
    split = CLSSpecialization(norm=1, qkv=1, registers=registers)
    vit = build(cls_specialization=split, num_registers=2).double()
    before = vit(images.double())
    for block in vit.blocks:
        for role in ("", "_cls"):
            norm = block.get_submodule(f"norm1{role}")
            qkv = block.attn.get_submodule(f"qkv{role}")
            qkv.bias = Parameter(qkv.bias + qkv.weight @ norm.bias)
            qkv.weight = Parameter(qkv.weight * norm.weight)
            norm.reset_parameters()
    same_tokens(vit(images.double()), before, 1e-12)


@pytest.mark.parametrize("registers", [0, 2])
@pytest.mark.parametrize("name", ["norm1", "attn.qkv", "mlp", "ls1"])
def test_images_of_two_sizes_packed_into_one_sequence_are_routed_by_a_mask(build, name, registers):
    """As DINOv2 packs its crops: [CLS] of the second image is nowhere near the start."""
    roles = CLSSpecialization(norm=1, qkv=1, proj=1, mlp=1, registers="cls")
    vit = build(layer_scale=0.5, num_registers=registers, cls_specialization=roles).double()
    path, _, layer = f"blocks.1.{name}".rpartition(".")
    owner = vit.get_submodule(path)
    crops = [torch.randn(2, 3, 32, 32), torch.randn(3, 3, 16, 24)]
    tokens = [next(iter(vit.walk(crop.double()))).x.detach() for crop in crops]
    mask = [torch.arange(x.shape[1]).expand(x.shape[:2]) < 1 + registers for x in tokens]
    packed = torch.cat([x.flatten(0, 1) for x in tokens])[None]
    found = owner.route(layer, packed, torch.cat([m.flatten() for m in mask])[None])
    expected = torch.cat([owner.route(layer, x).flatten(0, 1) for x in tokens])[None]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    weights = list(owner.get_submodule(f"{layer}_cls").parameters())
    ours, theirs = (torch.autograd.grad(x.sin().sum(), weights) for x in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    nobody = torch.zeros(packed.shape[:2], dtype=torch.bool)
    assert build().double().route("norm", packed, nobody).equal(build().double().norm(packed))
