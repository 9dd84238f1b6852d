"""Prompts beside the sequence: facts of TCPA (arXiv:2505.02406), numbered."""

import copy
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from vitlab.encoders import (
    CLSSpecialization,
    Locality,
    Normalizer,
    Pixels,
    Pool,
    PromptedViT,
    Prompts,
    ViT,
    record,
)
from vitlab.encoders.prompts import DeepPrompts, PromptKV

GRID = (2, 3)
N = 7  # [CLS] and six patches
TCPA = Prompts(cls=Pool(4, 2, top_k=2), patches=Pool(5, 1, top_k=3), dropout=0)
R_TCPA = Prompts(cls=Pool(4, 2), patches=Pool(5), dropout=0)
VPT = Prompts(shared=5, dropout=0)
MODES = ("post_softmax", "pre_softmax")
modes = pytest.mark.parametrize("mode", MODES)
methods = pytest.mark.parametrize("prompts", [VPT, R_TCPA, TCPA], ids=["VPT", "R", "T"])


def with_mode(prompts: Prompts, mode: str) -> Prompts:
    return Prompts(**{**vars(prompts), "mask_mode": mode})


@pytest.fixture
def prompted(build):
    """Return a function that makes a tiny ViT with prompts, in evaluation mode, fp64."""

    def make(prompts: Prompts = TCPA, **options) -> PromptedViT:
        return PromptedViT(build(**options).double(), prompts).double().eval()

    return make


@pytest.fixture
def images(images):
    return images.double()


def tokens_of(x):
    return torch.cat([x.cls[:, None], x.registers, x.patches], dim=1)


def some(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def released(block, x, grid):
    """Section 1.3 step by step: all tokens in one sequence, mask after softmax, prompts dropped."""
    memory = block.prompts
    b, n, d = x.shape
    extra = memory(x, grid)
    m = extra.tokens.shape[1]
    y = block.norm1(torch.cat([x[:, :1], extra.tokens.expand(b, -1, -1), x[:, 1:]], dim=1))
    heads = block.attn.num_heads
    q, k, v = block.attn.qkv(y).view(b, m + n, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
    a = (q @ k.mT / (d // heads) ** 0.5).softmax(-1)
    a = torch.cat([a[:, :, :1], a[:, :, 1 + m :]], dim=2)  # queries of prompts are discarded
    mask = torch.ones(b, 1, n, m + n, dtype=a.dtype)
    if extra.visible is not None:
        mask[:, 0, :, 1 : 1 + m] = extra.visible.to(a.dtype)
    o = block.attn.proj((a * mask @ v).transpose(1, 2).flatten(2))
    x = x + o
    return x + block.mlp(block.norm2(x))


@methods
def test_a_block_is_the_released_one_computed_step_by_step(prompted, prompts):
    block = prompted(prompts).blocks[1]
    x = some(2, N, 32)
    torch.testing.assert_close(block(x, GRID), released(block, x, GRID), rtol=0, atol=1e-12)


def inserted(encoder: PromptedViT, images):
    """VPT-Deep as published: prompts are tokens of the sequence, replaced in every layer."""
    vit = encoder.backbone
    state = vit.embed(images)
    x = state.x
    for block in vit.blocks:
        shared = block.prompts.shared
        plain = copy.deepcopy(block)
        plain.prompts = None
        more = shared.expand(len(x), -1, -1)
        whole = plain(torch.cat([x[:, :1], more, x[:, 1:]], dim=1), state.grid)
        x = torch.cat([whole[:, :1], whole[:, 1 + len(shared) :]], dim=1)
    return vit.norm(x)


def test_vpt_deep_is_the_inserted_form(prompted, images):
    """Queries and MLP of prompts are irrelevant: what they become is thrown away."""
    encoder = prompted(Prompts(shared=6, dropout=0))
    found = tokens_of(encoder(images))
    torch.testing.assert_close(found, inserted(encoder, images), rtol=0, atol=1e-7)


@pytest.mark.parametrize("prompts", [Prompts(), Prompts(dropout=0.5)])
def test_sizes_of_0_are_the_plain_encoder_to_the_bit(build, images, prompts):
    """Fact 5."""
    plain = build().double()
    encoder = PromptedViT(build().double(), prompts)
    assert [name for name, p in encoder.named_parameters() if p.requires_grad] == []
    for mode in (encoder.train(), encoder.eval()):
        assert tokens_of(mode(images)).equal(tokens_of(plain(images)))


def test_fact_1_the_mask_has_k_times_l_ones_in_the_own_pool_and_none_in_the_other(prompted):
    memory = prompted().blocks[0].prompts
    visible = memory(some(2, N, 32), GRID).visible
    assert visible.shape == (2, N, 4 * 2 + 5 * 1)
    cls, patches = visible[:, 0], visible[:, 1:]
    assert (cls[:, :8].sum(-1) == 2 * 2).all()
    assert not cls[:, 8:].any()
    assert (patches[..., 8:].sum(-1) == 3).all()
    assert not patches[..., :8].any()
    # a chosen entry opens all of its prompts
    assert cls[:, 0:8:2].equal(cls[:, 1:8:2])


@methods
def test_fact_1_the_sequence_never_grows(prompted, images, prompts):
    encoder = prompted(prompts)
    assert {state.x.shape for state in encoder.walk(images)} == {(2, 36, 32)}
    tokens = encoder(images)
    assert (tokens.grid, tokens.cls.shape, tokens.patches.shape) == ((5, 7), (2, 32), (2, 35, 32))


def trained(module):
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        (Prompts(cls=Pool(18, top_k=10), patches=Pool(18, top_k=10)), 663_552),
        (Prompts(cls=Pool(16, top_k=10), patches=Pool(16, top_k=10)), 589_824),
        (Prompts(cls=Pool(18), patches=Pool(18)), 331_776),  # no keys where none are used
        (Prompts(shared=10, dropout=0), 92_160),
        (Prompts(shared=36, dropout=0), 331_776),
        (Prompts(shared=50, dropout=0), 460_800),
        (Prompts(shared=100, dropout=0), 921_600),
    ],
    ids=["TCPA", "Dogs", "R-TCPA", "VPT-10", "VPT-36", "VPT-50", "VPT-100"],
)
def test_fact_2_parameters_are_those_of_the_specification(prompts, expected):
    with torch.device("meta"):
        encoder = PromptedViT(ViT("B"), prompts)
    assert trained(encoder) == expected
    assert sum(p.numel() for p in encoder.parameters()) - expected == 85_798_656


def test_values_start_as_the_papers_do():
    encoder = PromptedViT(ViT("Ti"), Prompts(8, Pool(18, 1, 10), Pool(18, 1, 10)))
    block_prompts = encoder.block_prompts
    bound = (6 / (3 * 16 * 16 + 192)) ** 0.5
    for name, limit in [
        ("cls.keys", 1),
        ("cls.prompts", 1),
        ("patches.keys", 1),
        ("shared", bound),
    ]:
        values = torch.cat([memory.get_parameter(name).flatten() for memory in block_prompts])
        assert values.abs().max().item() == pytest.approx(limit, rel=0.01)
        assert values.std().item() == pytest.approx(limit / 3**0.5, rel=0.02)
    assert not block_prompts[0].cls.keys.equal(block_prompts[1].cls.keys)
    assert DeepPrompts(Prompts(1, dropout=0), 768, 16).shared.abs().max() <= 0.0625


def test_arms_share_the_random_stream_and_each_others_prompts():
    def made(prompts):
        torch.manual_seed(0)
        encoder = PromptedViT(ViT("nano", 8, 32), prompts)
        return encoder.state_dict(), torch.get_rng_state()

    (some, stream), (none, other) = made(TCPA), made(Prompts())
    assert stream.equal(other)
    assert none["fingerprint"].equal(some["fingerprint"])


def attend(attention, q, k, v, extra):
    return attention.interact(q, k, v, extra.bias(None, q), extra.gate(q.shape[2]))


@pytest.fixture
def toy(prompted):
    """Queries, keys and values of attention with a mask of TCPA: 8 + 5 prompts, then 7 tokens."""
    block = prompted().blocks[0]
    q, k, v = some(3, 2, 2, N + 13, 16)
    visible = block.prompts(some(2, N, 32), GRID).visible
    return block.attn, q[:, :, :N], k, v, visible, torch.zeros(2, 13, 32, dtype=torch.float64)


def test_fact_3_after_softmax_values_of_image_prompts_do_not_reach_cls_but_keys_do(toy):
    attention, q, k, v, visible, tokens = toy
    extra = PromptKV(tokens, visible, post=True)
    before = attend(attention, q, k, v, extra)
    moved = v.clone()
    moved[:, :, 8:13] += 1
    assert attend(attention, q, k, moved, extra)[:, :, 0].equal(before[:, :, 0])
    assert not attend(attention, q, k, moved, extra)[:, :, 1:].equal(before[:, :, 1:])
    keys = k.clone()
    keys[:, :, 8:13] += 1
    change = (attend(attention, q, keys, v, extra) - before)[:, :, 0].abs().max()
    assert change > 1e-3


@pytest.mark.parametrize("columns", ["cls", "patches"])
def test_fact_3_before_softmax_roles_see_nothing_of_each_others_prompts(toy, columns):
    attention, q, k, v, visible, tokens = toy
    extra = PromptKV(tokens, visible, post=False)
    before = attend(attention, q, k, v, extra)
    moved = (slice(0, 8), slice(1, N)) if columns == "cls" else (slice(8, 13), slice(0, 1))
    k, v = k.clone(), v.clone()
    k[:, :, moved[0]] += 5
    v[:, :, moved[0]] -= 5
    after = attend(attention, q, k, v, extra)
    assert after[:, :, moved[1]].equal(before[:, :, moved[1]])
    assert not after.equal(before)


def test_fact_4_after_softmax_is_the_kept_mass_times_before_softmax(toy):
    attention, q, k, v, visible, tokens = toy
    after, before = (
        attend(attention, q, k, v, PromptKV(tokens, visible, post=post)) for post in (True, False)
    )
    weights = (q @ k.mT / 4).softmax(-1)
    kept = weights * F.pad(visible, (0, N), value=1)[:, None]
    rho = kept.sum(-1, keepdim=True)
    assert (rho > 0).all()
    assert (rho <= 1).all()
    torch.testing.assert_close(after, rho * before, rtol=0, atol=1e-14)
    torch.testing.assert_close(kept / rho @ v, before, rtol=0, atol=1e-6)


def test_fact_4_recorded_weights_are_those_that_are_kept(prompted, images):
    sums = {}
    for mode in MODES:
        encoder = prompted(with_mode(TCPA, mode))
        with record(encoder, "attn.weights") as weights:
            encoder(images)
        sums[mode] = weights[0].sum(-1)
        assert weights[0].shape == (2, 2, 36, 13 + 36)  # prompts come first
    assert ((sums["post_softmax"] > 0) & (sums["post_softmax"] < 1)).all()
    torch.testing.assert_close(sums["pre_softmax"], torch.ones_like(sums["pre_softmax"]))


@modes
def test_fact_5_choosing_all_entries_is_the_role_level(prompted, images, mode):
    every = Prompts(cls=Pool(4, 2, top_k=4), patches=Pool(5, 1, top_k=5), dropout=0, mask_mode=mode)
    token, role = prompted(every), prompted(with_mode(R_TCPA, mode))
    names = role.state_dict().keys()
    role.load_state_dict({k: v for k, v in token.state_dict().items() if k in names})
    assert tokens_of(token(images)).equal(tokens_of(role(images)))


@modes
def test_fact_6_a_prompt_that_nobody_reads_is_moved_only_through_the_denominator(prompted, mode):
    block = prompted(with_mode(TCPA, mode)).blocks[0]
    x = some(1, 2, 32)  # one patch: two entries of its pool stay unread
    visible = block.prompts(x, (1, 1)).visible
    block(x, (1, 1)).square().sum().backward()
    unread = ~visible[0, 1, 8:]
    assert unread.sum() == 2
    gradient = block.prompts.patches.prompts.grad[:, 0]
    assert gradient[unread].any().item() == (mode == "post_softmax")
    assert gradient[~unread].any(dim=1).all()


def test_fact_6_the_value_of_an_unread_prompt_has_no_gradient(toy):
    attention, q, k, v, visible, tokens = toy
    k, v = k.requires_grad_(), v.requires_grad_()
    visible = visible.clone()
    visible[:, :, 9] = False
    attend(attention, q, k, v, PromptKV(tokens, visible, post=True)).square().sum().backward()
    assert not v.grad[:, :, 9].any()
    assert k.grad[:, :, 9].any()


def mismatch(encoder, images):
    with record(encoder, "prompts.mismatch") as found:
        encoder(images)
    return sum(found)


def test_fact_8_the_matching_loss_ignores_lengths_and_is_0_for_keys_along_the_query(prompted):
    memory = prompted(Prompts(cls=Pool(3, top_k=1), patches=Pool(3, top_k=2))).blocks[0].prompts
    x = some(1, 2, 32)

    def loss(x):
        with record(
            torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([memory])}), "mismatch"
        ) as m:
            memory(x, (1, 1))
        return m[0].item()

    before = loss(x)
    assert 0 < before < 4
    assert loss(x * 7) == pytest.approx(before, abs=1e-12)
    with torch.no_grad():
        memory.cls.keys.mul_(3)
        assert loss(x) == pytest.approx(before, abs=1e-12)
        memory.cls.keys[1] = 2 * x[0, 0]
        memory.patches.keys[0] = 0.1 * x[0, 1]
        memory.patches.keys[2] = 5 * x[0, 1]
        assert loss(x) == pytest.approx(0, abs=1e-12)
        memory.cls.keys.copy_(-x[0, :1].expand(3, -1))
        memory.patches.keys.copy_(-x[0, 1:].expand(3, -1))
        assert loss(x) == pytest.approx(4, abs=1e-12)  # so 4 L at most


@pytest.mark.parametrize(("drawing", "expected"), [(True, 24.0), (False, 23.4)])
def test_fact_8_at_the_start_the_loss_is_near_24(drawing, expected):
    """Twelve blocks of width 768 and isotropic queries; weighted by 0.01, 0.240 and 0.234."""
    memory = DeepPrompts(Prompts(0, Pool(18, 1, 10), Pool(18, 1, 10)), 768, 16)
    memory.cls.drawing = memory.patches.drawing = drawing
    holder = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([memory])})
    with record(holder, "mismatch") as found, torch.no_grad():
        for _ in range(12):
            torch.nn.init.uniform_(memory.cls.keys, -1, 1)
            torch.nn.init.uniform_(memory.patches.keys, -1, 1)
            memory(torch.randn(64, 197, 768), (14, 14))
    assert sum(found).item() == pytest.approx(expected, abs=0.06)


def test_fact_9_drawn_entries_are_distinct_and_evaluation_takes_the_nearest(prompted, images):
    encoder = prompted().train()
    encoder.draw(True)
    with record(encoder, "prompts.patches.chosen") as chosen:
        encoder(images)
        encoder(images)
    assert all(len(set(row)) == 3 for row in chosen[0].flatten(0, 1).tolist())
    assert not chosen[0].equal(chosen[3])
    assert set(chosen[0].unique().tolist()) == set(range(5))
    encoder.eval()
    first = encoder(images)
    assert tokens_of(first).equal(tokens_of(encoder(images)))
    encoder.draw(False)
    assert tokens_of(first).equal(tokens_of(encoder.train()(images)))


def test_fact_10_the_order_of_a_pool_does_not_matter(prompted, images):
    encoder = prompted()
    before = tokens_of(encoder(images))
    with torch.no_grad():
        for memory in encoder.block_prompts:
            for entries, order in ((memory.cls, [2, 0, 3, 1]), (memory.patches, [4, 2, 0, 1, 3])):
                entries.prompts.copy_(entries.prompts[order])
                entries.keys.copy_(entries.keys[order])
    torch.testing.assert_close(tokens_of(encoder(images)), before, rtol=0, atol=1e-12)


def test_among_equally_near_entries_the_lower_index_is_read(prompted):
    memory = prompted().blocks[0].prompts
    similarity = torch.tensor([0.5, 1, 0.5, 1, 0.5], dtype=torch.float64).expand(2, 6, 5)
    assert memory.patches.choose(similarity).unique(dim=1).flatten(1).tolist() == [[1, 3, 0]] * 2


def test_dropout_is_each_images_own_and_off_in_evaluation(prompted):
    memory = prompted(Prompts(cls=Pool(4), patches=Pool(5), dropout=0.5)).blocks[0].prompts
    x = some(2, N, 32)
    assert len(memory(x, GRID).tokens) == 1
    dropped = memory.train()(x, GRID).tokens
    assert len(dropped) == 2
    assert not dropped[0].equal(dropped[1])
    assert ((dropped == 0) | (dropped == 2 * memory.eval()(x, GRID).tokens)).all()


def test_detached_queries_leave_earlier_prompts_out_of_the_matching_loss(prompted, images):
    def gradient(detach):
        encoder = prompted(Prompts(**{**vars(TCPA), "detach_query": detach}))
        mismatch(encoder, images).backward()
        first, last = encoder.block_prompts[0], encoder.block_prompts[-1]
        assert last.cls.keys.grad.any()
        return first.patches.prompts.grad

    assert gradient(detach=False).any()
    assert gradient(detach=True) is None


def test_fourier_prompts_are_two_transforms_of_all_prompts_together(prompted):
    memory = prompted(Prompts(**{**vars(TCPA), "fourier": True})).blocks[0].prompts
    whole = torch.cat([memory.cls.prompts.flatten(0, 1), memory.patches.prompts.flatten(0, 1)])
    expected = torch.fft.fft(torch.fft.fft(whole, dim=-1), dim=-2).real
    torch.testing.assert_close(memory(some(1, N, 32), GRID).tokens[0], expected)


@pytest.mark.parametrize("registers", ["none", "cls", "patches"])
def test_registers_read_the_pool_they_are_assigned_to(prompted, registers):
    encoder = prompted(
        Prompts(1, Pool(4), Pool(5), registers=registers, dropout=0), num_registers=2
    )
    visible = encoder.blocks[0].prompts(some(2, N + 2, 32), GRID).visible[0]
    own = {"none": [], "cls": range(1, 5), "patches": range(5, 10)}[registers]
    for row in (1, 2):
        assert visible[row].nonzero()[:, 0].tolist() == [0, *own]
    assert visible[0].nonzero()[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert visible[3].nonzero()[:, 0].tolist() == [0, 5, 6, 7, 8, 9]


OPTIONS = {
    "normalizer": ["softmax", "entmax15", Normalizer(1.25, sharpness=2, blocks=(0, 2))],
    "cls_specialization": [
        CLSSpecialization(),
        CLSSpecialization(norm=1, qkv=0.334, registers="cls"),
    ],
    "locality": [Locality(), Locality("gaussian", refine=True)],
    "num_registers": [0, 2],
    "layer_scale": [0.0, 0.1],
}
COMBINATIONS = [dict(zip(OPTIONS, values, strict=True)) for values in product(*OPTIONS.values())]


@pytest.mark.parametrize("options", COMBINATIONS, ids=str)
@modes
def test_every_option_learns_prompts_at_a_foreign_size(build, options, mode):
    prompts = Prompts(1, Pool(4, 2, 2), Pool(5, 1, 3), mask_mode=mode)
    encoder = PromptedViT(build(**options), prompts)
    tokens = encoder(torch.randn(2, 3, 40, 56))
    assert tokens.registers.shape == (2, options["num_registers"], 32)
    (tokens.cls.sum() + tokens.patches.square().sum()).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.requires_grad == (".prompts." in name), name
        if ".keys" not in name and parameter.requires_grad:
            assert parameter.grad.isfinite().all(), name
        elif not parameter.requires_grad:
            assert parameter.grad is None, name


@pytest.mark.parametrize("normalizer", ["entmax15", "sparsemax", "softmax"])
def test_excluded_prompts_are_as_if_they_were_not_there(prompted, normalizer):
    """Scores of -inf, for every normalizer, beside a locality bias that prompts have no part in."""
    one = Prompts(cls=Pool(4, top_k=4), dropout=0, mask_mode="pre_softmax")
    encoder = prompted(one, normalizer=normalizer, locality=Locality("gaussian"))
    block, x = encoder.blocks[0], some(2, N, 32)
    plain = copy.deepcopy(block)
    plain.prompts = None
    with_prompts, without = block(x, GRID), plain(x, GRID)
    torch.testing.assert_close(with_prompts[:, 1:], without[:, 1:], rtol=0, atol=1e-12)
    assert not torch.allclose(with_prompts[:, 0], without[:, 0])


@pytest.mark.parametrize("normalizer", ["entmax15", "softmax"])
@modes
def test_half_precision_gives_nearly_the_same(build, images, normalizer, mode):
    encoder = PromptedViT(build(normalizer=normalizer), with_mode(TCPA, mode)).eval()
    exact = tokens_of(encoder(images.float()))
    with torch.autocast("cpu", torch.bfloat16), record(encoder, "prompts.mismatch") as mismatches:
        half = tokens_of(encoder(images.float()))
    assert (half.float() - exact).abs().mean() < 0.05 * exact.abs().mean()
    assert mismatches[0].dtype == torch.float32


def test_prompts_pass_the_patches_copy_of_split_layers(prompted):
    """A definition of ours: no paper has both."""
    encoder = prompted(VPT, cls_specialization=CLSSpecialization(norm=1, qkv=1))
    block, x = encoder.blocks[0], some(1, N, 32)
    before = block(x, GRID)
    with torch.no_grad():
        block.norm1_cls.bias.add_(1)
        block.attn.qkv_cls.bias[32:].add_(1)
    extra = block.prompts(x, GRID).through(block.norm1)
    expected = F.linear(extra.tokens, block.attn.qkv.weight, block.attn.qkv.bias)
    found = block.attn.keys_and_values(extra.tokens)[0, 0].transpose(0, 1).flatten(1)
    torch.testing.assert_close(found, expected[0, :, 32:64])
    assert not block(x, GRID).equal(before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pool(18, top_k=19), "choose 1 to 18, or 0 to read all"),
        (lambda: Pool(-1), "size -1 of a pool"),
        (lambda: Pool(3, length=0), "length 0 of a pool"),
        (lambda: Pool(top_k=3), "would be ignored; give its size"),
        (lambda: Pool(length=2), "would be ignored; give its size"),
        (lambda: Prompts(shared=-1), "shared -1 is negative"),
        (lambda: Prompts(dropout=1.0), r"not in \[0, 1\)"),
        (lambda: Prompts(1, mask_mode="pre_softmax"), "ignored without a pool"),
        (lambda: Prompts(1, registers="cls"), "ignored without a pool"),
        (lambda: Prompts(fourier=True), "ignored without prompts"),
        (lambda: Prompts(cls=Pool(3), detach_query=True), "a pool with chosen entries"),
        (lambda: PromptedViT(Pixels(), VPT), "read by \\[CLS\\] and patches, and Pixels"),
        (lambda: PromptedViT(PromptedViT(ViT("nano")), VPT), "PromptedViT has no such blocks"),
        (lambda: PromptedViT(PromptedViT(ViT("nano"), VPT).backbone, VPT), "has prompts already"),
    ],
)
def test_what_cannot_be_is_refused_with_a_remedy(make, message):
    with pytest.raises(ValueError, match=message):
        make()
