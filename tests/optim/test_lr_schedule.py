"""The way of the learning rate: DINO's as before, timm's and torch's as they are."""

import pytest
import torch
from timm.scheduler import CosineLRScheduler

from vitlab.optim.lr_schedule import LRSchedule
from vitlab.optim.schedules import Cosine, Progress

STEPS, EPOCHS = 120, 12  # ten steps each


def rates(course: LRSchedule, peak: float, final: float, warmup: int) -> list[float]:
    return [
        course(Progress(step, STEPS, EPOCHS, 256), peak, final, warmup) for step in range(STEPS)
    ]


def test_the_default_is_dinos_to_the_bit():
    plain = Cosine(5e-4, 1e-6, 3)
    for step, rate in enumerate(rates(LRSchedule(), 5e-4, 1e-6, 3)):
        assert rate == plain(Progress(step, STEPS, EPOCHS, 256))
    assert LRSchedule().peak(5e-4, 512) == 5e-4 * 512 / 256


def test_timms_course_is_that_of_its_scheduler_for_each_update():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    theirs = CosineLRScheduler(
        optimizer,
        t_initial=STEPS,
        lr_min=1e-5,
        warmup_t=20,
        warmup_lr_init=1e-6,
        t_in_epochs=False,
    )
    ours = rates(LRSchedule("timm", warmup_lr=1e-6, cooldown_epochs=2), 1e-3, 1e-5, 2)
    for step, rate in enumerate(ours[:100]):
        assert rate == pytest.approx(theirs._get_lr(step)[0], rel=1e-9), step
    assert ours[100:] == [1e-5] * 20


def test_the_linear_course_is_torchs_one_cycle():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=1e-3,
        total_steps=STEPS,
        pct_start=3 / EPOCHS,
        anneal_strategy="linear",
        div_factor=1e-3 / 1e-7,
        final_div_factor=1.0,
    )
    for step, rate in enumerate(rates(LRSchedule("linear", warmup_lr=1e-7), 1e-3, 1e-7, 3)):
        assert rate == pytest.approx(theirs.get_last_lr()[0], rel=1e-6), step
        optimizer.step()
        theirs.step()


def test_a_warmup_may_begin_above_zero():
    ours = rates(LRSchedule(warmup_lr=1e-6), 1e-3, 0.0, 3)
    assert ours[0] == 1e-6
    assert ours[29] == ours[30] == 1e-3


def test_the_peak_follows_the_batch_it_is_stated_for():
    assert LRSchedule(base_batch_size=512).peak(5e-4, 1024) == 1e-3
    assert LRSchedule(base_batch_size=0).peak(4e-3, 2048) == 4e-3


@pytest.mark.parametrize("name", ["warmup_lr", "cooldown_epochs", "base_batch_size"])
def test_negative_settings_are_refused(name):
    with pytest.raises(ValueError, match=f"lr_schedule.{name} -1"):
        LRSchedule(**{name: -1})
