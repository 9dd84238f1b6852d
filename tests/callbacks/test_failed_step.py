"""A step taken again shows where numbers stop being finite."""

import pytest
import torch
from torch import nn

from vitlab.callbacks.failed_step import first_wrong, largest_before, look, trace_step
from vitlab.data.batch import Batch
from vitlab.encoders import ViT
from vitlab.objectives import DINO, DINOHeadConfig, Loss, Objective
from vitlab.optim.schedules import Progress

PROGRESS = Progress(step=1, steps=10, epochs=1, batch_size=4)
FC1 = "student.encoder.blocks.1.mlp.fc1"


class Root(nn.Module):
    """x -> sqrt(x), whose slope at 0 is infinite."""

    def forward(self, x):
        return x.sqrt()


class Toy(Objective):
    """A mean of roots of the products with a weight."""

    def __init__(self, weight):
        super().__init__()
        self.first = nn.Linear(1, 1, bias=False)
        self.root = Root()
        nn.init.constant_(self.first.weight, weight)

    @property
    def encoder(self):
        raise NotImplementedError

    def loss(self, batch, progress):
        values = batch.views[0].mean((-1, -2, -3))[0][:, None]
        return Loss(self.root(self.first(values)).float().mean() + torch.rand(()))


def toy_step(weight, value=1.0, **options):
    batch = Batch([torch.full((1, 4, 3, 2, 2), value)])
    return trace_step(Toy(weight), batch, PROGRESS, 3, **options)


def dino(weight=None):
    """A small DINO, of which one matrix may have a number planted, and its batch."""
    torch.manual_seed(0)
    encoder = ViT("nano", patch_size=8, img_size=16, drop_path=0.5)
    objective = DINO(encoder, DINOHeadConfig(out_dim=16, hidden_dim=16, bottleneck_dim=8))
    if weight is not None:
        nn.init.constant_(objective.get_submodule(FC1).weight[2:3], weight)
    return objective, Batch([torch.randn(2, 4, 3, 16, 16)])


def test_a_healthy_step_is_finite_twice_the_same_and_leaves_gradients_alone():
    objective, batch = dino()
    once, again = (trace_step(objective, batch, PROGRESS, 3) for _ in range(2))
    assert first_wrong(once) is None
    assert once == again
    assert all(parameter.grad is None for parameter in objective.parameters())
    torch.manual_seed(3)
    value = objective.loss(batch, PROGRESS).value
    assert [one.low for one in once if one.kind == "loss"] == [value.item()]
    value.backward()
    norms = [p.grad.norm() for p in objective.parameters() if p.grad is not None]
    assert once[-1].kind == "gradient"
    assert once[-1].high == pytest.approx(torch.stack(norms).norm().item(), rel=1e-6)


def test_the_first_that_is_not_finite_is_named_before_all_it_spoils():
    """An image, a weight, an output; of the last, with the largest number before."""
    objective, batch = dino()
    batch.views[0][0, 2, 1, 0, 1] = torch.nan
    first = first_wrong(trace_step(objective, batch, PROGRESS, 3))
    assert (first.kind, first.name, first.wrong) == ("image", "views.0", 1)
    assert first.shape == (2, 4, 3, 16, 16)
    first = first_wrong(trace_step(*dino(torch.inf), PROGRESS, 3))
    assert (first.kind, first.name, first.wrong) == ("weight", f"{FC1}.weight", 128)
    seen = trace_step(*dino(3e38), PROGRESS, 3)
    first = first_wrong(seen)
    assert (first.kind, first.name) == ("output", FC1)
    assert 1 < largest_before(seen).largest < 1e3
    assert str(first) == f"the output of {FC1}"


def test_a_gradient_may_be_infinite_behind_a_finite_loss():
    seen = toy_step(0.0)
    first = first_wrong(seen)
    assert (first.kind, first.name) == ("gradient", "first")
    before = largest_before(seen)
    assert before is None or before.kind == "gradient"  # no output, which is of another size
    assert first_wrong(toy_step(4.0)) is None


def test_precision_and_scale_are_those_of_the_run():
    def half():
        return torch.autocast("cpu", torch.float16)

    assert first_wrong(toy_step(1e4, 100.0)) is None
    assert first_wrong(toy_step(1e4, 100.0, context=half)).name == "first"
    assert toy_step(4.0, scale=8.0)[-1].high == 8 * toy_step(4.0)[-1].high


def test_what_is_noted_of_a_tensor():
    seen = look("output", "x", torch.tensor([[1.0, -5.0], [torch.nan, -torch.inf]]))
    assert (seen.wrong, seen.low, seen.high, seen.largest) == (2, -5.0, 1.0, 5.0)
    nothing = look("output", "x", torch.full((2,), torch.nan))
    assert (nothing.wrong, nothing.low, nothing.high) == (2, 0.0, 0.0)
