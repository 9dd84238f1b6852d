import pytest
import torch
from refusals import refused

from vitlab.probes.finiteness import FinitenessMonitor, check_finite
from vitlab.probes.patch_dataset import PatchDataset, StandardScaler


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_one_bad_value_is_enough(bad: float):
    x = torch.full((3, 4), 3e38)  # whose sum overflows in fp32
    check_finite(x, x)
    y = x.clone()
    y[1, 2] = bad
    with refused("features"):
        check_finite(x, y)
    monitor = FinitenessMonitor(torch.device("cpu"))
    assert monitor.observe(x) is x
    assert monitor.finite()
    monitor.observe(y)
    monitor.observe(x)
    assert not monitor.finite()


def test_scaler_and_patches_refuse_them():
    x = torch.randn(3, 4, 5)
    x[1, 2, 3] = torch.nan
    with refused("features"):
        StandardScaler.fit(x, torch.arange(3), 10**6)
    scaler = StandardScaler.fit(x, torch.tensor([0, 2]), 10**6)
    patches = PatchDataset(x, torch.zeros(3, 8, 8, dtype=torch.uint8), torch.arange(3), scaler, 2)
    with refused("features"):
        list(patches.blocks(10**6, torch.device("cpu")))
