import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from vitlab.visualization.features import PatchMatrix
from vitlab.visualization.parts import kmeans_parts, match_parts, part_labels


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def spread(x, labels, count):
    unit = torch.nn.functional.normalize(x.double(), dim=1)
    groups = [unit[labels == part] for part in range(count)]
    return sum(float((group - group.mean(0)).square().sum()) for group in groups)


def test_planted_groups_are_found():
    truth = torch.arange(4).repeat_interleave(20)
    x = torch.eye(6)[truth] * 5 + random(80, 6) * 0.1
    found = kmeans_parts(x, 4)
    assert adjusted_rand_score(truth, found) == 1
    assert set(found.tolist()) == set(range(4))


def test_parts_are_as_tight_as_those_of_scikit_learn():
    x = random(200, 10)
    unit = torch.nn.functional.normalize(x, dim=1)
    theirs = KMeans(5, n_init=8, random_state=0).fit(unit.numpy()).inertia_
    assert spread(x, kmeans_parts(x, 5), 5) <= 1.02 * theirs


def test_lengths_of_features_are_of_no_account():
    x = random(60, 8)
    assert torch.equal(kmeans_parts(x, 3), kmeans_parts(x * torch.rand(60, 1).add(0.5), 3))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000))
def test_parts_are_the_same_each_time_and_in_every_order_of_the_patches(seed):
    x = random(90, 6, seed=seed)
    order = torch.randperm(90, generator=torch.Generator().manual_seed(seed))
    found = kmeans_parts(x, 4)
    assert torch.equal(found, kmeans_parts(x, 4))
    assert torch.equal(found[order], kmeans_parts(x[order], 4))


@pytest.mark.parametrize("x", [torch.ones(20, 4), torch.eye(2)])
def test_fewer_different_patches_than_parts_are_refused(x):
    with pytest.raises(ValueError, match=r"make no 3 parts; ask for fewer"):
        kmeans_parts(x, 3)


def test_names_follow_the_overlap():
    reference = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    renamed = torch.tensor([2, 2, 2, 0, 0, 1, 1, 1])
    assert torch.equal(match_parts(renamed, reference, 3), reference)


def test_two_models_with_turned_features_have_the_same_parts_at_any_grids():
    turn = torch.linalg.qr(random(5, 5, seed=3))[0]
    truth = torch.tensor([[0, 0, 1, 1], [0, 0, 2, 2]])
    fine = truth.repeat_interleave(2, 0).repeat_interleave(2, 1)
    tables = [
        PatchMatrix(torch.eye(5)[truth.flatten()] + 0.01 * random(8, 5), [(2, 4)]),
        PatchMatrix((torch.eye(5)[fine.flatten()] + 0.01 * random(32, 5)) @ turn, [(4, 8)]),
    ]
    (first,), (second,) = part_labels(tables, 3)
    assert torch.equal(first.repeat_interleave(2, 0).repeat_interleave(2, 1), second)


def test_images_of_different_shapes_share_their_parts():
    x = torch.eye(3)[torch.tensor([0, 0, 1, 1, 2, 2, 2])] + 0.01 * random(7, 3)
    ((wide, tall),) = part_labels([PatchMatrix(x, [(1, 4), (3, 1)])], 3)
    assert wide.shape == (1, 4)
    assert tall.shape == (3, 1)
    assert len({*wide.flatten().tolist(), *tall.flatten().tolist()}) == 3
