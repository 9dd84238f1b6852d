"""Facts 1 to 7 of section 12 of the specification of specialized layers."""

import pytest
import torch
from torch.nn import Parameter
from torch.utils.flop_counter import FlopCounterMode

from vitlab.encoders import CLSSpecialization, Locality, ViT
from vitlab.encoders.vit import SHAPES

RECIPE = CLSSpecialization(norm=1, qkv=0.334)
EVERYTHING = CLSSpecialization(norm=1, qkv=1, proj=1, mlp=1, final_norm=True)


def count(module):
    return sum(p.numel() for p in module.parameters())


def clone(plain, split):
    """Give both copies of every split layer the weights of the plain model."""
    weights = plain.state_dict()
    split.load_state_dict(
        {name: weights[name.replace("_cls.", ".")] for name in split.state_dict()}
    )
    return split


@pytest.mark.parametrize(
    ("size", "layer_scale", "cls_specialization", "increment"),
    [
        ("S", 0.0, CLSSpecialization(norm=1), 18_432),
        ("S", 0.0, RECIPE, 1_792_512),
        ("S", 1e-5, CLSSpecialization(norm=1), 27_648),
        ("S", 1e-5, RECIPE, 1_801_728),
        ("S", 1e-5, CLSSpecialization(qkv=0.334), 1_774_080),
        ("S", 0.0, CLSSpecialization(final_norm=True), 768),
        ("B", 0.0, CLSSpecialization(norm=1), 36_864),
        ("B", 0.0, RECIPE, 7_123_968),
        ("B", 1e-5, RECIPE, 7_142_400),
        ("L", 1e-5, CLSSpecialization(norm=1), 147_456),
        ("L", 1e-5, RECIPE, 25_337_856),
        ("L", 0.0, RECIPE, 329_615_336 - 304_326_632),
    ],
)
def test_parameter_counts_are_those_of_the_specification(
    size, layer_scale, cls_specialization, increment
):
    with torch.device("meta"):
        plain = ViT(size, layer_scale=layer_scale)
        split = ViT(size, layer_scale=layer_scale, cls_specialization=cls_specialization)
    assert count(split) - count(plain) == increment


@pytest.mark.parametrize(
    ("size", "plain", "norm", "recipe"),
    [
        ("S", 21_675_264, 21_702_912, 23_476_992),
        ("B", 85_817_856, 85_873_152, 92_960_256),
        ("L", 303_351_808, 303_499_264, 328_689_664),
    ],
)
def test_whole_counts_are_those_of_convention_a(size, plain, norm, recipe):
    """DINOv2's: LayerScale, no head, and a mask token that we do not have."""
    for cls_specialization, expected in (
        (CLSSpecialization(), plain),
        (CLSSpecialization(norm=1), norm),
        (RECIPE, recipe),
    ):
        with torch.device("meta"):
            vit = ViT(size, layer_scale=1e-5, cls_specialization=cls_specialization)
            registers = ViT(
                size, layer_scale=1e-5, cls_specialization=cls_specialization, num_registers=4
            )
        assert count(vit) + vit.embed_dim == expected
        assert count(registers) == count(vit) + 4 * vit.embed_dim


@pytest.mark.parametrize(
    ("size", "plain", "norm", "recipe"),
    [
        ("S", 22_050_664, 22_069_096, 23_843_176),
        ("B", 86_567_656, 86_604_520, 93_691_624),
        ("L", 304_326_632, 304_424_936, 329_615_336),
    ],
)
def test_whole_counts_are_those_of_convention_b(size, plain, norm, recipe):
    """DeiT's: no LayerScale, a classifier of 1,000 classes."""
    for cls_specialization, expected in (
        (CLSSpecialization(), plain),
        (CLSSpecialization(norm=1), norm),
        (RECIPE, recipe),
    ):
        with torch.device("meta"):
            vit = ViT(size, cls_specialization=cls_specialization)
        assert count(vit) + 1000 * (vit.embed_dim + 1) == expected


@pytest.mark.parametrize(
    ("size", "layers", "attention"),
    [
        ("S", 8_481_669_120, 9_196_996_608),
        ("B", 33_695_465_472, 35_126_120_448),
        ("L", 119_292_297_216, 123_107_377_152),
    ],
)
def test_no_specialization_costs_an_operation(size, layers, attention):
    for cls_specialization in (CLSSpecialization(), CLSSpecialization(norm=1), RECIPE, EVERYTHING):
        with torch.device("meta"):
            vit = ViT(size, layer_scale=1e-5, cls_specialization=cls_specialization)
            images = torch.empty(1, 3, 224, 224)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            vit(images)
        flops = counter.get_flop_counts()["Global"]
        assert sum(flops.values()) == attention
        assert sum(n for kind, n in flops.items() if kind != torch.ops.aten.bmm) == layers


@pytest.mark.parametrize(("size", "tensors"), [("S", 80), ("B", 80), ("L", 160)])
def test_the_recipe_adds_as_many_tensors_as_the_specification_says(size, tensors):
    with torch.device("meta"):
        split = ViT(size, layer_scale=1e-5, cls_specialization=RECIPE)
    added = [name for name in split.state_dict() if "_cls." in name]
    third = SHAPES[size].depth // 3
    assert len(added) == tensors == 6 * SHAPES[size].depth + 2 * third
    assert sum("qkv_cls.weight" in name for name in added) == third


@pytest.mark.parametrize("fraction", [1 / 3, 0.334, 0.34])
def test_a_third_of_twelve_is_four(fraction):
    split = [CLSSpecialization(qkv=fraction).splits(block, 12) for block in range(12)]
    assert [bool(names) for names in split] == [True] * 4 + [False] * 8


@pytest.mark.parametrize("fraction", [-0.1, 1.1])
def test_a_number_that_is_no_fraction_is_refused_with_a_remedy(fraction):
    with pytest.raises(ValueError, match=r"cls_specialization.mlp .* give a number from 0"):
        CLSSpecialization(mlp=fraction)


def test_a_fraction_of_less_than_a_block_is_refused_with_a_remedy():
    with pytest.raises(ValueError, match=r"qkv 0.08 of 12 blocks is less than one; .* 0.084"):
        CLSSpecialization(qkv=0.08).check(12)
    CLSSpecialization(qkv=0.084).check(12)
    with pytest.raises(ValueError, match=r"norm 0.1 of 3 blocks is less than one"):
        ViT("nano", 8, 32, cls_specialization=CLSSpecialization(norm=0.1))


@pytest.mark.parametrize("registers", ["patches", "cls"])
@pytest.mark.parametrize(
    ("cls_specialization", "single", "double"),
    [(CLSSpecialization(norm=1), 1e-6, 1e-15), (RECIPE, 1e-5, 1e-12), (EVERYTHING, 1e-5, 1e-12)],
    ids=["norm", "recipe", "everything"],
)
def test_equal_roles_change_nothing(build, images, cls_specialization, single, double, registers):
    roles = CLSSpecialization(**{**vars(cls_specialization), "registers": registers})
    plain = build(layer_scale=0.5, num_registers=2)
    split = clone(plain, build(layer_scale=0.5, num_registers=2, cls_specialization=roles))
    for dtype, tolerance in ((torch.float32, single), (torch.float64, double)):
        ours, theirs = split.to(dtype)(images.to(dtype)), plain.to(dtype)(images.to(dtype))
        for part in ("cls", "registers", "patches"):
            torch.testing.assert_close(
                getattr(ours, part), getattr(theirs, part), rtol=tolerance, atol=tolerance
            )


def test_a_new_split_model_equals_the_plain_one():
    torch.manual_seed(0)
    plain = ViT("nano", 8, 32).double()
    torch.manual_seed(0)
    split = ViT("nano", 8, 32, cls_specialization=EVERYTHING).double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(split(images).cls, plain(images).cls, rtol=0, atol=1e-12)


class TestDrawnCopies:
    DRAWN = CLSSpecialization(norm=1, qkv=0.67, proj=0.34, mlp=1, init="random")

    def make(self, **options):
        torch.manual_seed(0)
        return ViT("nano", 8, 32, layer_scale=1e-5, **options)

    def test_copies_of_linear_layers_are_drawn_by_themselves(self):
        vit = self.make(cls_specialization=self.DRAWN)
        weights = dict(vit.named_parameters())
        drawn = [name for name in weights if "_cls." in name and weights[name].ndim == 2]
        assert len(drawn) == 2 + 1 + 2 * 3
        firsts = set()
        for name in drawn:
            copied, plain = weights[name], weights[name.replace("_cls.", ".")]
            assert copied.std().item() == pytest.approx(0.02, rel=0.1)
            pair = torch.stack([copied.flatten(), plain.flatten()])
            assert pair.corrcoef()[0, 1].abs() < 0.1
            firsts.add(copied[0, 0].item())
        assert len(firsts) == len(drawn)
        for name, weight in weights.items():
            if "_cls." in name and name not in drawn:  # norms, scales and biases
                assert weight.equal(weights[name.replace("_cls.", ".")]), name

    def test_they_are_drawn_beside_the_random_stream(self):
        plain = self.make().state_dict()
        stream = torch.get_rng_state()
        drawn = self.make(cls_specialization=self.DRAWN).state_dict()
        assert torch.get_rng_state().equal(stream)
        for name, weight in plain.items():
            assert weight.equal(drawn[name]), name

    def test_what_else_is_split_does_not_matter_to_a_copy(self):
        all_of_them = self.make(cls_specialization=self.DRAWN).state_dict()
        one = self.make(
            cls_specialization=CLSSpecialization(qkv=0.34, init="random"), num_registers=2
        ).state_dict()
        name = "blocks.0.attn.qkv_cls.weight"
        assert one[name].equal(all_of_them[name])

    def test_another_seed_gives_other_copies(self):
        first = self.make(cls_specialization=self.DRAWN)
        torch.manual_seed(1)
        second = ViT("nano", 8, 32, layer_scale=1e-5, cls_specialization=self.DRAWN)
        name = "blocks.0.attn.qkv_cls.weight"
        assert not first.get_parameter(name).equal(second.get_parameter(name))

    @pytest.mark.parametrize("options", [{}, {"norm": 1, "final_norm": True}])
    def test_a_start_that_nothing_has_is_refused_with_a_remedy(self, options):
        with pytest.raises(ValueError, match="nothing with weights to draw is split; leave it out"):
            CLSSpecialization(init="random", **options)


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
    """Perturb one copy and see who moves; 0 must be exactly 0."""

    @pytest.fixture
    def vit(self, build):
        cls_specialization = CLSSpecialization(norm=1, qkv=1, proj=1, mlp=1)
        return build(
            layer_scale=0.5, num_registers=2, cls_specialization=cls_specialization
        ).double()

    def moved(self, vit, images, name, part=slice(None)):
        """Return whether [CLS], the registers and the patches move."""

        def tokens():
            with torch.no_grad():
                *_, last = vit.walk(images.double())
            return last.tokens()

        before = tokens()
        with torch.no_grad():
            vit.blocks[-1].get_parameter(name)[part] += 0.1
        after = tokens()
        parts = ("cls", "registers", "patches")
        return tuple(not getattr(before, p).equal(getattr(after, p)) for p in parts)

    LAYERS = (
        "norm2.weight",
        "norm2.bias",
        "ls1.gamma",
        "ls2.gamma",
        "attn.proj.bias",
        "mlp.fc1.bias",
    )
    Q, K, V = slice(0, 32), slice(32, 64), slice(64, 96)

    @pytest.mark.parametrize("name", LAYERS)
    def test_what_follows_attention_stays_in_its_role(self, vit, images, name):
        layer, _, parameter = name.rpartition(".")
        head, *tail = layer.rsplit(".fc1", 1)
        copy = f"{head}_cls{'.fc1' if tail else ''}.{parameter}"
        assert self.moved(vit, images, copy) == (True, False, False)
        assert self.moved(vit, images, name) == (False, True, True)

    def test_queries_stay_in_their_role(self, vit, images):
        assert self.moved(vit, images, "attn.qkv_cls.weight", self.Q) == (True, False, False)
        assert self.moved(vit, images, "attn.qkv.weight", self.Q) == (False, True, True)

    @pytest.mark.parametrize("part", [K, V])
    @pytest.mark.parametrize("name", ["attn.qkv_cls.weight", "attn.qkv.weight"])
    def test_keys_and_values_reach_everyone(self, vit, images, name, part):
        assert self.moved(vit, images, name, part) == (True, True, True)

    @pytest.mark.parametrize("name", ["norm1_cls.weight", "norm1.weight"])
    def test_the_norm_before_attention_reaches_everyone(self, vit, images, name):
        assert self.moved(vit, images, name) == (True, True, True)

    def test_registers_may_go_with_cls(self, build, images):
        cls_specialization = CLSSpecialization(norm=1, registers="cls")
        vit = build(
            layer_scale=0.5, num_registers=2, cls_specialization=cls_specialization
        ).double()
        assert self.moved(vit, images, "norm2_cls.weight") == (True, True, False)
        assert self.moved(vit, images, "norm2.weight") == (False, False, True)

    @pytest.mark.parametrize("part", ["cls", "patches"])
    def test_a_loss_on_one_role_teaches_the_other_only_through_attention(self, vit, images, part):
        *_, last = vit.walk(images.double())
        getattr(last.tokens(), part).sin().sum().backward()
        block = vit.blocks[-1]
        copies = {"patches": ("norm2_cls", "ls1_cls", "ls2_cls"), "cls": ("norm2", "ls1", "ls2")}
        for name in copies[part]:
            for parameter in block.get_submodule(name).parameters():
                assert (parameter.grad == 0).all(), name
        other = block.get_submodule("norm1_cls" if part == "patches" else "norm1")
        assert other.weight.grad.abs().max() > 0


def test_only_a_difference_of_key_biases_matters(build, images):
    vit = build(cls_specialization=CLSSpecialization(norm=1, qkv=1)).double()
    images = images.double()
    attention = vit.blocks[0].attn
    before = vit(images)
    offset = torch.randn(32, dtype=torch.float64)
    with torch.no_grad():
        attention.qkv_cls.bias[32:64] += offset
    assert (vit(images).cls - before.cls).abs().max() > 1e-3
    with torch.no_grad():
        attention.qkv.bias[32:64] += offset
    torch.testing.assert_close(vit(images).cls, before.cls, rtol=0, atol=1e-12)
    torch.testing.assert_close(vit(images).patches, before.patches, rtol=0, atol=1e-12)


@pytest.mark.parametrize("registers", ["patches", "cls"])
def test_the_affine_of_a_split_norm_folds_into_a_split_projection(build, images, registers):
    cls_specialization = CLSSpecialization(norm=1, qkv=1, registers=registers)
    vit = build(cls_specialization=cls_specialization, num_registers=2).double()
    before = vit(images.double())
    for block in vit.blocks:
        for role in ("", "_cls"):
            norm = block.get_submodule(f"norm1{role}")
            qkv = block.attn.get_submodule(f"qkv{role}")
            qkv.bias = Parameter(qkv.bias + qkv.weight @ norm.bias)
            qkv.weight = Parameter(qkv.weight * norm.weight)
            norm.weight, norm.bias = (
                Parameter(torch.ones_like(norm.weight)),
                Parameter(torch.zeros_like(norm.bias)),
            )
    after = vit(images.double())
    torch.testing.assert_close(after.cls, before.cls, rtol=0, atol=1e-12)
    torch.testing.assert_close(after.patches, before.patches, rtol=0, atol=1e-12)


def test_a_split_norm_before_a_shared_projection_is_a_split_projection(build, images):
    """Fact 7: the one for [CLS] is the shared one, its columns rescaled."""
    norms = build(cls_specialization=CLSSpecialization(norm=1)).double()
    both = build(cls_specialization=CLSSpecialization(norm=1, qkv=1)).double()
    for theirs, ours in zip(norms.blocks, both.blocks, strict=True):
        ours.load_state_dict(theirs.state_dict(), strict=False)
        shared, ratio = theirs.attn.qkv, theirs.norm1_cls.weight / theirs.norm1.weight
        shift = theirs.norm1_cls.bias - ratio * theirs.norm1.bias
        with torch.no_grad():
            ours.attn.qkv_cls.weight.copy_(shared.weight * ratio)
            ours.attn.qkv_cls.bias.copy_(shared.bias + shared.weight @ shift)
            ours.norm1_cls.load_state_dict(theirs.norm1.state_dict())
    rest = {k: v for k, v in norms.state_dict().items() if not k.startswith("blocks.")}
    both.load_state_dict(rest, strict=False)
    found, expected = both(images.double()), norms(images.double())
    torch.testing.assert_close(found.cls, expected.cls, rtol=0, atol=1e-11)
    torch.testing.assert_close(found.patches, expected.patches, rtol=0, atol=1e-11)


@pytest.mark.parametrize("registers", [0, 2])
@pytest.mark.parametrize("name", ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp", "ls1", "ls2"])
def test_images_of_two_sizes_packed_into_one_sequence_are_routed_by_a_mask(build, name, registers):
    """As DINOv2 packs its crops: [CLS] of the second image is nowhere near the start."""
    roles = CLSSpecialization(norm=1, qkv=1, proj=1, mlp=1, registers="cls")
    vit = build(layer_scale=0.5, num_registers=registers, cls_specialization=roles).double()
    path, _, layer = f"blocks.1.{name}".rpartition(".")
    owner = vit.get_submodule(path)
    crops = [torch.randn(2, 3, 32, 32), torch.randn(3, 3, 16, 24)]
    states = [next(iter(vit.walk(crop.double()))) for crop in crops]
    apart = [owner.route(layer, state.x.detach()) for state in states]
    mask = [
        torch.arange(x.shape[1]).expand(x.shape[:2]) < 1 + registers
        for x in (state.x for state in states)
    ]
    packed = torch.cat([state.x.flatten(0, 1) for state in states])[None].detach()
    found = owner.route(layer, packed, torch.cat([m.flatten() for m in mask])[None])
    expected = torch.cat([x.flatten(0, 1) for x in apart])[None]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    found.sin().sum().backward()
    ours = [p.grad.clone() for p in owner.get_submodule(f"{layer}_cls").parameters()]
    owner.zero_grad()
    expected.sin().sum().backward()
    theirs = [p.grad for p in owner.get_submodule(f"{layer}_cls").parameters()]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_a_shared_layer_needs_no_mask(build):
    vit, x = build(), torch.randn(1, 9, 32)
    roles = torch.zeros(1, 9, dtype=torch.bool)
    assert vit.route("norm", x, roles).equal(vit.norm(x))


def test_the_gaussian_bias_sees_only_queries_of_patches(build, images):
    """Moving the queries of [CLS] moves no patch, although they share the predictors."""
    vit = build(
        cls_specialization=CLSSpecialization(qkv=1), locality=Locality("gaussian"), num_registers=2
    ).double()
    routing = TestRoutingInTheLastBlock()
    part = routing.Q
    assert routing.moved(vit, images, "attn.qkv_cls.weight", part) == (True, False, False)
