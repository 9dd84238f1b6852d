"""Dense nearest neighbors and logistic regression against scikit-learn, on the same features.

The peer is measured where scikit-learn is installed, as `pip install -e .[dev]` does.
"""

import warnings

import torch
from torch import Tensor

from benchmarks.attention import Case
from vitlab.probes.logistic import LogisticRegression
from vitlab.probes.neighbors import Metric, neighbors

ROWS, QUERIES, WIDTH, K, CLASSES = 20_000, 4000, 384, 30, 21
STRENGTHS = (1e-3, 1.0)  # scikit-learn's C
TOLERANCE = 1e-5  # of the gradient's largest entry, at which both end
METRICS: dict[Metric, str] = {"cosine": "cosine", "l2": "euclidean"}


def cases() -> list[Case]:
    """Neighbors by both metrics, and logistic regression of weak and strong penalty, in fp32."""
    return [
        *(of_neighbors(metric) for metric in METRICS),
        *(of_logistic(strength) for strength in STRENGTHS),
    ]


def of_neighbors(metric: Metric, rows: int = ROWS, queries: int = QUERIES) -> Case:
    """Return the case of one metric; both sides return the indices of the neighbors."""
    from sklearn.neighbors import NearestNeighbors

    keys, asked = _normal(rows, WIDTH, 0), _normal(queries, WIDTH, 1)
    peer = NearestNeighbors(n_neighbors=K, algorithm="brute", metric=METRICS[metric])
    peer.fit(keys.numpy())
    return (
        f"{K} nearest by {metric} of {rows} x {WIDTH}, {queries} queries",
        lambda: neighbors(asked, keys, K, metric, 2**30).index,
        "scikit-learn, brute force",
        lambda: peer.kneighbors(asked.numpy(), return_distance=False),
    )


def of_logistic(strength: float, rows: int = ROWS) -> Case:
    """Return the case of one C; both sides return the loss that they arrive at."""
    from sklearn.linear_model import LogisticRegression as Peer

    x = _normal(rows, WIDTH, 0)
    noise = _normal(rows, CLASSES, 1)
    y = (3 * WIDTH**-0.5 * x @ _normal(WIDTH, CLASSES, 2) + noise).argmax(1)
    decay = 1 / (strength * rows)

    def ours() -> float:
        fitted = LogisticRegression.fit(lambda: iter([(x, y)]), CLASSES, decay, 1000, 10, TOLERANCE)
        return loss(x, y, fitted.weight, fitted.bias, decay)

    def theirs() -> float:
        fitted = Peer(C=strength, tol=TOLERANCE, max_iter=1000)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # when it has not converged
            fitted.fit(x.numpy(), y.numpy())
        weight, bias = torch.from_numpy(fitted.coef_.T), torch.from_numpy(fitted.intercept_)
        return loss(x, y, weight, bias, decay)

    name = f"logistic regression of {rows} x {WIDTH}, {CLASSES} classes, C {strength:g}"
    return name, ours, "scikit-learn, L-BFGS", theirs


def loss(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, decay: float) -> float:
    """Return mean cross-entropy + decay / 2 |W|^2, which both minimize."""
    logits = torch.addmm(bias.float(), x, weight.float())
    penalty = decay / 2 * weight.double().square().sum()
    return float(torch.nn.functional.cross_entropy(logits, y) + penalty)


def _normal(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
