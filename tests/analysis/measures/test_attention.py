"""Attention and prompts: one-hot weights, and numpy as an oracle."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from batch_contexts import context_of, drawn
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from vitlab.analysis.measures import attention
from vitlab.encoders import Locality
from vitlab.encoders.entmax.operator import entmax15
from vitlab.encoders.locality import GaussianBias


def test_one_hot_attention_has_a_known_distance_and_all_other_keys_are_dead():
    weights = torch.zeros(1, 1, 14, 14)
    weights[..., 5] = 1  # all look at patch 3: row 0, column 3
    found = attention.attention(weights, context_of(1, grid=(3, 4), prefix=2))
    places = [(row, column) for row in range(3) for column in range(4)]
    expected = 16 * np.mean([np.hypot(row, 3 - column) for row, column in places])
    assert found["attention_distance", "patches"].item() == pytest.approx(expected, rel=1e-6)
    assert found["dead_keys", ""].item() == pytest.approx(13 / 14)


def test_mass_on_the_object_is_that_of_cls_over_labeled_patches():
    fore, back = (torch.zeros(3, 12, dtype=torch.bool) for _ in range(2))
    fore[:2, :3], back[1:, 3:9] = True, True  # only the second image has both
    weights = torch.zeros(3, 1, 14, 14)
    weights[:, 0, 0, [0, 2, 6, 12]] = torch.tensor([0.5, 0.3, 0.1, 0.1])  # [CLS], patches 0, 4, 10
    context = replace(context_of(3, grid=(3, 4), prefix=2), foreground=fore, background=back)
    found = attention.attention(weights, context)["attention_foreground", "cls"][:, 0]
    assert found.tolist() == pytest.approx([float("nan"), 0.75, float("nan")], nan_ok=True)


@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(0, 4), st.booleans())
def test_attention_is_numpys(seed, prefix, m, double):
    n, context = prefix + 12, context_of(2, prefix=prefix)
    scores = 2 * drawn(2, 3, n, m + n, seed=seed)
    weights = entmax15(scores.double() if double else scores)
    found = attention.attention(weights, context)
    w = weights.double().numpy()[..., m:]
    total = w.sum(-1)
    own = w / np.where(total, total, np.nan)[..., None]
    there = w[..., prefix:, prefix:]
    seen = np.where(there.sum(-1), there.sum(-1), np.nan)
    distance = (there * context.distances.numpy()).sum(-1) / seen
    rows = {
        "attention_entropy": stats.entropy(own, axis=-1),
        "attention_zeros": (w == 0).mean(-1),
        "attention_support": (w > 0).sum(-1),
        "attention_max": own.max(-1),
    }
    parts = {"cls": slice(0, 1), "registers": slice(1, prefix), "patches": slice(prefix, None)}
    for name, each in rows.items():
        for role, part in parts.items():
            assert ((name, role) in found) == (role != "registers" or prefix > 1)
            if (name, role) in found:
                expected = each[..., part].mean(-1)
                np.testing.assert_allclose(found[name, role].numpy(), expected, atol=2e-5)
    np.testing.assert_allclose(
        found["attention_distance", "patches"].numpy(), np.nanmean(distance, -1), rtol=1e-5
    )
    dead = (w == 0).all(-2).mean(-1)
    np.testing.assert_allclose(found["dead_keys", ""].numpy(), dead, atol=1e-6)


def test_a_query_that_sees_no_patch_has_no_distance_and_one_without_any_weight_no_entropy():
    weights = torch.zeros(1, 1, 13, 13)
    weights[..., 0] = 1
    weights[..., 1, :] = 0
    weights[..., 2, 2] = 1
    found = attention.attention(weights, context_of(1))
    assert found["attention_distance", "patches"].item() == 0
    assert found["attention_entropy", "patches"].isnan().all()
    assert found["attention_entropy", "cls"].item() == 0


def test_the_pieces_that_a_cache_holds_change_nothing(monkeypatch):
    context, weights = context_of(2), drawn(2, 3, 13, 13).softmax(-1)
    whole = attention.attention(weights, context)
    monkeypatch.setattr(attention, "AT_ONCE", 1)
    pieces = attention.attention(weights, context)
    for name, each in whole.items():
        torch.testing.assert_close(pieces[name], each, rtol=1e-6, atol=1e-6)


def test_prompts_are_no_keys_of_the_sequence():
    context = context_of(2, prefix=2)
    plain = drawn(2, 3, 14, 14).softmax(-1)
    beside = torch.cat([torch.full((2, 3, 14, 4), 0.1), 0.6 * plain], dim=-1)
    other = attention.attention(beside, context)
    for name, each in attention.attention(plain, context).items():
        torch.testing.assert_close(other[name], each, rtol=1e-5, atol=1e-5)
    assert attention.prompts(plain, context) == ({}, {})
    found, _ = attention.prompts(beside, context)
    torch.testing.assert_close(found["prompt_mass", "registers"], torch.full((2, 3), 0.4))


def test_prompts_of_a_role_are_used_by_that_role():
    weights = torch.full((2, 1, 13, 16), 1 / 16)
    weights[:, :, 0, 1:3] = 0  # [CLS] reads prompt 0
    weights[:, :, 1:, 0] = 0  # patches read 1, and one of them 2
    weights[:, :, 2:, 2] = 0
    found, sums = attention.prompts(weights, context_of(2))
    torch.testing.assert_close(found["prompt_used", "cls"], torch.full((2, 1), 1 / 3))
    torch.testing.assert_close(found["prompt_used", "patches"], torch.full((2, 1), 2 / 3))
    torch.testing.assert_close(found["prompt_mass", "cls"], torch.full((2, 1), 1 / 16))
    expected = 2 * torch.tensor([0, 1 / 16, 1 / 16 / 12])
    torch.testing.assert_close(sums["prompt_mass", "patches"], expected)


def test_the_bias_is_what_its_predictors_say():
    context, q = context_of(2), drawn(2, 3, 13, 8)
    layer = GaussianBias(8, (3, 4), Locality("gaussian"))
    values, maps = attention.gaussian_bias(layer, q, context)
    _, variance = layer.predict(q[:, :, 1:], (3, 4))
    columns = variance[..., 1]
    assert torch.equal(values["bias_variance_columns", "patches"], columns.mean(-1))
    torch.testing.assert_close(
        maps["bias_variance_columns", "patches"], columns.sum(0).unflatten(-1, (3, 4))
    )
    # the diagonal of the bias is alpha itself
    alpha = layer(q, (3, 4)).diagonal(dim1=-2, dim2=-1)[..., 1:]
    torch.testing.assert_close(maps["bias_alpha", "patches"].flatten(1), alpha.sum(0))
    values, _ = attention.gaussian_bias(GaussianBias(8, (3, 4), Locality("uniform")), q, context)
    assert set(values) == {("bias_alpha", "patches")}
