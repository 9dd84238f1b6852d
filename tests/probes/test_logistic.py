import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression as SklearnLogistic

from vitlab.probes import Features, LogisticProbe
from vitlab.probes.logistic import LinearClassifier, LogisticRegression


def test_the_scale_and_offset_of_a_feature_do_not_matter():
    features = noisy(300)
    moved = Features(1e3 * features.x - 5, features.y)
    found, expected = (LogisticProbe().fit_score(f, f)["top1"] for f in (moved, features))
    assert found == pytest.approx(expected, abs=1)


def test_soft_targets_are_matched_in_the_mean_without_a_random_number():
    before = torch.get_rng_state()
    target = torch.tensor([[0.7, 0.3]]).repeat(50, 1)
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    fitted = LinearClassifier(x, target)
    assert torch.allclose(fitted(torch.zeros(1, 3)).softmax(1), target[:1], atol=1e-2)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("strength", "blocks"), [(1e-6, 1), (1e-2, 3), (1.0, 1), (1e3, 3)])
def test_logistic_regression_is_that_of_scikit_learn(strength, blocks):
    """C weighs the sum of cross-entropies; our decay, the mean."""
    features = noisy(300)
    x, y = features.x, features.y
    size = -(-len(x) // blocks)
    parts = list(zip(x.split(size), y.split(size), strict=True))
    ours = LogisticRegression.fit(lambda: iter(parts), 4, 1 / (strength * len(x)), history=5)
    peer = SklearnLogistic(C=strength, tol=1e-10, max_iter=10_000).fit(
        x.double().numpy(), y.numpy()
    )
    theirs = LogisticRegression(torch.tensor(peer.coef_.T), torch.tensor(peer.intercept_))

    def loss(fitted):
        logits = x.double() @ fitted.weight.double() + fitted.bias.double()
        penalty = fitted.weight.double().square().sum() / (2 * strength * len(x))
        return float(F.cross_entropy(logits, y) + penalty)

    assert loss(ours) == pytest.approx(loss(theirs), rel=1e-6)
    assert torch.allclose(ours.weight.double(), theirs.weight, rtol=2e-3, atol=2e-3)
    centered = [fitted.bias.double() - fitted.bias.double().mean() for fitted in (ours, theirs)]
    assert torch.allclose(*centered, atol=2e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("decay", [1e-2, 1e-5, 1e-8])
def test_correlated_features_converge_to_the_optimum(decay, dtype):
    """Features as an encoder's: a few directions have nearly all of the variance."""
    g = torch.Generator().manual_seed(0)
    spread = torch.logspace(0, -3, 24, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(24, 24, generator=g, dtype=torch.float64)).Q
    x = (torch.randn(2000, 24, generator=g, dtype=torch.float64) * spread) @ rotation
    noise = torch.randn(2000, 5, generator=g)
    y = ((x / spread[5]) @ torch.randn(24, 5, generator=g).double() + 3 * noise).argmax(1)
    fitted = LogisticRegression.fit(lambda: iter([(x.to(dtype), y)]), 5, decay)
    assert fitted.weight.dtype == dtype
    assert fitted.convergence.converged
    assert fitted.convergence.steps < 100
    weight, bias = fitted.weight.double(), fitted.bias.double()
    loss = F.cross_entropy(x @ weight + bias, y) + decay / 2 * weight.square().sum()
    peer = SklearnLogistic(C=1 / (decay * 2000), tol=1e-10, max_iter=1000, solver="newton-cholesky")
    peer.fit(x.numpy(), y.numpy())
    least = F.cross_entropy(x @ torch.tensor(peer.coef_.T) + torch.tensor(peer.intercept_), y)
    least += decay / 2 * float(np.square(peer.coef_).sum())
    assert -1e-9 < float(loss - least) < 1e-6


def test_a_fit_that_does_not_converge_is_named():
    features = noisy(300)
    fitted = LogisticRegression.fit(lambda: iter([(features.x, features.y)]), 4, 1e-5, limit=2)
    assert fitted.convergence.steps == 2
    assert not fitted.convergence.converged
    assert "NOT CONVERGED after 2 steps" in str(fitted.convergence)
    target = F.one_hot(features.y, 4).float()
    with pytest.warns(UserWarning, match="NOT CONVERGED"):
        LinearClassifier(features.x, target, 1e-5, tolerance=1e-30)


def test_dependent_and_constant_features_and_no_decay_converge():
    features = noisy(300)
    x = torch.cat([features.x, features.x[:, :2], torch.zeros(300, 2)], 1)
    for scale, decay in ((1.0, 0.0), (1e3, 1e-5), (1e-3, 1e-5)):
        fitted = LogisticRegression.fit(lambda x=scale * x: iter([(x, features.y)]), 4, decay)
        assert fitted.convergence.converged
        assert fitted.weight.isfinite().all()


def noisy(count):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 6, generator=generator)
    noise = 2 * torch.randn(count, 4, generator=generator)
    return Features(x, (x @ torch.randn(6, 4, generator=generator) + noise).argmax(1))
