import numpy as np
import torch
from sklearn.preprocessing import StandardScaler as SklearnScaler

from vitlab.probes.logistic import LinearClassifier
from vitlab.probes.scaler import StandardScaler


def test_it_is_that_of_scikit_learn_whatever_the_memory():
    x = 3 * torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(0)) + 7
    x[..., 2] = 0.7
    peer = SklearnScaler().fit(x[[0, 3]].flatten(0, 1).double().numpy())
    for memory in (10, 10**6):
        scaler = StandardScaler.fit(x, torch.tensor([0, 3]), memory)
        assert np.allclose(scaler.mean, peer.mean_, rtol=1e-6)
        expected = peer.transform(x[1].double().numpy())
        assert np.allclose(scaler(x[1]), expected, atol=1e-4)


def test_the_linear_classifier_standardizes_by_its_training_rows():
    x = 3 * torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) + 7
    classifier = LinearClassifier(x, torch.eye(2)[torch.arange(50) % 2], steps=2)
    standardized = (x - x.mean(0)) / x.std(0)
    assert torch.equal(classifier(x), standardized @ classifier.weight + classifier.bias)
