"""Schedules: those of DINO (facebookresearch/dino at 7c446df), timm and torch."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import refused
from timm.scheduler import CosineLRScheduler

from vitlab.optim.lr_schedule import LRSchedule
from vitlab.optim.schedules import Cosine, Progress, Ramp

STEPS, EPOCHS = 120, 12  # ten steps each


def values(schedule: LRSchedule, peak: float, final: float, warmup: int) -> list[float]:
    return [schedule(Progress(s, STEPS, EPOCHS, 256), peak, final, warmup) for s in range(STEPS)]


def optimizer(lr: float):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def test_the_default_is_dinos_to_the_bit():
    plain = Cosine(5e-4, 1e-6, 3)
    for step, lr in enumerate(values(LRSchedule(), 5e-4, 1e-6, 3)):
        assert lr == plain(Progress(step, STEPS, EPOCHS, 256))


def test_timms_shape_is_that_of_its_scheduler_for_each_update():
    options = {"lr_min": 1e-5, "warmup_t": 20, "warmup_lr_init": 1e-6, "t_in_epochs": False}
    theirs = CosineLRScheduler(optimizer(1e-3), t_initial=STEPS, **options)
    ours = values(LRSchedule("timm", warmup_lr=1e-6, cooldown_epochs=2), 1e-3, 1e-5, 2)
    for step, lr in enumerate(ours[:100]):
        assert lr == pytest.approx(theirs._get_lr(step)[0], rel=1e-9), step
    assert ours[100:] == [1e-5] * 20


def test_the_linear_shape_is_locatvits():
    """Its OneCycleScheduler by updates: t updates after start, with the peak at `critical`."""
    critical, start, peak, end = 3 * STEPS // EPOCHS, 1e-7, 1e-3, 2e-7
    up = [start + t * (peak - start) / critical for t in range(critical)]
    down = [peak - t * (peak - end) / (STEPS - critical) for t in range(STEPS - critical)]
    ours = values(LRSchedule("linear", warmup_lr=start), peak, end, 3)
    assert ours == pytest.approx([*up, *down], rel=1e-12)


def test_warm_up_peak_and_bad_settings():
    ours = values(LRSchedule(warmup_lr=1e-6), 1e-3, 0.0, 3)
    assert ours[0] == 1e-6
    assert ours[29] == ours[30] == 1e-3
    assert LRSchedule().peak(5e-4, 512) == 5e-4 * 512 / 256
    assert LRSchedule(base_batch_size=512).peak(5e-4, 1024) == 1e-3
    assert LRSchedule(base_batch_size=0).peak(4e-3, 2048) == 4e-3
    for name in ("warmup_lr", "cooldown_epochs", "base_batch_size"):
        with refused(f"model.optimizer.lr_schedule.{name}"):
            LRSchedule(**{name: -1})


INFO = json.loads((Path(__file__).parents[1] / "references/dino.json").read_text())
LR, DECAY = Cosine(1e-3, 1e-6, warmup_epochs=10), Cosine(0.04, 0.4)


def at(step, steps=500_400, epochs=200, batch_size=512):
    return Progress(step, steps, epochs, batch_size)


def test_values_are_dinos():
    for schedule, name in ((LR, "rate"), (DECAY, "decay")):
        for step, value in INFO["schedules"][name].items():
            assert schedule(at(int(step))) == pytest.approx(value, rel=1e-12, abs=1e-18), step


def test_the_ramp_is_dinos_with_one_value_for_each_epoch():
    ramp = Ramp(0.04, 0.07, 30)
    values = [ramp(at(epoch * 7, 40 * 7, 40)) for epoch in range(40)]
    assert values == pytest.approx(INFO["temperature"], abs=1e-15)
    values = [ramp(at(epoch * 2502)) for epoch in (0, 10, 20, 29, 30, 199)]
    assert values == pytest.approx([0.04, 0.0503448276, 0.0606896552, 0.07, 0.07, 0.07], abs=1e-10)
    assert len({Ramp(0.04, 0.07, 5)(at(step, 70, 10)) for step in range(7, 14)}) == 1
    for epochs in range(5):  # numpy's linspace, then the end, as in DINO's loss
        expected = [*np.linspace(0.04, 0.07, epochs), *[0.07] * (5 - epochs)]
        ours = [Ramp(0.04, 0.07, epochs)(at(epoch * 7, 35, 5)) for epoch in range(5)]
        assert ours == pytest.approx(expected, abs=1e-15), epochs


def test_epochs_and_short_runs():
    assert [at(step, 30, 3).epoch for step in (0, 9, 10, 29, 30)] == [0, 0, 1, 2, 3]
    assert at(0).steps_in(10) == 25_020
    for warmup in (0, 1, 3):  # one step per epoch
        values = [Cosine(1.0, 0.1, warmup)(at(step, 3, 3)) for step in range(3)]
        assert all(0 <= value <= 1 for value in values)
        assert values[min(warmup, 2)] == pytest.approx(1.0)
