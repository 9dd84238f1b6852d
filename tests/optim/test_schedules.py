"""Facts 7 to 9 of the DINO specification, and schedules of facebookresearch/dino at 7c446df."""

import json
from pathlib import Path
from statistics import fmean

import pytest

from vitlab.optim.schedules import Cosine, Progress, Ramp

INFO = json.loads((Path(__file__).parents[1] / "references/dino.json").read_text())
LR, DECAY = Cosine(1e-3, 1e-6, warmup_epochs=10), Cosine(0.04, 0.4)


def at(step, steps=500_400, epochs=200, batch_size=512):
    return Progress(step, steps, epochs, batch_size)


def test_values_are_dinos():
    for schedule, name in ((LR, "rate"), (DECAY, "decay")):
        for step, value in INFO["schedules"][name].items():
            assert schedule(at(int(step))) == pytest.approx(value, rel=1e-12, abs=1e-18), step


def test_means_over_an_epoch_are_those_of_published_logs():
    for epoch, lr, decay in (
        (0, 4.99820136696111e-05, 0.04002958960483862),
        (1, 1.4998601063192e-04, 0.0402071631725534),
        (49, 5.958076746498748e-04, 0.2171716692678110),
    ):
        steps = [at(step, 250_200, 100) for step in range(epoch * 2502, (epoch + 1) * 2502)]
        assert fmean(map(LR, steps)) == pytest.approx(lr, rel=1e-13)
        assert fmean(map(DECAY, steps)) == pytest.approx(decay, rel=1e-13)


def test_the_ramp_is_dinos_with_one_value_for_each_epoch():
    ramp = Ramp(0.04, 0.07, 30)
    values = [ramp(at(epoch * 7, 40 * 7, 40)) for epoch in range(40)]
    assert values == pytest.approx(INFO["temperature"], abs=1e-15)
    values = [ramp(at(epoch * 2502)) for epoch in (0, 10, 20, 29, 30, 199)]
    assert values == pytest.approx([0.04, 0.0503448276, 0.0606896552, 0.07, 0.07, 0.07], abs=1e-10)
    assert len({Ramp(0.04, 0.07, 5)(at(step, 70, 10)) for step in range(7, 14)}) == 1
    for epochs in (0, 1):
        assert Ramp(0.04, 0.07, epochs)(at(0)) == 0.07


def test_epochs_and_short_runs():
    assert [at(step, 30, 3).epoch for step in (0, 9, 10, 29, 30)] == [0, 0, 1, 2, 3]
    assert at(0).steps_in(10) == 25_020
    for warmup in (0, 1, 3):  # one step per epoch
        values = [Cosine(1.0, 0.1, warmup)(at(step, 3, 3)) for step in range(3)]
        assert all(0 <= value <= 1 for value in values)
        assert values[min(warmup, 2)] == pytest.approx(1.0)
