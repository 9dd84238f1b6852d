import numpy as np
import torch
from sklearn.preprocessing import StandardScaler as SklearnScaler

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
