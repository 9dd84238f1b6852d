"""Cosines, channels, norms, ranks, locality: closed forms, and loops as oracles."""

import numpy as np
import pytest
import torch
from batch_contexts import context_of, drawn
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import cdist, pdist

from vitlab.analysis.measures import tokens
from vitlab.analysis.measures.context import label_patches
from vitlab.analysis.results import Row
from vitlab.encoders import Tokens


def roles_of(sums):
    return {role: each.double() for (_, role), each in sums.items()}


PATCHES = ("all", "foreground", "background")
PAIRS = {
    **{("cls_patch_cosine", role): ("cls", role) for role in PATCHES},
    **{("patch_patch_cosine", role): (role, role) for role in PATCHES},
    ("diffusion_index", ""): ("foreground", "background"),
    ("cls_registers_cosine", ""): ("cls", "registers"),
    ("registers_patch_cosine", ""): ("registers", "all"),
}


@given(st.integers(0, 10_000), st.integers(1, 3), st.sampled_from([torch.float32, torch.float64]))
def test_cosines_are_means_over_distinct_pairs(seed, prefix, dtype):
    fore = drawn(2, 12, seed=seed) > 0.3
    x = drawn(2, prefix + 12, 6, seed=seed + 1).to(dtype)
    context = context_of(2, prefix=prefix, fore=fore)
    found = tokens.cosines(x, context)
    assert set(found) == set(PAIRS)
    for b in range(2):
        places = {"cls": [0], "registers": range(1, prefix), "all": range(prefix, prefix + 12)}
        for role in ("foreground", "background"):
            places[role] = (getattr(context, role)[b].nonzero().flatten() + prefix).tolist()
        rows = x[b].double().numpy()
        cosines = 1 - cdist(rows, rows, "cosine")
        for name, (one, other) in PAIRS.items():
            pairs = [cosines[i, j] for i in places[one] for j in places[other] if i != j]
            expected = np.mean(pairs) if pairs else np.nan
            np.testing.assert_allclose(float(found[name][b]), expected, atol=2e-6)


def test_a_zero_vector_is_like_nothing_and_without_cls_patches_are_measured_alone():
    x = torch.ones(1, 13, 3)
    x[0, 1] = 0
    found = tokens.cosines(x, context_of(1))
    assert float(found["cls_patch_cosine", "all"]) == pytest.approx(11 / 12)
    assert float(found["patch_patch_cosine", "all"]) == pytest.approx(11 * 10 / (12 * 11))
    found = tokens.cosines(torch.ones(2, 12, 3), context_of(prefix=0))
    assert found["cls_patch_cosine", "all"].isnan().all()
    torch.testing.assert_close(found["patch_patch_cosine", "all"], torch.ones(2))
    assert tokens.channels(torch.ones(2, 12, 3), context_of(prefix=0)) == {}


def test_channels_planted_in_each_role_are_found():
    x = 0.01 * torch.ones(2, 13, 40)
    x[:, 0, :10], x[:, 0, 30:] = -4.0, 0.001
    x[:, 1:, 6:16] = 2.0
    found = list(tokens.conclude_channels(roles_of(tokens.channels(x, context_of())), 2))
    rows = {each.measure: each.mean for each in found if isinstance(each, Row)}
    arrays = {(e.measure, e.role): e.values for e in found if not isinstance(e, Row)}
    assert rows["channel_overlap"] == 0.4
    ratio = np.log([400] * 6 + [2] * 4 + [1 / 200] * 6 + [1] * 14 + [0.1] * 10)
    np.testing.assert_allclose(arrays["channel_log_ratio", ""], ratio, rtol=1e-5, atol=1e-6)
    assert rows["channel_log_ratio"] == pytest.approx(np.abs(ratio).mean(), rel=1e-5)
    assert arrays["channel_magnitude", "cls"][0] == 4
    assert arrays["channel_magnitude", "patches"][6] == 2


def test_planted_outliers_are_counted():
    values = np.array([1.0, 1.1, 0.9, 1.05, 0.95, 1, 1.02, 0.98, 1.2, 0.8, 30, 40])
    x = torch.zeros(1, 13, 4)
    x[0, 0, 0], x[0, 1:, 1] = 5, torch.tensor(values)
    found, _ = tokens.norms(x, context_of(1))
    limit = np.median(values) + 6 * stats.median_abs_deviation(values)
    assert float(found["norm_outliers", ""]) == pytest.approx((values > limit).mean())
    assert float(found["norm_peak", ""]) == pytest.approx(40 / np.median(values))
    assert float(found["token_norm", "patches"]) == pytest.approx(values.mean())
    assert float(found["token_norm", "cls"]) == 5
    assert found["token_norm", "registers"].isnan().all()
    equal, _ = tokens.norms(torch.ones(2, 13, 4), context_of())
    assert equal["norm_outliers", ""].tolist() == [0, 0]
    assert equal["norm_peak", ""].tolist() == [1, 1]


def test_the_histogram_counts_every_patch_in_its_bin():
    x = drawn(3, 13, 8) * torch.logspace(-6, 10, 13)[:, None]  # below the first bin, above the last
    (array,) = tokens.conclude_norms(roles_of(tokens.norms(x, context_of(3))[1]), 3)
    values = x[:, 1:].norm(dim=-1).flatten().double().numpy()
    clipped = values.clip(array.edges[0] * 1.0001, array.edges[-1] * 0.9999)
    assert array.values == np.histogram(clipped, np.asarray(array.edges))[0].tolist()
    assert sum(array.values) == 36


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=20))
def test_ranks_are_scipys(numbers):
    x = torch.tensor(numbers).float()[None]
    assert tokens.average_ranks(x)[0].tolist() == stats.rankdata(numbers).tolist()


def test_locality_is_spearmans_over_the_sampled_pairs():
    context, x = context_of(2, grid=(12, 10)), drawn(2, 121, 16)
    chosen = context.order[: tokens.SAMPLE].numpy()
    assert len(set(chosen)) == 96
    found = tokens.locality(x, context)["locality", ""]
    places = np.stack([chosen // 10, chosen % 10], axis=1)
    for b in range(2):
        cosines = 1 - pdist(x[b, 1:].double().numpy()[chosen], "cosine")
        expected = stats.spearmanr(cosines, pdist(places)).statistic
        assert float(found[b]) == pytest.approx(expected, abs=1e-4)
    constant = drawn(1, 1, 7).expand(2, 13, 7)
    assert tokens.locality(constant, context_of())["locality", ""].isnan().all()


@pytest.mark.parametrize("count", [4, 40])
def test_rank_of_the_drawn_patches_is_the_papers_formula_on_singular_values(count):
    context = context_of(count)
    x = drawn(count, 13, 6, seed=1) * torch.linspace(0.1, 2, 6)
    read = Tokens(x[:, 0], x[:, :0], x[:, 1:], (3, 4))
    sums = roles_of(tokens.grams(read, context))
    rows = {each.role: each.mean for each in tokens.conclude_rank(sums, count, context.rows)}
    assert list(rows) == ["cls", "patches"]
    for role, table in (("cls", x[:, 0]), ("patches", x[:, 1:].flatten(0, 1))):
        sigma = np.linalg.svd(table.double().numpy(), compute_uv=False)
        p = sigma / sigma.sum() + 1e-7
        assert rows[role] == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-5)


def test_a_patch_is_labeled_by_half_of_its_pixels():
    pixels = torch.zeros(1, 8, 12, dtype=torch.uint8)
    pixels[0, :4, 4:8] = 1  # an object all over
    pixels[0, 4:6, :4] = 1  # half an object
    pixels[0, :, 8:12] = 255
    pixels[0, :2, 8:11] = 1  # six of sixteen known: too few
    foreground, background = label_patches(pixels, 4)
    assert foreground.tolist() == [[False, True, False, True, False, False]]
    assert background.tolist() == [[True, False, False, False, True, False]]
