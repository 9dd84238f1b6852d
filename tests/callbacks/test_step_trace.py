"""A step taken again shows where numbers stop being finite."""

import pytest
import torch
from torch import nn

from vitlab.callbacks.step_trace import look, same, trace_step
from vitlab.data.batch import Batch
from vitlab.encoders import ViT
from vitlab.objectives import DINO, DINOHeadConfig, Loss, Objective
from vitlab.optim.schedules import Progress

PROGRESS = Progress(step=1, steps=10, epochs=1, batch_size=4)


class Root(nn.Module):
    """x -> sqrt(x), whose slope at 0 is infinite."""

    def forward(self, x):
        return x.sqrt()


class Toy(Objective):
    """A mean of roots of the products with a weight."""

    def __init__(self, weight=1.0):
        super().__init__()
        self.first = nn.Linear(1, 1, bias=False)
        self.root = Root()
        nn.init.constant_(self.first.weight, weight)

    @property
    def encoder(self):
        raise NotImplementedError

    def loss(self, batch, progress):
        values = batch.views[0].mean((-1, -2, -3))[0][:, None]
        return Loss(self.root(self.first(values)).mean() + torch.rand(()))


def batch_of(value=1.0, size=2):
    return Batch([torch.full((1, 4, 3, size, size), value)])


def step(objective, batch, **options):
    return trace_step(objective, batch, PROGRESS, seed=3, **options)


def small():
    torch.manual_seed(0)
    encoder = ViT("nano", patch_size=8, img_size=16)
    return DINO(encoder, DINOHeadConfig(out_dim=16, hidden_dim=16, bottleneck_dim=8))


def views():
    generator = torch.Generator().manual_seed(0)
    return Batch([torch.randn(2, 4, 3, 16, 16, generator=generator)])


def test_a_healthy_step_is_finite_throughout_and_twice_the_same():
    once, again = step(small(), views()), step(small(), views())
    assert once.first is None
    assert once.loss == again.loss
    assert all(map(same, once.seen, again.seen))
    assert len(once.seen) == len(again.seen)


def test_the_loss_is_that_of_the_objective_and_its_gradients_are_left_alone():
    objective, batch = small(), views()
    found = step(objective, batch)
    torch.manual_seed(3)
    value = objective.loss(batch, PROGRESS).value
    assert found.loss == value.item()
    assert all(parameter.grad is None for parameter in objective.parameters())
    value.backward()
    norms = [p.grad.norm() for p in objective.parameters() if p.grad is not None]
    seen = found.seen[-1]
    assert seen.kind == "gradient"
    assert seen.high == pytest.approx(torch.stack(norms).norm().item(), rel=1e-6)


def test_an_image_that_is_not_finite_comes_before_all_it_spoils():
    batch = batch_of()
    batch.views[0][0, 2, 1, 0, 1] = torch.nan
    first = step(Toy(), batch).first
    assert (first.kind, first.name, first.wrong, first.shape) == (
        "image",
        "views.0",
        1,
        (1, 4, 3, 2, 2),
    )


def test_a_weight_that_is_not_finite_is_named():
    objective = small()
    with torch.no_grad():
        objective.student.encoder.blocks[1].mlp.fc1.weight[2, 3] = torch.inf
    first = step(objective, views()).first
    assert (first.kind, first.wrong) == ("weight", 1)
    assert first.name == "student.encoder.blocks.1.mlp.fc1.weight"


def test_the_first_module_that_overflows_is_named_with_the_largest_number_before():
    objective = small()
    with torch.no_grad():
        objective.student.encoder.blocks[1].mlp.fc1.weight.fill_(3e38)
    found = step(objective, views())
    assert (found.first.kind, found.first.name) == (
        "output",
        "student.encoder.blocks.1.mlp.fc1",
    )
    assert found.largest_before.largest < 1e3
    assert "the output of student" in str(found.first)


def test_a_gradient_may_be_infinite_behind_a_finite_loss():
    found = step(Toy(0.0), batch_of())
    assert found.loss == pytest.approx(float(torch.rand(1, generator=seeded())), abs=1e-6)
    assert (found.first.kind, found.first.name) == ("gradient", "first")
    before = found.largest_before
    assert before is None or before.kind == "gradient"  # no output, which is of another size
    assert step(Toy(4.0), batch_of()).first is None


def seeded():
    return torch.Generator().manual_seed(3)


def test_half_precision_overflows_where_single_does_not():
    class Wide(Toy):
        def loss(self, batch, progress):
            values = batch.views[0].mean((-1, -2, -3))[0][:, None]
            return Loss(self.first(values).float().mean())

    def half():
        return torch.autocast("cpu", torch.float16)

    assert step(Wide(1e4), batch_of(100.0)).first is None
    assert step(Wide(1e4), batch_of(100.0), context=half).first.name == "first"


def test_what_is_noted_of_a_tensor():
    seen = look("output", "x", torch.tensor([[1.0, -5.0], [torch.nan, -torch.inf]]))
    assert (seen.wrong, seen.low, seen.high, seen.largest) == (2, -5.0, 1.0, 5.0)
    nothing = look("output", "x", torch.full((2,), torch.nan))
    assert (nothing.wrong, nothing.low, nothing.high) == (2, 0.0, 0.0)
    assert not same(seen, nothing)
