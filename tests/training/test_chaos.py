"""The chaos test in short; `make chaos` is the long one."""

from pathlib import Path

import pytest
import torch
from chaos import chaos
from runs import differences


@pytest.mark.slow
def test_a_run_of_two_ranks_survives_random_stops_and_damage(tmp_path: Path):
    chaos(tmp_path, seed=1, stops=2, epochs=8)


def test_a_difference_of_a_bit_is_found_and_named():
    ours = {"w": [torch.tensor(1.0)], "n": 3}
    assert not differences(ours, {"w": [torch.tensor(1.0)], "n": 3})
    assert differences(ours, {"w": [torch.tensor(1 + 1e-7)], "n": 3}) == [".w[0]"]
    assert differences(ours, {"w": [torch.tensor(1.0)], "n": 4}, "x") == ["x.n"]
    for theirs in ({"w": ours["w"]}, {**ours, "w": []}, {**ours, "n": 3.0}, None):
        assert differences(ours, theirs)
