import torch

from benchmarks.analysis import ARMS, Analysis, table
from vitlab.encoders import ViT


def test_every_arm_is_measured_against_its_own_forward_pass():
    found = table(1, "nano", 32, 2, torch.device("cpu"))
    assert list(found.columns[0].cells) == list(ARMS)
    for forward, ratio in zip(found.columns[1].cells, found.columns[3].cells, strict=True):
        assert float(forward) >= 0
        assert float(ratio) > 0


def test_all_images_are_seen():
    analysis = Analysis(
        ViT("nano", 16, 32).eval(), torch.randn(5, 3, 32, 32), torch.zeros(5, 32, 32).byte()
    )
    analysis.step = 2
    analysis.all()
    assert analysis.engine.accumulator.images == 5
