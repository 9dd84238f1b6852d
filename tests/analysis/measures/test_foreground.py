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


def found_of(cls, patches, grid=(3, 4), fore=None, prefix=1):
    tokens = Tokens(cls, patches[:, :0], patches, grid)
    return foreground.foreground(tokens, context_of(len(patches), grid, prefix, fore))


@pytest.mark.parametrize("sign", [1, -1], ids=["found", "avoided"])
def test_a_planted_object_is_found_or_avoided_by_cls_and_is_the_first_component(sign):
    fore = torch.zeros(1, 30, dtype=torch.bool)
    fore[:, [11, 12, 16, 17]] = True  # rows 2 and 3, columns 1 and 2
    patches = torch.where(fore[..., None], torch.tensor([1.0, 0.2]), torch.tensor([-0.1, 1.0]))
    patches = sign * patches + 0.01 * drawn(1, 30, 2)
    found = found_of(torch.tensor([[1.0, 0]]), patches, (6, 5), fore)
    for name in ("auroc", "hit", "hit_box"):
        assert found[f"foreground_{name}", ""].item() == (sign > 0), name
    assert found["foreground_pc1_iou", ""].item() == 1
    assert found["foreground_share", ""].item() == pytest.approx(4 / 30)


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
    for each in found_of(drawn(3, 4), drawn(3, 12, 4), fore=fore).values():
        assert each.isnan().tolist() == [True, True, False]
    assert found_of(drawn(3, 4), drawn(3, 12, 4)) == {}
    without_cls = found_of(drawn(1, 4), drawn(1, 12, 4), fore=fore[2:], prefix=0)
    assert {name for name, _ in without_cls} == {"foreground_share", "foreground_pc1_iou"}


def test_an_unlabeled_patch_cannot_be_hit_and_is_in_no_iou():
    scores = torch.tensor([[9.0, 1, 2, 3]])
    fore = torch.tensor([[False, False, False, True]])
    back = torch.tensor([[False, True, True, False]])
    assert foreground.hit(scores, fore, fore | back).item() == 1
    predicted = torch.tensor([[True, True, False, True]])
    assert foreground.iou(predicted, fore, back).item() == 0.5


def test_a_box_is_the_rectangle_around_the_patches():
    patches, expected = torch.zeros(2, 1, 4, 5, dtype=torch.bool)
    patches[0, 1, 3] = patches[0, 3, 1] = expected[0, 1:, 1:4] = True
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


@pytest.mark.parametrize("grid", [(1, 1), (1, 6), (2, 3), (3, 4)])
def test_grids_of_borders_alone_are_borne_and_equal_patches_are_no_object(grid):
    count = grid[0] * grid[1]
    assert foreground.objects_by_component(drawn(2, count, 3), grid).shape == (2, count)
    assert not foreground.objects_by_component(torch.ones(2, count, 3), grid).any()
