import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused
from sklearn.neighbors import NearestNeighbors

from vitlab.probes import KNN, Features
from vitlab.probes.knn import votes
from vitlab.probes.neighbors import Neighbors, neighbors


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_sorting(queries, keys, k, metric):
    """Sort all scores in fp64; of equal ones the first key comes first."""
    queries, keys = queries.double().numpy(), keys.double().numpy()
    if metric == "cosine":
        queries, keys = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, keys))
        scores = queries @ keys.T
    else:
        scores = -((queries[:, None] - keys) ** 2).sum(2) / 2
    index = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return index, np.take_along_axis(scores, index, 1)


@pytest.mark.parametrize(("metric", "theirs"), [("cosine", "cosine"), ("l2", "euclidean")])
def test_neighbors_are_those_of_scikit_learn(metric, theirs):
    queries, keys = normal(50, 24), normal(2000, 24, seed=1)
    peer = NearestNeighbors(n_neighbors=30, algorithm="brute", metric=theirs).fit(keys.numpy())
    index = peer.kneighbors(queries.numpy(), return_distance=False)
    assert np.array_equal(neighbors(queries, keys, 30, metric).index, index)


@given(
    st.integers(1, 400),
    st.integers(1, 12),
    st.integers(1, 3),
    st.integers(0, 20),
    st.sampled_from(["cosine", "l2"]),
    st.data(),
)
@settings(max_examples=80)
def test_memory_changes_nothing_and_the_first_of_equal_keys_wins(m, k, span, extra, metric, data):
    """Few values of small whole numbers, so that products are exact and most keys are equal."""
    k = min(k, m)
    generator = torch.Generator().manual_seed(m * 31 + k)
    # for the cosine, one entry each, so that lengths are exact too
    keys = torch.randint(-span, span + 1, (m, 4), generator=generator).float()
    queries = torch.randint(-span, span + 1, (5, 4), generator=generator).float()
    if metric == "cosine":
        keys, queries = (torch.eye(4)[x[:, 0].long() % 4] for x in (keys, queries))
    least = 20 + 8 * 5 + 24 + 128 * k + 8 * 5
    memory = data.draw(st.integers(least, 2000)) + 100 * extra**3
    found = neighbors(queries, keys, k, metric, memory)
    index, scores = by_sorting(queries, keys, k, metric)
    assert np.array_equal(found.index, index)
    assert np.allclose(found.similarity, scores, atol=1e-6)


def test_impossible_searches_are_refused():
    keys = normal(5, 8)
    keys[3, 3] = torch.nan
    for field, use in (
        ("memory", lambda: neighbors(normal(3, 8), normal(5, 8), 2, memory=100)),
        ("k", lambda: neighbors(normal(3, 8), normal(5, 8), 6)),
        ("features", lambda: neighbors(keys, normal(5, 8), 2)),
        ("features", lambda: neighbors(normal(3, 8), keys, 2)),
        ("k", lambda: KNN(0)),
        ("k", lambda: KNN(5, temperature=0.0)),
    ):
        with refused(field):
            use()
    few = torch.tensor([[0.0, 0.0], [1.0, 1.0]])  # a zero vector is similar to nothing
    found = neighbors(torch.tensor([[1.0, 0.0]]), few, 2)
    assert found.index.tolist() == [[1, 0]]
    assert float(found.similarity[0, 1]) == 0


def blobs(count: int, seed: int, distance: float = 8.0) -> Features:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 3
    centers = distance * torch.eye(3, 5)
    return Features(centers[y] + torch.randn(count, 5, generator=generator), y)


def test_knn_of_simple_features():
    train, test = blobs(60, 0), blobs(30, 1)
    test.x.requires_grad_()  # as features straight from an encoder
    assert KNN(5).fit_score(train, test) == {"top1": 100.0}
    same = blobs(50, 0, distance=0.0)
    assert KNN(1).fit_score(same, same) == {"top1": 100.0}
    # more neighbors than images are all of them
    pair = (blobs(9, 0), blobs(9, 1))
    assert KNN(1000).fit_score(*pair) == KNN(9).fit_score(*pair)
    train, test = blobs(40, 0, 2.0), blobs(20, 1, 2.0)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    shuffled = Features(3.7 * train.x[order], train.y[order])
    assert KNN(7).fit_score(shuffled, test) == KNN(7).fit_score(train, test)


def test_votes_are_weighted_by_similarity():
    train = Features(torch.tensor([[1.0, 0.0], [0.2, 1.0], [0.2, 1.0]]), torch.tensor([0, 1, 1]))
    test = Features(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    assert KNN(3, temperature=0.07).fit_score(train, test) == {"top1": 100.0}
    # so flat that two distant neighbors outvote a near one
    assert KNN(3, temperature=100.0).fit_score(train, test) == {"top1": 0.0}


def test_votes_do_not_overflow_at_any_temperature():
    near = Neighbors(torch.tensor([[0, 1, 2]]), torch.tensor([[0.99, 0.98, 0.97]]))
    labels = torch.tensor([3, 1, 0])
    for temperature in (0.07, 0.01, 0.005, 1e-3, 1e-6, 1e-300):
        found = votes(near, labels, 4, 3, temperature)
        assert found.isfinite().all()
        assert found.argmax(1).tolist() == [3]
    # nearly equal features, whose order the shift must not change
    g = torch.Generator().manual_seed(0)
    similarity = 1 - 1e-3 * torch.rand(200, 20, generator=g).sort(1).values
    index, labels = torch.randint(50, (200, 20), generator=g), torch.randint(7, (50,), generator=g)
    for temperature in (0.07, 0.012, 0.01, 0.005):
        weights = (similarity.double() / temperature).exp()
        sums = torch.zeros(200, 7, dtype=torch.float64).scatter_add_(1, labels[index], weights)
        found = votes(Neighbors(index, similarity), labels, 7, 20, temperature)
        assert found.argmax(1).equal(sums.argmax(1))
