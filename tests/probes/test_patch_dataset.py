import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler as SklearnScaler

from vitlab.probes.patch_dataset import PatchDataset, StandardScaler, patchify, unpatchify


def test_standardizing_is_scikit_learns():
    x = torch.randn(4, 9, 5, generator=torch.Generator().manual_seed(0)) * 3 + 100
    x[..., 2] = 0.1  # constant
    standard = StandardScaler.fit(x, torch.tensor([0, 3]), memory=10)
    scale = SklearnScaler().fit(x[[0, 3]].flatten(0, 1).double().numpy())
    assert np.allclose(standard.mean, scale.mean_, rtol=1e-6)
    assert np.allclose(standard.std, scale.scale_, rtol=1e-5)


def test_patches_of_masks_go_back_where_they_were():
    mask = torch.arange(64, dtype=torch.uint8).view(8, 8)
    assert torch.equal(unpatchify(patchify(mask, (2, 2)), (2, 2), 8), mask)
    found = unpatchify(torch.tensor([[1], [2], [3], [4]]), (2, 2), 4)
    assert found.tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]


def test_patches_without_any_label_are_refused():
    masks = torch.full((2, 8, 8), 255, dtype=torch.uint8)
    standard = StandardScaler(torch.zeros(3), torch.ones(3))
    with pytest.raises(ValueError, match="nothing to learn from"):
        PatchDataset(torch.zeros(2, 4, 3), masks, torch.arange(2), standard, 2)
