"""Forecast and advice: arithmetic on a trial, by hand."""

from dataclasses import replace

import pandas as pd
import pytest

from vitlab.profiling.forecast import GIB, RunFacts, TrialResult, forecast, remedies, verdict

# 32 images a step: 1 s of which 0.05 s waiting; 20 steps an epoch, 10 epochs
FACTS = RunFacts(
    device="cpu", world_size=1, local_devices=1, global_batch_size=32, micro_batch_size=32,
    accumulate_grad_batches=1, steps_per_epoch=20, epochs=10, num_workers=4, cores=8,
    precision="bf16-mixed", supports_bf16=True, memory=16 * GIB, weights=GIB, per_image=GIB // 16,
    kept_checkpoints=3, scalars=1000, pictures=5000, free_disk=10 * GIB, probings=4, validations=2,
)  # fmt: skip
TRIAL = TrialResult(
    steps=pd.DataFrame({"data": [0.05, 0.05, 0.05], "forward": [0.95, 1.15, 0.85]}),
    loading=400.0,
    peak=3 * GIB,
    checkpoint=GIB // 8,
    probe_seconds=9.0,
    validation_seconds=2.0,
)
WAITS = TRIAL.steps.assign(data=0.5)


def test_a_forecast_by_hand():
    found = forecast(TRIAL, FACTS)
    assert (found.step_seconds, found.images_per_second, found.bound) == (1.0, 32, "compute")
    assert found.epoch_hours == pytest.approx(20 / 3600)
    assert found.hours == found.device_hours == pytest.approx((200 + 40) / 3600)
    assert found.probing == pytest.approx(40 / 240)
    assert found.disk == 4 * GIB // 8 + 64 * 1000 + 5000
    assert found.largest == 32  # of 15.2 GiB, weights take 1 and an image 2 / 32
    assert found.fits
    parts = {"data": {"seconds": [0.05] * 3}, "forward": {"seconds": [0.95, 1.15, 0.85]}}
    plain = TRIAL.plain()
    assert plain["parts"] == parts
    assert plain["step"]["seconds"] == pytest.approx([1.0, 1.2, 0.9])
    assert plain["loading"] == 400.0


def test_devices_share_a_batch_but_not_their_hours():
    found = forecast(TRIAL, replace(FACTS, world_size=8, local_devices=8, global_batch_size=256))
    assert found.images_per_second == 256
    assert found.device_hours == pytest.approx(8 * found.hours)
    assert found.hours_on(16) == pytest.approx(found.hours / 2)


def test_batches_loaded_in_advance_do_not_hide_slow_loaders():
    slow = replace(TRIAL, loading=16.0)
    found = forecast(slow, FACTS)
    assert (found.bound, found.step_seconds) == ("data", 2.0)
    # in the main process, loading is part of the step already
    assert forecast(slow, replace(FACTS, num_workers=0)).step_seconds == 1.0


def test_micro_batches_that_fit_divide_the_share_of_a_device():
    tight = replace(FACTS, memory=2 * GIB, micro_batch_size=4, accumulate_grad_batches=6)
    # 1.9 GiB less 1 for weights, an image takes 1/16: 14 fit, of 24 divides 12
    assert forecast(replace(TRIAL, peak=GIB + GIB // 4), tight).largest == 12
    assert forecast(TRIAL, replace(FACTS, memory=GIB)).largest == 0


@pytest.mark.parametrize(
    ("trial", "facts", "expected"),
    [
        ({}, {}, "devices: 2 would take about 0:02:00"),
        ({"peak": 16 * GIB}, {"per_image": 0}, "--data.micro_batch_size 16"),
        ({"peak": 16 * GIB}, {"memory": GIB}, "not even one image fits"),
        ({}, {"free_disk": GIB // 4}, "disk: the run needs up to 0.50 GiB, 0.25 are free"),
        ({"loading": 20.0}, {}, "could use 34; set --data.num_workers 8"),
        ({"loading": 20.0}, {"num_workers": 8}, "store the images smaller"),
        ({"steps": WAITS}, {"num_workers": 0}, "set --data.num_workers 1"),
        ({}, {"num_workers": 16}, "1 x 16 processes share 8 cores; --data.num_workers 8"),
        ({}, {"precision": "32-true"}, "bf16-mixed"),
        ({}, {"micro_batch_size": 8, "accumulate_grad_batches": 4}, "--data.micro_batch_size 32"),
        ({"probe_seconds": 99.0}, {}, "probes take 67% of the run"),
    ],
)
def test_the_most_urgent_remedy_comes_first_and_none_changes_the_recipe(trial, facts, expected):
    trial, facts = replace(TRIAL, **trial), replace(FACTS, **facts)
    found = forecast(trial, facts)
    advice = remedies(trial, facts, found)
    assert expected in advice[0]
    for setting in ("data.transform", "global_batch_size", "max_epochs"):
        assert setting not in " ".join(advice)
    assert ("does not fit into memory" in verdict(facts, found)) is (trial.peak == 16 * GIB)
    assert ("disk is too small" in verdict(facts, found)) is (facts.free_disk == GIB // 4)
