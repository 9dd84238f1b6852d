"""Deep prompts: facts of TCPA (arXiv:2505.02406), numbered."""

import copy

import pytest
import torch
import torch.nn.functional as F
from refusals import refused

from vitlab.encoders import (
    CLSSpecialization,
    Locality,
    Pixels,
    Pool,
    PromptedViT,
    Prompts,
    ViT,
    record,
)
from vitlab.encoders.hooks import hook_modules
from vitlab.encoders.prompts import PromptKV

GRID = (2, 3)
N = 7  # [CLS] and six patches
TCPA = Prompts(cls=Pool(4, 2, top_k=2), patches=Pool(5, 1, top_k=3), dropout=0)
R_TCPA = Prompts(cls=Pool(4, 2), patches=Pool(5), dropout=0)
VPT = Prompts(shared=5, dropout=0)
MODES = ("post_softmax", "pre_softmax")


def changed(prompts: Prompts, **changes) -> Prompts:
    return Prompts(**{**vars(prompts), **changes})


@pytest.fixture
def prompted(build):
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
    b, n, d = x.shape
    extra = block.prompts(x, grid)
    m = extra.tokens.shape[1]
    y = block.norm1(torch.cat([x[:, :1], extra.tokens.expand(b, -1, -1), x[:, 1:]], dim=1))
    heads = block.attn.num_heads
    q, k, v = block.attn.qkv(y).view(b, m + n, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
    a = (q @ k.mT / (d // heads) ** 0.5).softmax(-1)
    a = torch.cat([a[:, :, :1], a[:, :, 1 + m :]], dim=2)  # queries of prompts are discarded
    mask = torch.ones(b, 1, n, m + n, dtype=a.dtype)
    if extra.visible is not None:
        mask[:, 0, :, 1 : 1 + m] = extra.visible.to(a.dtype)
    x = x + block.attn.proj((a * mask @ v).transpose(1, 2).flatten(2))
    return x + block.mlp(block.norm2(x))


@pytest.mark.parametrize("prompts", [VPT, R_TCPA, TCPA], ids=["VPT", "R", "T"])
def test_a_block_is_the_released_one_and_the_sequence_never_grows(prompted, images, prompts):
    encoder = prompted(prompts)
    block, x = encoder.blocks[1], some(2, N, 32)
    torch.testing.assert_close(block(x, GRID), released(block, x, GRID), rtol=0, atol=1e-12)
    assert {state.x.shape for state in encoder.walk(images)} == {(2, 36, 32)}
    tokens = encoder(images)
    assert (tokens.grid, tokens.cls.shape, tokens.patches.shape) == ((5, 7), (2, 32), (2, 35, 32))


def test_fact_5_sizes_of_0_are_the_plain_encoder_to_the_bit(build, images):
    plain = tokens_of(build().double()(images))
    for prompts in (Prompts(), Prompts(dropout=0.5)):
        encoder = PromptedViT(build().double(), prompts)
        assert not any(p.requires_grad for p in encoder.parameters())
        for mode in (encoder.train(), encoder.eval()):
            assert tokens_of(mode(images)).equal(plain)


def test_fact_2_parameters_are_those_of_the_specification():
    for prompts, expected in (
        (Prompts(cls=Pool(18, top_k=10), patches=Pool(18, top_k=10)), 663_552),
        (Prompts(cls=Pool(18), patches=Pool(18)), 331_776),  # no keys where none are used
        (Prompts(shared=36, dropout=0), 331_776),
    ):
        with torch.device("meta"):
            encoder = PromptedViT(ViT("B"), prompts)
        assert sum(p.numel() for p in encoder.parameters() if p.requires_grad) == expected


def test_initial_values_are_those_of_the_papers_and_the_random_stream_stays():
    torch.manual_seed(0)
    vit = ViT("Ti")
    stream = torch.get_rng_state()
    blocks = PromptedViT(vit, Prompts(8, Pool(18, 1, 10), Pool(18, 1, 10))).block_prompts
    assert torch.get_rng_state().equal(stream)
    limits = {"cls.keys": 1, "cls.prompts": 1, "patches.keys": 1}
    limits["shared"] = (6 / (3 * 16 * 16 + 192)) ** 0.5
    for name, limit in limits.items():
        values = torch.cat([prompts.get_parameter(name).flatten() for prompts in blocks])
        assert values.abs().max().item() == pytest.approx(limit, rel=0.01)
        assert values.std().item() == pytest.approx(limit / 3**0.5, rel=0.02)
    assert not blocks[0].cls.keys.equal(blocks[1].cls.keys)


def test_fact_4_after_softmax_is_the_kept_mass_times_before_softmax(prompted, images):
    block, (q, k, v) = prompted().blocks[0], some(3, 2, 2, N + 13, 16)
    q, visible = q[:, :, :N], block.prompts(some(2, N, 32), GRID).visible
    extras = [PromptKV(some(2, 13, 32), visible, post=post) for post in (True, False)]
    after, before = (
        block.attn.interact(q, k, v, extra.bias(None, q), extra.gate(N)) for extra in extras
    )
    kept = (q @ k.mT / 4).softmax(-1) * F.pad(visible, (0, N), value=1)[:, None]
    rho = kept.sum(-1, keepdim=True)
    assert ((rho > 0) & (rho <= 1)).all()
    torch.testing.assert_close(after, rho * before, rtol=0, atol=1e-14)
    for mode in MODES:  # recorded are the kept weights, those of prompts first
        encoder = prompted(changed(TCPA, mask_mode=mode))
        with record(encoder, "attn.weights") as weights:
            encoder(images)
        assert weights[0].shape == (2, 2, 36, 13 + 36)
        sums = weights[0].sum(-1)
        assert ((sums > 0) & (sums < 1)).all() == (mode == "post_softmax")
        assert torch.allclose(sums, torch.ones_like(sums)) == (mode == "pre_softmax")


def test_fact_8_the_matching_loss_ignores_lengths_and_is_0_for_keys_along_the_query(prompted):
    prompts = prompted(Prompts(cls=Pool(3, top_k=1), patches=Pool(3, top_k=2))).blocks[0].prompts
    x = some(1, 2, 32)

    def loss(x):
        found = []
        with hook_modules([prompts.mismatch], lambda _, __, value: found.append(value.item())):
            prompts(x, (1, 1))
        return found[0]

    before = loss(x)
    assert 0 < before < 4
    assert loss(x * 7) == pytest.approx(before, abs=1e-12)
    with torch.no_grad():
        prompts.cls.keys[1] = 2 * x[0, 0]
        prompts.patches.keys[0] = 0.1 * x[0, 1]
        prompts.patches.keys[2] = 5 * x[0, 1]
        assert loss(x) == pytest.approx(0, abs=1e-12)
        prompts.cls.keys.copy_(-x[0, :1].expand(3, -1))
        prompts.patches.keys.copy_(-x[0, 1:].expand(3, -1))
        assert loss(x) == pytest.approx(4, abs=1e-12)  # so 4 L at most


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
    first = tokens_of(encoder(images))
    assert first.equal(tokens_of(encoder(images)))
    encoder.draw(False)
    assert first.equal(tokens_of(encoder.train()(images)))
    similarity = torch.tensor([0.5, 1, 0.5, 1, 0.5], dtype=torch.float64).expand(2, 6, 5)
    lower = encoder.blocks[0].prompts.patches.choose(similarity)  # the lower index among equals
    assert lower.unique(dim=1).flatten(1).tolist() == [[1, 3, 0]] * 2


def test_dropout_is_each_images_own_and_fourier_prompts_are_transformed_together(prompted):
    prompts = prompted(Prompts(cls=Pool(4), patches=Pool(5), dropout=0.5)).blocks[0].prompts
    x = some(2, N, 32)
    whole, dropped = prompts(x, GRID).tokens, prompts.train()(x, GRID).tokens
    assert (len(whole), len(dropped)) == (1, 2)
    assert not dropped[0].equal(dropped[1])
    assert ((dropped == 0) | (dropped == 2 * whole)).all()
    fourier = prompted(Prompts(cls=Pool(4), patches=Pool(5), fourier=True)).blocks[0].prompts
    expected = torch.fft.fft(torch.fft.fft(whole[0], dim=-1), dim=-2).real
    torch.testing.assert_close(fourier(x, GRID).tokens[0], expected)


def test_detached_queries_leave_earlier_prompts_out_of_the_matching_loss(prompted, images):
    for detach in (False, True):
        encoder = prompted(changed(TCPA, detach_query=detach))
        with record(encoder, "prompts.mismatch") as found:
            encoder(images)
        sum(found).backward()
        first, last = encoder.block_prompts[0], encoder.block_prompts[-1]
        assert last.cls.keys.grad.any()
        assert (first.patches.prompts.grad is None) == detach


def test_a_query_reads_k_entries_of_its_own_pool_and_registers_that_of_their_role(prompted):
    """Fact 1; a selected entry opens all of its prompts."""
    visible = prompted().blocks[0].prompts(some(9, N, 32), GRID).visible
    cls, patches = visible[:, 0], visible[:, 1:]
    assert (cls[:, :8].sum(-1) == 2 * 2).all()
    assert cls[:, 0:8:2].equal(cls[:, 1:8:2])
    assert (patches[..., 8:].sum(-1) == 3).all()
    assert not cls[:, 8:].any()
    assert not patches[..., :8].any()
    pools = {"none": [], "cls": range(1, 5), "patches": range(5, 10)}
    for registers, own in pools.items():
        prompts = Prompts(1, Pool(4), Pool(5), registers=registers, dropout=0)
        encoder = prompted(prompts, num_registers=2)
        visible = encoder.blocks[0].prompts(some(2, N + 2, 32), GRID).visible[0]
        expected = [[0, 1, 2, 3, 4], [0, *own], [0, *own], [0, 5, 6, 7, 8, 9]]
        assert [visible[row].nonzero()[:, 0].tolist() for row in range(4)] == expected


@pytest.mark.parametrize("normalizer", ["entmax15", "sparsemax", "softmax"])
def test_excluded_prompts_are_as_if_they_were_not_there(prompted, normalizer):
    """Scores of -inf, for every normalizer, beside a locality bias that prompts have no part in."""
    one = Prompts(cls=Pool(4, top_k=4), dropout=0, mask_mode="pre_softmax")
    block = prompted(one, normalizer=normalizer, locality=Locality("gaussian")).blocks[0]
    x, plain = some(2, N, 32), copy.deepcopy(block)
    plain.prompts = None
    with_prompts, without = block(x, GRID), plain(x, GRID)
    torch.testing.assert_close(with_prompts[:, 1:], without[:, 1:], rtol=0, atol=1e-12)
    assert not torch.allclose(with_prompts[:, 0], without[:, 0])


def test_prompts_pass_the_patches_copy_of_split_layers(prompted):
    """A definition of ours: no paper has both."""
    encoder = prompted(VPT, cls_specialization=CLSSpecialization(norm=1, qkv=1))
    block, x = encoder.blocks[0], some(1, N, 32)
    expected = F.linear(block.norm1(block.prompts.shared), *block.attn.qkv.parameters())
    extra = block.prompts(x, GRID).through(block.norm1)
    found = block.attn.keys_and_values(extra.tokens)[:, 0].transpose(1, 2).flatten(2)
    torch.testing.assert_close(found[0], expected[:, 32:64])
    torch.testing.assert_close(found[1], expected[:, 64:])


def test_what_is_out_of_range_or_without_effect_is_refused():
    for field, make in (
        ("top_k", lambda: Pool(18, top_k=19)),
        ("size", lambda: Pool(-1)),
        ("length", lambda: Pool(3, length=0)),
        ("top_k", lambda: Pool(top_k=3)),
        ("length", lambda: Pool(length=2)),
        ("prompts.shared", lambda: Prompts(shared=-1)),
        ("prompts.dropout", lambda: Prompts(dropout=1.0)),
        ("prompts.mask_mode", lambda: Prompts(1, mask_mode="pre_softmax")),
        ("prompts.registers", lambda: Prompts(1, registers="cls")),
        ("prompts.fourier", lambda: Prompts(fourier=True)),
        ("prompts.detach_query", lambda: Prompts(cls=Pool(3), detach_query=True)),
        ("backbone", lambda: PromptedViT(Pixels(), VPT)),
        ("backbone", lambda: PromptedViT(PromptedViT(ViT("nano")), VPT)),
        ("backbone", lambda: PromptedViT(PromptedViT(ViT("nano"), VPT).backbone, VPT)),
        ("prompts.registers", lambda: PromptedViT(ViT("nano"), changed(TCPA, registers="cls"))),
    ):
        with refused(field):
            make()
