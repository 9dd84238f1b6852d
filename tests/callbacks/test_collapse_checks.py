"""Each way of going wrong is named by its cause, and a healthy run by none."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vitlab.callbacks.collapse_checks import TeacherStats, TrainingStats, diagnose
from vitlab.callbacks.collapse_monitor import relative_change, watched_weights

# of the demo, seed 0, at step 1000 of 2790
TEACHER = TeacherStats(
    out_dim=256, entropy=2.5, divergence=1.1, prototypes=46.0, center_error=0.11, temperature=0.02,
    student_temperature=0.1, momentum=0.985, distance=0.02, rank=7.7,
)  # fmt: skip
HEALTHY = TrainingStats(
    step=1000, steps=2790, warm=True, loss=3.6, constant_loss=math.log(256), gradient=2.0,
    spike=5.4, usual=2.5, learning_rate=3.8e-4, peak=4e-4, update=1.4e-3, teacher=TEACHER,
    speed=3e-4, fastest=5e-4, best_rank=10.0,
)  # fmt: skip

# cross-entropy of 10 classes, measured on photographs after 150 steps
LABELS = replace(HEALTHY, step=160, steps=280, loss=2.3, constant_loss=math.log(10), mean=2.25)
LABELS = replace(LABELS, largest=2.7e-3, teacher=None, speed=0.0, fastest=0.0, best_rank=0.0)
BINARY = replace(LABELS, loss=0.49, constant_loss=0.486, mean=0.485)
EARLY = replace(HEALTHY, step=41, warm=False)
FAST = replace(HEALTHY, fastest=0.02)
RATE_0 = replace(HEALTHY, update=0.0, learning_rate=0.0, peak=0.0)


def of(stats=HEALTHY, **teacher):
    return replace(stats, teacher=replace(TEACHER, **teacher))


# what planted causes were measured to do to the demo
PLANTED = {
    "no centering": [
        of(center_error=1.0, entropy=5e-6, prototypes=1.0, divergence=0.017),
        of(EARLY, center_error=1.0, prototypes=2.2),
        of(entropy=1e-9, prototypes=1.0, center_error=0.3),  # a center that is too slow
        of(EARLY, entropy=0.01, prototypes=1.05, center_error=0.3),
    ],
    "no sharpening": [
        of(temperature=0.1, entropy=5.54, prototypes=256.0, divergence=0.003),
        of(replace(EARLY, step=31), temperature=1.0, entropy=5.54, prototypes=256),
        of(temperature=0.09, entropy=5.54, prototypes=255.9, divergence=0.005),
    ],
    "learning rate too high": [
        replace(EARLY, step=30, speed=6.6e-3),  # ten times the rate
        of(replace(HEALTHY, step=19, speed=0.028, fastest=0.028), distance=0.54),
        of(FAST, entropy=5.35, prototypes=211.0),  # to uniform
        of(FAST, entropy=4e-3, prototypes=1.005),  # to one
        of(FAST, entropy=2.71, prototypes=15.15),  # to and fro
        replace(HEALTHY, update=0.2),
        replace(HEALTHY, loss=8.0),
        replace(LABELS, loss=3.5),
        replace(LABELS, mean=2.32, largest=0.0133),  # ten times the rate
        replace(LABELS, mean=2.33, largest=0.0336),  # thirty times
        replace(BINARY, mean=0.489, largest=0.098),
        replace(BINARY, loss=0.9),
    ],
    "learning rate too low": [RATE_0, replace(LABELS, update=1e-8)],
    "collapsed": [
        of(temperature=0.03, entropy=5.54, prototypes=256.0),  # images that are all the same
        of(entropy=2.75, prototypes=15.7),
    ],
    "teacher lags": [of(distance=0.8, divergence=3.0, momentum=1.0), of(EARLY, taken=0.09)],
    "features lose rank": [of(rank=2.0)],
    "gradient spikes": [replace(HEALTHY, spike=200.0)],
}
WELL = [
    HEALTHY,
    replace(HEALTHY, teacher=None),
    # the start: the center is still at 0, the norm of the gradient falls, images look alike
    of(replace(EARLY, step=10, spike=68, usual=0), center_error=1, prototypes=1, entropy=0),
    of(replace(EARLY, step=10), temperature=0.2, taken=0.0),
    replace(EARLY, step=9, speed=0.1, loss=9.0, update=1e-9),
    of(EARLY, entropy=0.32, prototypes=3.6, center_error=0.3, rank=2.0, distance=0.8, divergence=3),
    of(replace(EARLY, step=60), entropy=5.4, prototypes=240.0),
    # the end: the teacher stands still, and so does the student
    of(replace(HEALTHY, step=2780, learning_rate=1e-5, update=3e-5), momentum=1.0, distance=0.3),
    replace(HEALTHY, update=None, constant_loss=None, teacher=None),
    replace(HEALTHY, step=20, speed=4.1e-3),  # few steps of large batches
    LABELS,
    replace(LABELS, mean=2.22, update=0.03, largest=0.043),  # prompts
    replace(LABELS, mean=2.3),  # mixed images of many classes are learned slowly
    replace(LABELS, mean=None, largest=0.02),  # the warm-up
    BINARY,
    replace(BINARY, step=31, loss=0.65, constant_loss=0.0144, mean=None),  # 1,000: ln 2 falls
]


@pytest.mark.parametrize(("name", "stats"), [(n, one) for n, row in PLANTED.items() for one in row])
def test_a_cause_is_named_with_evidence_and_remedy(name, stats):
    found = diagnose(stats)
    assert found is not None
    assert found.name == name
    assert "model.o" in found.sentence  # a setting to change
    if name == "learning rate too low":
        assert ("DINO" in found.sentence) == (stats.teacher is not None)


@pytest.mark.parametrize("stats", WELL)
def test_a_healthy_run_gets_no_diagnosis(stats):
    assert diagnose(stats) is None


numbers = st.floats(0, 100)


@given(loss=numbers, spike=numbers, update=st.floats(0, 1), step=st.integers(1, 2790))
def test_any_statistics_can_be_judged(loss, spike, update, step):
    stats = replace(HEALTHY, loss=loss, spike=spike, update=update, step=step)
    for one in (stats, replace(stats, teacher=None)):
        diagnose(one)


def test_speed_is_distance_over_what_the_teacher_remembers():
    for momentum, step, remembered in (
        (0.98, 1000, 50),
        (0.98, 10, 10),
        (1, 1000, 1000),
        (0, 9, 1),
    ):
        slow = replace(TEACHER, momentum=momentum, distance=0.5)
        assert slow.speed(step) == pytest.approx(0.5 / remembered)


def test_the_change_of_matrices_is_the_median_of_those_that_are_not_0():
    before = [torch.full((2, 2), float(value)) for value in (0, 1, 2, 4)]
    now = [x + change for x, change in zip(before, (9.0, 0.1, 0.4, 2.8), strict=True)]
    assert relative_change(before, now) == pytest.approx(0.2)
    assert relative_change(before[:1], now[:1]) is None


def test_matrices_are_taken_evenly_from_those_that_are_trained():
    layers = nn.Sequential(*(nn.Linear(2, 2) for _ in range(20)))
    layers[0].requires_grad_(False)
    assert list(watched_weights(layers, 4)) == ["1.weight", "6.weight", "11.weight", "16.weight"]
    assert watched_weights(layers.requires_grad_(False)) == {}
