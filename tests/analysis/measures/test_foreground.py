"""Planted foregrounds, and scikit-learn as an oracle."""

import numpy as np
import pytest
import torch
from batch_contexts import context_of, drawn
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from vitlab.analysis.measures import foreground
from vitlab.encoders import Tokens


def tokens_of(cls, patches, grid):
    return Tokens(cls, patches[:, :0], patches, grid)


def middle(grid):
    inside = torch.zeros(1, *grid, dtype=torch.bool)
    inside[:, 2:4, 1:3] = True
    return inside.flatten(1)


def test_a_planted_object_is_found_by_all():
    fore = middle((6, 5))
    patches = torch.where(fore[..., None], torch.tensor([1.0, 0.2]), torch.tensor([0.1, 1.0]))
    patches = patches + 0.01 * drawn(1, 30, 2)
    found = foreground.measure(
        tokens_of(torch.tensor([[1.0, 0]]), patches, (6, 5)), context_of(1, (6, 5), fore=fore)
    )
    for name in ("auroc", "hit", "hit_box", "pc1_iou"):
        assert found[f"foreground_{name}", ""].item() == 1, name
    assert found["foreground_share", ""].item() == pytest.approx(4 / 30)


def test_an_object_that_cls_avoids_is_missed_but_its_component_is_still_found():
    fore = middle((6, 5))
    patches = torch.where(fore[..., None], torch.tensor([-1.0, 0.2]), torch.tensor([1.0, 0.1]))
    found = foreground.measure(
        tokens_of(torch.tensor([[1.0, 0]]), patches, (6, 5)), context_of(1, (6, 5), fore=fore)
    )
    assert found["foreground_auroc", ""].item() == 0
    assert found["foreground_hit", ""].item() == 0
    assert found["foreground_pc1_iou", ""].item() == 1


def test_likeness_that_knows_nothing_has_auroc_one_half():
    fore = drawn(400, 144) > 0
    found = foreground.auroc(drawn(400, 144, seed=1), fore, ~fore)
    assert found.mean().item() == pytest.approx(0.5, abs=0.01)
    constant = foreground.auroc(torch.ones(400, 144), fore, ~fore)
    assert constant.unique().tolist() == [0.5]


@given(st.integers(0, 10_000), st.booleans())
def test_auroc_is_scikit_learns_over_the_labeled_patches(seed, ties):
    scores = drawn(3, 30, seed=seed)
    scores = scores.round() if ties else scores
    fore, known = drawn(3, 30, seed=seed + 1) > 0.5, drawn(3, 30, seed=seed + 2) > -0.5
    fore[:, 0], known[:, :2], fore[:, 1] = True, True, False
    found = foreground.auroc(scores, fore & known, ~fore & known)
    for b in range(3):
        expected = roc_auc_score(fore[b][known[b]].numpy(), scores[b][known[b]].numpy())
        assert found[b].item() == pytest.approx(expected, abs=1e-6)


def test_images_with_one_side_alone_are_left_out():
    fore = torch.stack([torch.zeros(12), torch.ones(12), torch.arange(12) < 3]).bool()
    found = foreground.measure(
        tokens_of(drawn(3, 4), drawn(3, 12, 4), (3, 4)), context_of(3, fore=fore)
    )
    for each in found.values():
        assert each.isnan().tolist() == [True, True, False]
    none = torch.zeros(3, 12, dtype=torch.bool)
    tokens = tokens_of(drawn(3, 4), drawn(3, 12, 4), (3, 4))
    assert foreground.measure(tokens, context_of(3, fore=none)) == {}


def test_an_unlabeled_patch_cannot_be_hit_and_is_in_no_iou():
    scores = torch.tensor([[9.0, 1, 2, 3]])
    fore, known = (
        torch.tensor([[True, False, False, True]]),
        torch.tensor([[False, True, True, True]]),
    )
    assert foreground.hit(scores, fore & known, known).item() == 1
    predicted = torch.tensor([[True, True, False, True]])
    assert foreground.iou(predicted, fore & known, ~fore & known).item() == 0.5


def test_a_box_is_the_rectangle_around_the_patches():
    patches = torch.zeros(1, 4, 5, dtype=torch.bool)
    patches[0, 1, 3], patches[0, 3, 1] = True, True
    expected = torch.zeros(1, 4, 5, dtype=torch.bool)
    expected[0, 1:, 1:4] = True
    assert torch.equal(foreground.box(patches.flatten(1), (4, 5)), expected.flatten(1))


@pytest.mark.parametrize("shape", [(2, 12, 5), (2, 200, 32), (1, 5, 64)])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_the_first_component_is_scikit_learns(shape, offset):
    x = drawn(*shape) * torch.linspace(1, 2, shape[2]) + offset
    found = foreground.first_component(x)
    for b in range(shape[0]):
        expected = PCA(1, svd_solver="full").fit_transform(x[b].double().numpy())[:, 0]
        alike = np.dot(found[b].numpy(), expected) / np.linalg.norm(expected)
        assert abs(alike) > 0.999


def test_patches_that_are_all_the_same_are_no_object():
    predicted = foreground.objects_by_component(torch.ones(2, 12, 3), (3, 4))
    assert not predicted.any()


@pytest.mark.parametrize("grid", [(1, 1), (1, 6), (2, 3)])
def test_grids_of_borders_alone_are_borne(grid):
    predicted = foreground.objects_by_component(drawn(2, grid[0] * grid[1], 3), grid)
    assert predicted.shape == (2, grid[0] * grid[1])


def test_an_encoder_without_cls_has_components_alone():
    fore = torch.arange(12)[None] < 3
    tokens = tokens_of(drawn(1, 4), drawn(1, 12, 4), (3, 4))
    found = foreground.measure(tokens, context_of(1, prefix=0, fore=fore))
    assert {name for name, _ in found} == {"foreground_share", "foreground_pc1_iou"}
