import pytest
import torch

from benchmarks import dino as bench
from vitlab.data.batch import Batch
from vitlab.encoders import ViT
from vitlab.objectives import DINO, DINOHeadConfig


def test_the_peer_computes_the_same_steps_and_others_are_noticed():
    torch.manual_seed(0)
    dino = DINO(ViT("nano", 8, 32), DINOHeadConfig(24, 40, 16))
    views = [torch.randn(2, 3, 3, 32, 32), torch.randn(4, 3, 3, 16, 16)]
    compared = bench.sides(dino, Batch(views))
    for _ in range(4):
        for side in compared.values():
            side()
    bench.check(compared)
    theirs, ours, half = compared.values()
    assert len(set(ours.losses)) == 4  # it learns
    assert half.losses == pytest.approx(ours.losses, rel=0.05)
    assert theirs.stages.keys() == ours.stages.keys() == half.stages.keys()
    torch.testing.assert_close(ours.dino.center, theirs.dino.center, rtol=1e-4, atol=1e-6)
    teachers = (side.dino.teacher.parameters() for side in (ours, theirs))
    for mine, other in zip(*teachers, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
    ours.losses[-1] += 1e-3
    with pytest.raises(AssertionError, match="losses"):
        bench.check(compared)


def test_the_loss_and_its_peer_have_equal_gradients():
    torch.manual_seed(0)
    _, ours, _, theirs = bench.loss()
    cells = [cell.cell_contents for cell in ours.__closure__ or ()]
    (student,) = [x for x in cells if isinstance(x, torch.Tensor) and x.requires_grad]
    gradients = []
    for call in (ours, theirs):
        student.grad = None
        call()
        gradients.append(student.grad.clone())
    assert torch.allclose(*gradients, rtol=1e-4)
