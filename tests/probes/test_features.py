"""Tables of features: order, evaluation mode, finiteness, standardization, labeled patches."""

import numpy as np
import torch
from refusals import refused
from sklearn.preprocessing import StandardScaler as SklearnScaler
from torch.utils.data import TensorDataset

from vitlab.encoders import Pixels, ViT
from vitlab.probes import InferenceConfig, image_features
from vitlab.probes.features import FinitenessMonitor, StandardScaler, check_finite, eval_mode
from vitlab.probes.patch_dataset import PatchDataset, patchify, unpatchify

CPU = torch.device("cpu")


def test_features_come_in_the_order_of_the_images_and_draw_nothing():
    images = TensorDataset(torch.rand(7, 3, 16, 16), torch.arange(7))
    before = torch.get_rng_state()
    table = image_features(Pixels(8), images, InferenceConfig(CPU, batch_size=3))
    assert table.y.tolist() == list(range(7))
    assert torch.equal(table.x, Pixels(8)(images.tensors[0]).cls)
    assert torch.equal(before, torch.get_rng_state())


def test_evaluation_mode_is_left_as_it_was_entered():
    model = ViT("nano", 8, 16, drop_path=0.5).train()
    before = torch.get_rng_state()
    with eval_mode(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
        torch.rand(3)
    assert model.training
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)


def test_one_value_that_is_not_finite_is_enough():
    x = torch.full((3, 4, 5), 3e38)  # whose sum overflows in fp32
    check_finite(x, x)
    monitor = FinitenessMonitor(CPU)
    assert monitor.observe(x) is x
    assert monitor.finite()
    for bad in (torch.nan, torch.inf, -torch.inf):
        y = x.clone()
        y[1, 2, 3] = bad
        scaler = StandardScaler.fit(y, torch.tensor([0, 2]), 10**6)
        patches = PatchDataset(y, torch.zeros(3, 8, 8).byte(), torch.arange(3), scaler, 2)
        for use in (
            lambda y=y: check_finite(x, y),
            lambda y=y: StandardScaler.fit(y, torch.arange(3), 10**6),
            lambda patches=patches: list(patches.blocks(10**6, CPU)),
        ):
            with refused("features"):
                use()
        monitor.observe(y)
    monitor.observe(x)
    assert not monitor.finite()


def test_the_scaler_is_that_of_scikit_learn_whatever_the_memory():
    x = 3 * torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(0)) + 7
    x[..., 2] = 0.7
    peer = SklearnScaler().fit(x[[0, 3]].flatten(0, 1).double().numpy())
    for memory in (10, 10**6):
        scaler = StandardScaler.fit(x, torch.tensor([0, 3]), memory)
        assert np.allclose(scaler.mean, peer.mean_, rtol=1e-6)
        expected = peer.transform(x[1].double().numpy())
        assert np.allclose(scaler(x[1]), expected, atol=1e-4)


def test_patches_of_masks_go_back_where_they_were():
    mask = torch.arange(64, dtype=torch.uint8).view(8, 8)
    assert torch.equal(unpatchify(patchify(mask, (2, 2)), (2, 2), 8), mask)
    found = unpatchify(torch.tensor([[1], [2], [3], [4]]), (2, 2), 4)
    assert found.tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    void, standard = (
        torch.full((2, 8, 8), 255).byte(),
        StandardScaler(torch.zeros(3), torch.ones(3)),
    )
    with refused("data"):
        PatchDataset(torch.zeros(2, 4, 3), void, torch.arange(2), standard, 2)
