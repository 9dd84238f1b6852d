import pytest
import torch

from benchmarks import dino as bench
from vitlab.data.batch import Batch
from vitlab.encoders import ViT
from vitlab.objectives import DINO, DINOHeadConfig


@pytest.fixture
def compared():
    torch.manual_seed(0)
    dino = DINO(ViT("nano", 8, 32), DINOHeadConfig(24, 40, 16))
    return bench.sides(dino, Batch([torch.randn(2, 3, 3, 32, 32), torch.randn(4, 3, 3, 16, 16)]))


def test_the_peer_computes_the_same_steps(compared):
    for _ in range(4):
        for side in compared.values():
            side()
    bench.check(compared)
    theirs, ours, half = compared.values()
    assert len(ours.losses) == 4
    assert len(set(ours.losses)) == 4  # it learns
    assert half.losses == pytest.approx(ours.losses, rel=0.05)
    torch.testing.assert_close(ours.dino.center, theirs.dino.center, rtol=1e-4, atol=1e-6)
    for mine, other in zip(
        ours.dino.teacher.parameters(), theirs.dino.teacher.parameters(), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_other_losses_than_the_peers_are_noticed(compared):
    for side in compared.values():
        side()
    compared["ours, fp32"].losses[-1] += 1e-3
    with pytest.raises(AssertionError, match="losses"):
        bench.check(compared)


def test_all_stages_are_measured(compared):
    for side in compared.values():
        side()
    names = [list(side.stages) for side in compared.values()]
    assert names[0] == names[1] == names[2]
    table = bench.stages(compared)
    assert [*table.columns[0].cells] == [
        *("teacher forward", "student forward", "loss", "backward"),
        *("clip", "optimizer", "teacher update"),
    ]
