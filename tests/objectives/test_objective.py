import pytest
import torch

from vitlab.encoders import Pixels
from vitlab.objectives import Loss, Objective
from vitlab.optim.schedules import Progress


class Brightness(Objective):
    """The smallest objective."""

    def __init__(self):
        super().__init__()
        self.pixels = Pixels(16)

    @property
    def encoder(self):
        return self.pixels

    def loss(self, batch, progress):
        return Loss(self.pixels(batch.views[0][0]).cls.mean())


def test_an_objective_needs_an_encoder_and_a_loss():
    with pytest.raises(TypeError, match="abstract"):
        Objective()  # type: ignore[abstract]


def test_everything_else_has_a_neutral_default():
    objective, progress = Brightness(), Progress(0, 1, 1, 1)
    objective.before_step(progress)
    objective.after_step(progress)
    assert objective.schedules(progress) == {}
    assert Loss(torch.zeros(())).logs == {}


def test_image_sizes_are_checked_by_default():
    Brightness().check_crops([(1, 32)])
    with pytest.raises(ValueError, match=r"data\.transform\.size 32 or 48"):
        Brightness().check_crops([(1, 33)])
