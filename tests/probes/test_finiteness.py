import pytest
import torch
from torch.utils.data import TensorDataset

from vitlab.encoders import Pixels
from vitlab.probes import DenseProbe, InferenceConfig
from vitlab.probes.finiteness import FinitenessMonitor, check_finite
from vitlab.probes.patch_dataset import PatchDataset, StandardScaler

BAD = [torch.nan, torch.inf, -torch.inf]


@pytest.mark.parametrize("bad", BAD)
def test_one_bad_value_is_enough(bad: float):
    x = torch.full((3, 4), 3e38)  # whose sum overflows in fp32
    check_finite(x, x)
    y = x.clone()
    y[1, 2] = bad
    with pytest.raises(ValueError, match="features are not finite"):
        check_finite(x, y)
    watch = FinitenessMonitor(torch.device("cpu"))
    assert watch.see(x) is x
    assert watch.finite()
    watch.see(y)
    watch.see(x)
    assert not watch.finite()


@pytest.mark.parametrize("bad", BAD)
def test_a_bank_refuses_them(bad: float):
    x = torch.randn(3, 4, 5)
    x[1, 2, 3] = bad
    with pytest.raises(ValueError, match="features are not finite"):
        StandardScaler.fit(x, torch.arange(3), 10**6)
    standard = StandardScaler.fit(x, torch.tensor([0, 2]), 10**6)
    bank = PatchDataset(x, torch.zeros(3, 8, 8, dtype=torch.uint8), torch.arange(3), standard, 2)
    with pytest.raises(ValueError, match="features are not finite"):
        list(bank.blocks(10**6, torch.device("cpu")))


def test_the_linear_map_of_patches_refuses_them():
    images, masks = torch.rand(2, 3, 16, 16), torch.zeros(2, 16, 16, dtype=torch.uint8)
    pairs = TensorDataset(images, masks)
    dense, loading = DenseProbe(2), InferenceConfig(torch.device("cpu"))
    classify = dense.fit(Pixels(8), pairs, loading)
    images[1, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="features are not finite"):
        dense.fit(Pixels(8), pairs, loading)
    with pytest.raises(ValueError, match="features are not finite"):
        dense.evaluate(Pixels(8), classify, pairs, loading)
