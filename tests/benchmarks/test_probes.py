import numpy as np
import pytest

from benchmarks.probes import METRICS, cases, of_logistic, of_neighbors


@pytest.mark.parametrize("metric", METRICS)
def test_both_sides_find_the_same_neighbors(metric):
    _, ours, _, theirs = of_neighbors(metric, rows=500, queries=20)
    assert np.array_equal(ours(), theirs())


@pytest.mark.parametrize("strength", [1e-3, 1.0])
def test_both_sides_arrive_at_the_same_loss(strength):
    _, ours, _, theirs = of_logistic(strength, rows=1000)
    assert ours() == pytest.approx(theirs(), rel=1e-5)


def test_each_case_names_both_sides():
    assert len(cases()) == len({name for name, *_ in cases()}) == 4
