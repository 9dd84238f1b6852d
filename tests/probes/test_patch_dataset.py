import pytest
import torch

from vitlab.probes.patch_dataset import PatchDataset, StandardScaler, patchify, unpatchify


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
