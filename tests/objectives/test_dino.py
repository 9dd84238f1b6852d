"""DINO, against facebookresearch/dino at 7c446df and against its own definition."""

import json
import math
from pathlib import Path

import pytest
import torch
from refusals import refused
from torch import nn

from vitlab.data.batch import Batch
from vitlab.encoders import ViT
from vitlab.objectives import DINO, DINOHeadConfig
from vitlab.objectives.dino import sinkhorn_knopp
from vitlab.optim.schedules import Cosine, Progress, Ramp

INFO = json.loads((Path(__file__).parents[1] / "references/dino.json").read_text())
START = Progress(step=0, steps=6, epochs=3, batch_size=512)


class FixedBranch(nn.Module):
    """A branch with given logits."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(1))

    def forward(self, views):
        return self.logits


def fixed(build, student, teacher):
    """DINO whose branches have these logits."""
    dino = build()
    dino.student, dino.teacher = FixedBranch(), FixedBranch()
    dino.student.logits.data, dino.teacher.logits.data = student, teacher
    dino.center = torch.zeros(1, student.shape[-1])
    return dino


def gradients(dino):
    return {name: p.grad for name, p in dino.student.named_parameters() if p.grad is not None}


def test_loss_and_center_are_dinos_over_several_epochs(build, reference):
    dino = fixed(build, *torch.zeros(2, 1, 1, 16))
    dino.teacher_temperature, dino.momentum = Ramp(0.04, 0.07, 3), 0.0
    for epoch in range(5):
        dino.student.logits.data = reference["loss.student"][epoch].unflatten(0, (5, 4))
        dino.teacher.logits.data = reference["loss.teacher"][epoch].unflatten(0, (2, 4))
        progress = Progress(epoch, steps=5, epochs=5, batch_size=512)
        value = dino.loss(Batch([]), progress).value
        torch.testing.assert_close(value, reference["loss.value"][epoch], rtol=1e-6, atol=0)
        dino.student.logits.data = dino.teacher.logits.data  # so that the average may be taken
        dino.after_step(progress)
        torch.testing.assert_close(dino.center[0], reference["loss.center"][epoch, 0])


@pytest.mark.parametrize("batch_size", [256, 512, 1024, 1000])
def test_six_steps_of_training_are_dinos(reference, batch_size):
    """Loss and center of every step, then the teacher; the steps are made as in DINO's loop."""
    dino = DINO(
        ViT("nano", 8, 32, pos_interpolation="dino"),
        DINOHeadConfig(24, 40, 16),
        teacher_temperature=Ramp(0.04, 0.07, 2),
        momentum=0.9,
    )
    for part, prefix in (("encoder", "vit.state."), ("head", "head.state.")):
        state = {k[len(prefix) :]: v for k, v in reference.items() if k.startswith(prefix)}
        if part == "head":
            state["last_layer.weight_g"] = torch.ones(24, 1)
        for branch in (dino.student, dino.teacher):
            branch.get_submodule(part).load_state_dict(state)
    named = dict(dino.student.named_parameters())
    decayed, undecayed = (
        [named[name.replace("backbone.", "encoder.")] for name in INFO["groups"][group]]
        for group in ("decayed", "undecayed")
    )
    groups: list[dict] = [{"params": decayed}, {"params": undecayed, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups)
    batch = Batch([reference["train.large"], reference["train.small"]])
    for step in range(6):
        progress = Progress(step, steps=6, epochs=3, batch_size=batch_size)
        for group in optimizer.param_groups:
            group["lr"] = Cosine(5e-3, 1e-6, warmup_epochs=1)(progress)
        optimizer.param_groups[0]["weight_decay"] = Cosine(0.04, 0.4)(progress)
        value = dino.loss(batch, progress).value
        torch.testing.assert_close(value.detach(), reference["train.loss"][step], rtol=2e-4, atol=0)
        optimizer.zero_grad()
        value.backward()
        for parameter in named.values():
            if parameter.grad is not None:
                nn.utils.clip_grad_norm_([parameter], 0.1)
        dino.before_step(progress)
        optimizer.step()
        dino.after_step(progress)
        torch.testing.assert_close(dino.center, reference["train.center"][step], rtol=0, atol=1e-4)
    logits = dino.teacher(batch.views[:1]).flatten(0, 1)
    torch.testing.assert_close(logits, reference["train.teacher_logits"], rtol=0, atol=1e-3)


def test_sinkhorn_knopp_is_dinov2s_and_uses_all_prototypes():
    logits = torch.tensor([[0.1, 0, -0.1], [0.1, 0.05, 0], [0.2, 0, 0.1], [0.1, 0.1, 0.1]]).double()
    expected = [
        [0.487532902, 0.395946682, 0.116520416],
        [0.273502671, 0.453737527, 0.272759802],
        [0.456222092, 0.088794976, 0.454982933],
        [0.116955520, 0.396345746, 0.486698734],
    ]
    found = sinkhorn_knopp(logits / 0.07)
    torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(sinkhorn_knopp(logits / 0.07 + 1e4), found)
    assert torch.equal(sinkhorn_knopp(torch.zeros(5, 4)), torch.full((5, 4), 0.25))
    # at a temperature where exp overflows
    sharp = sinkhorn_knopp(torch.randn(64, 4) / 0.01, iterations=100)
    torch.testing.assert_close(sharp.sum(1), torch.ones(64))
    torch.testing.assert_close(sharp.sum(0), torch.full((4,), 16.0), rtol=0.2, atol=0)


def test_with_sinkhorn_knopp_no_center_moves(build, batch):
    dino = build(centering="sinkhorn_knopp")
    before = dino.loss(batch, START)
    dino.after_step(START)
    assert not dino.center.any()
    assert before.logs["teacher/prototypes"] > 0.9 * dino.out_dim
    with refused("model.objective.center_momentum"):
        build(centering="sinkhorn_knopp", center_momentum=0.5)


def test_only_the_student_gets_gradients_and_the_logs_add_up(build, batch):
    dino = build()
    assert dino.student(batch.views).shape == (5, 4, 24)
    assert dino.teacher(batch.views[:1]).shape == (2, 4, 24)
    loss = dino.loss(batch, START)
    loss.value.backward()
    assert not any(p.requires_grad or p.grad is not None for p in dino.teacher.parameters())
    frozen = {"head.last_layer.weight_g"}
    assert set(gradients(dino)) == {name for name, _ in dino.student.named_parameters()} - frozen
    assert not any(log.requires_grad for log in loss.logs.values())
    entropy, divergence = loss.logs["teacher/entropy"], loss.logs["teacher/divergence"]
    torch.testing.assert_close(entropy + divergence, loss.value.detach(), rtol=1e-6, atol=0)
    assert 0 < entropy <= math.log(24) + 1e-6
    assert dino.constant_loss == pytest.approx(math.log(24))


def test_the_teacher_is_never_in_training_mode(build, batch):
    for train in (False, True):  # Lightning does not call train()
        dino = build(encoder={"drop_path": 0.9})
        dino = dino.train() if train else dino
        assert dino.student.training
        assert not any(module.training for module in dino.teacher.modules())
        assert dino.teacher(batch.views[:1]).equal(dino.teacher(batch.views[:1]))
        assert not dino.student(batch.views).equal(dino.student(batch.views))
    assert not dino.eval().student.training
    assert dino.encoder is dino.teacher.encoder


@pytest.mark.parametrize("epoch", [0, 1])
def test_the_last_layer_moves_after_the_first_epoch_only(build, batch, epoch):
    dino = build(head={"norm_last_layer": False})
    optimizer = torch.optim.AdamW(dino.student.parameters(), lr=1e-2, weight_decay=0.1)
    progress = Progress(2 * epoch, steps=6, epochs=3, batch_size=512)
    before = {k: v.clone() for k, v in dino.student.state_dict().items()}
    dino.loss(batch, progress).value.backward()
    dino.before_step(progress)
    last_layer = [name for name in before if "last_layer" in name]
    assert [name in gradients(dino) for name in last_layer] == [epoch == 1] * 2
    optimizer.step()
    for name, weight in dino.student.state_dict().items():
        assert weight.equal(before[name]) == (name in last_layer and epoch == 0), name


def test_the_momentum_is_dinos_at_every_batch_size_and_may_keep_its_average_over_images(build):
    dino = build(teacher_temperature=Ramp(0.04, 0.07, 3))
    scaled = build(momentum_batch_size=512)
    values = dino.schedules(Progress(2, steps=6, epochs=3, batch_size=512))
    assert values["teacher/temperature"] == pytest.approx(0.055)
    assert set(values) == {"teacher/momentum", "teacher/temperature"}
    for step, value in INFO["schedules"]["momentum"].items():
        for batch in (512, 1024, 128, 1000):
            progress = Progress(int(step), 500_400, 200, batch)
            assert dino.teacher_momentum(progress) == pytest.approx(value, abs=1e-13)
            expected = value ** (batch / 512)
            assert scaled.teacher_momentum(progress) == pytest.approx(expected, abs=1e-13)


def test_micro_batches_are_one_batch(build, batch):
    """The center moves once for both, and the mean of their gradients is the batch's."""
    whole, parts = build().double(), build().double()
    batch = Batch([stack.double() for stack in batch.views])
    whole.loss(batch, START).value.backward()
    for half in (slice(0, 2), slice(2, 4)):
        part = Batch([stack[:, half] for stack in batch.views])
        (parts.loss(part, START).value / 2).backward()
    expected = gradients(whole)
    for name, gradient in gradients(parts).items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-12)
    for dino in (whole, parts):
        dino.after_step(START)
    torch.testing.assert_close(parts.center, whole.center, rtol=0, atol=1e-15)
    assert whole.center.abs().max() > 1e-4


def test_the_loss_is_found_in_full_precision_under_autocast(build, batch):
    dino = build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = dino.loss(batch, START).value
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(dino.loss(batch, START).value.item(), abs=0.02)


def test_crops_and_settings_it_cannot_use_are_refused(build):
    dino = build()
    dino.check_crops([(2, 32), (8, 16)])
    for crops, option in (([(2, 30), (8, 16)], "size 24"), ([(2, 32), (8, 17)], "local_size 16")):
        with pytest.raises(ValueError, match=rf"data\.transform\.{option}"):
            dino.check_crops(crops)
    with refused("data.transform"):
        dino.check_crops([(1, 32)])
    with refused("model.objective.momentum"):
        build(momentum=1.5)
    with refused("model.objective.momentum_batch_size"):
        build(momentum_batch_size=-1)
