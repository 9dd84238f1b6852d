import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitlab.probes import KNN, Features


def blobs(count: int, seed: int, distance: float = 8.0) -> Features:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 3
    centers = distance * torch.eye(3, 5)
    return Features(centers[y] + torch.randn(count, 5, generator=generator), y)


def test_separated_blobs_are_told_apart():
    assert KNN(5).score(blobs(60, 0), blobs(30, 1)) == {"top1": 100.0}


def test_one_neighbor_finds_a_feature_itself():
    features = blobs(50, 0, distance=0.0)
    assert KNN(1).score(features, features) == {"top1": 100.0}


def test_votes_are_weighed_by_similarity():
    train = Features(torch.tensor([[1.0, 0.0], [0.2, 1.0], [0.2, 1.0]]), torch.tensor([0, 1, 1]))
    test = Features(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    assert KNN(3, temperature=0.07).score(train, test) == {"top1": 100.0}
    # so flat that two distant neighbors outvote a near one
    assert KNN(3, temperature=100.0).score(train, test) == {"top1": 0.0}


@given(st.integers(0, 2**31), st.floats(0.1, 10))
@settings(max_examples=20, deadline=None)
def test_order_and_scale_of_features_do_not_matter(seed: int, scale: float):
    train, test = blobs(40, 0, 2.0), blobs(20, 1, 2.0)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
    shuffled = Features(scale * train.x[order], train.y[order])
    assert KNN(7).score(shuffled, test)["top1"] == pytest.approx(KNN(7).score(train, test)["top1"])


def test_more_neighbors_than_images_means_all_of_them():
    assert KNN(1000).score(blobs(9, 0), blobs(9, 1)) == KNN(9).score(blobs(9, 0), blobs(9, 1))


@pytest.mark.parametrize(("k", "temperature"), [(0, 0.07), (5, 0.0)])
def test_impossible_settings_are_refused(k: int, temperature: float):
    with pytest.raises(ValueError, match="at least 1"):
        KNN(k, temperature)
