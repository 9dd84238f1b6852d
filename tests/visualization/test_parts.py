import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused
from sklearn.cluster import KMeans

from vitlab.visualization.features import PatchMatrix
from vitlab.visualization.parts import kmeans_parts, part_labels


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_parts_are_as_tight_as_those_of_scikit_learn():
    x = random(200, 10)
    unit, found = torch.nn.functional.normalize(x, dim=1), kmeans_parts(x, 5)
    theirs = KMeans(5, n_init=8, random_state=0).fit(unit.numpy()).inertia_
    groups = [unit[found == part] for part in range(5)]
    spread = sum(float((group - group.mean(0)).square().sum()) for group in groups)
    assert spread <= 1.02 * theirs


@settings(max_examples=15)
@given(st.integers(0, 1000))
def test_parts_depend_neither_on_the_order_of_patches_nor_on_their_length(seed):
    x = random(90, 6, seed=seed)
    order = torch.randperm(90, generator=torch.Generator().manual_seed(seed))
    found = kmeans_parts(x, 4)
    assert torch.equal(found[order], kmeans_parts(x[order] * torch.rand(90, 1).add(0.5), 4))


@pytest.mark.parametrize("x", [torch.ones(20, 4), torch.eye(2)])
def test_fewer_different_patches_than_parts_are_refused(x):
    with refused("--parts"):
        kmeans_parts(x, 3)


def test_planted_parts_are_those_of_all_images_and_of_two_models_at_any_grids():
    angles = torch.tensor([0.0, 0.5, 1.0])
    centers = torch.stack([angles.cos(), angles.sin()], -1)
    truth = torch.tensor([[0, 0, 1, 1], [0, 0, 2, 2]])
    fine = truth.repeat_interleave(2, 0).repeat_interleave(2, 1)
    tall = torch.tensor([[2], [0], [1]])
    coarse, sharp = (torch.cat([each.flatten(), tall.flatten()]) for each in (truth, fine))
    turned = centers[[1, 2, 0]]  # the second model has another order of parts
    tables = [
        PatchMatrix(centers[coarse] + 0.01 * random(11, 2), [(2, 4), (3, 1)]),
        PatchMatrix(turned[sharp] + 0.01 * random(35, 2), [(4, 8), (3, 1)]),
    ]
    first, second = part_labels(tables, 3)
    for parts, shapes in ((first, (truth, tall)), (second, (fine, tall))):
        for found, wanted in zip(parts, shapes, strict=True):
            assert torch.equal(found, wanted)
