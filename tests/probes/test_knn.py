import pytest
import torch
from refusals import refused

from vitlab.probes import KNN, Features


def blobs(count: int, seed: int, distance: float = 8.0) -> Features:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 3
    centers = distance * torch.eye(3, 5)
    return Features(centers[y] + torch.randn(count, 5, generator=generator), y)


def test_simple_features():
    assert KNN(5).fit_score(blobs(60, 0), blobs(30, 1)) == {"top1": 100.0}
    same = blobs(50, 0, distance=0.0)
    assert KNN(1).fit_score(same, same) == {"top1": 100.0}
    # more neighbors than images are all of them
    pair = (blobs(9, 0), blobs(9, 1))
    assert KNN(1000).fit_score(*pair) == KNN(9).fit_score(*pair)


def test_votes_are_weighted_by_similarity():
    train = Features(torch.tensor([[1.0, 0.0], [0.2, 1.0], [0.2, 1.0]]), torch.tensor([0, 1, 1]))
    test = Features(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    assert KNN(3, temperature=0.07).fit_score(train, test) == {"top1": 100.0}
    # so flat that two distant neighbors outvote a near one
    assert KNN(3, temperature=100.0).fit_score(train, test) == {"top1": 0.0}


def test_order_and_scale_of_features_do_not_matter():
    train, test = blobs(40, 0, 2.0), blobs(20, 1, 2.0)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    shuffled = Features(3.7 * train.x[order], train.y[order])
    assert KNN(7).fit_score(shuffled, test) == pytest.approx(KNN(7).fit_score(train, test))


def test_impossible_settings_are_refused():
    for k, temperature in ((0, 0.07), (5, 0.0)):
        with refused("k"):
            KNN(k, temperature)
