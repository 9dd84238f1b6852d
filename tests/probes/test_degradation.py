import random

import pytest
from refusals import check_wording

from vitlab.probes.degradation import alarms, latest_warning, peak, score_curve


def rows(dense: list[float], image: list[float], tag: str = "knn/top1") -> list[dict]:
    """Measurements every ten epochs."""
    return [
        {"encoder": "trained", "epoch": 10 * place, "scores": {"miou/mean": miou, tag: top1}}
        for place, (miou, top1) in enumerate(zip(dense, image, strict=True), 1)
    ]


RISING = [40.0, 50.0, 56.0, 60.0, 63.0, 65.0, 66.5, 67.5]
FALLING_LATE = [20.0, 27.0, 31.0, 32.0, 31.5, 30.4, 29.3, 28.1]


@pytest.mark.parametrize("tag", ["knn/top1", "linear/top1"])
def test_patches_that_get_worse_while_the_image_feature_gets_better_are_warned_of_once(tag: str):
    (found,) = alarms(rows(FALLING_LATE, RISING, tag))
    assert (found.best, found.now, found.tag, found.rise) == (
        (40, 32.0),
        (70, 29.3),
        tag,
        (60.0, 66.5),
    )
    check_wording(str(found))
    said = [latest_warning(rows(FALLING_LATE[:n], RISING[:n], tag)) for n in range(9)]
    assert [bool(text) for text in said] == [False] * 7 + [True, False]


def test_a_recovery_makes_a_second_warning_possible():
    dense = [*FALLING_LATE, 32.5, 33.0, 32.5, 31.0, 29.5, 28.0]
    image = [*RISING, 68.3, 69.0, 69.7, 70.3, 70.9, 71.5]
    found = alarms(rows(dense, image))
    assert [alarm.now[0] for alarm in found] == [70, 130]
    assert found[1].best == (100, 33.0)


@pytest.mark.parametrize(
    ("dense", "image"),
    [
        (FALLING_LATE, [40.0, 50.0, 56.0, 60.0, 58.0, 55.0, 52.0, 50.0]),  # both fall
        ([20.0, 22.0, 24.0, 26.0, 27.0, 28.0, 28.5, 29.0], RISING),  # both rise
        ([20.0, 27.0, 31.0, 32.0, 31.8, 31.5, 31.3, 31.2], RISING),  # a little
        ([20.0, 27.0, 31.0, 32.0, 29.0, 32.1, 32.2, 32.0], RISING),  # one bad measurement
        ([32.0, 30.0, 28.0, 26.0], [40.0, 50.0, 56.0, 60.0]),  # too few to judge noise by
        (FALLING_LATE, [40.0, 50.0, 56.0, 60.0, 60.1, 60.2, 60.3, 60.4]),  # no rise to speak of
    ],
)
def test_what_is_not_that_is_not_warned_of(dense: list[float], image: list[float]):
    assert alarms(rows(dense, image)) == []
    for missing in ("miou/mean", "knn/top1"):
        found = rows(FALLING_LATE, RISING)
        for row in found:
            del row["scores"][missing]
        assert alarms(found) == []


@pytest.mark.parametrize(
    ("count", "fall", "deviation", "few", "most"), [(300, 0, 0.8, 0, 6), (100, 0.6, 0.3, 95, 100)]
)
def test_falls_under_noise_are_found_and_plateaus_hardly_ever(count, fall, deviation, few, most):
    numbers = random.Random(0)
    found = 0
    for _ in range(count):
        dense = [30 - 20 * 0.5**n - max(0, n - 8) * fall for n in range(20)]
        dense = [value + numbers.gauss(0, deviation) for value in dense]
        image = [70 - 30 * 0.8**n + numbers.gauss(0, 0.3) for n in range(20)]
        found += bool(alarms(rows(dense, image)))
    assert few <= found <= most


def test_the_peak_is_that_of_training():
    untrained = {"encoder": "untrained", "epoch": 0, "scores": {"miou/mean": 50.0}}
    found = [untrained, *rows([10.0, 12.0, 11.0], [1.0, 2.0, 3.0])]
    top = peak(found, "miou/mean")
    assert (top.epoch, top.best, top.last, top.lost) == (20, 12.0, 11.0, 1.0)
    assert peak([untrained], "miou/mean") is None
    assert score_curve(found, "miou/mean", "untrained") == [(0, 50.0)]
