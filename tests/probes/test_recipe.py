import warnings

import numpy as np
import pytest
import torch

from vitlab.optim.lr_schedule import (
    CosineAnnealing,
    LRFactor,
    MultiStep,
    OneCycle,
    WarmupCosine,
    WarmupPoly,
)
from vitlab.probes.recipe import StepSampler, TrainingRecipe


def rates(schedule: LRFactor, steps: int, epochs: int = 0, images: int = 10) -> list[float]:
    if epochs:
        recipe = TrainingRecipe(schedule, batch_size=images * epochs // steps, epochs=epochs)
    else:
        recipe = TrainingRecipe(schedule, iterations=steps)
    assert recipe.steps(images) == steps
    return [schedule(recipe.progress(step, images)) for step in range(steps)]


def torch_rates(make, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if len(found) < steps:
                scheduler.step()
    return found


def test_poly_is_a_line_to_zero_after_a_line_from_the_ratio():
    schedule, recipe = WarmupPoly(1.0, 1500, 1e-6), TrainingRecipe(WarmupPoly(), iterations=40_000)

    def at(step: int) -> float:
        return schedule(recipe.progress(step, 100))

    assert at(0) == pytest.approx(1e-6)
    assert at(750) == pytest.approx((1 - 750 / 40_000) * (1 - 0.5 * (1 - 1e-6)))
    assert at(1500) == pytest.approx(1 - 1500 / 40_000)
    assert at(39_999) == pytest.approx(1 / 40_000)


def test_poly_without_warm_up_is_that_of_torch():
    expected = torch_rates(
        lambda o: torch.optim.lr_scheduler.PolynomialLR(o, total_iters=20, power=0.9), 20
    )
    assert rates(WarmupPoly(0.9), 20) == pytest.approx(expected)


@pytest.mark.parametrize("anneal", ["linear", "cos"])
def test_one_cycle_is_that_of_torch(anneal: str):
    expected = torch_rates(
        lambda o: torch.optim.lr_scheduler.OneCycleLR(
            o, 1.0, 40, pct_start=0.25, anneal_strategy=anneal, div_factor=1e4,
            final_div_factor=1e4, cycle_momentum=False,
        ),
        40,
    )  # fmt: skip
    found = rates(OneCycle(0.25, 1e4, 1e4, anneal), 40)  # type: ignore[arg-type]
    assert found == pytest.approx(expected, abs=1e-9)


def test_half_a_cosine_is_that_of_torch():
    expected = torch_rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 30), 30)
    assert rates(CosineAnnealing("step"), 30) == pytest.approx(expected)
    by_epoch = torch_rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 6), 6)
    assert rates(CosineAnnealing("epoch"), 30, epochs=6) == pytest.approx(np.repeat(by_epoch, 5))


def test_steps_fall_at_their_epochs():
    assert rates(MultiStep((2, 4), 0.1), 30, epochs=6) == pytest.approx(
        [1.0] * 10 + [0.1] * 10 + [0.01] * 10
    )
    assert rates(MultiStep((2,), 0.5), 4) == pytest.approx([1, 1, 0.5, 0.5])


def test_dinov3_hides_the_beginning_of_a_cosine_behind_its_warm_up():
    found = rates(WarmupCosine(10, 1e-6), 100)
    assert found[0] == pytest.approx(1e-6)
    assert found[5] == pytest.approx(0.95 * (1 - 0.5 * (1 - 1e-6)))
    assert found[10] == pytest.approx(0.5 * (1 + np.cos(np.pi * 0.11)))
    assert found[99] == pytest.approx(0)


def test_rates_may_grow_with_the_batch():
    assert TrainingRecipe(WarmupPoly(), batch_size=1024, iterations=1, base_batch_size=256).peak_lr(
        1e-3
    ) == pytest.approx(4e-3)
    assert TrainingRecipe(WarmupPoly(), batch_size=1024, iterations=1).peak_lr(1e-3) == 1e-3


RECIPE = TrainingRecipe(WarmupPoly(), batch_size=6, iterations=7)


@pytest.mark.parametrize(("batch", "most"), [(6, 4), (6, 1), (8, 64), (5, 2)])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_ranks_share_out_the_same_batches(world: int, batch: int, most: int):
    recipe = TrainingRecipe(WarmupPoly(), batch_size=batch, iterations=7)
    kept = np.array([3, 4, 7, 9, 11, 12, 20, 21, 30, 31])
    whole = [StepSampler(kept, recipe, 5, most).batch(step) for step in range(7)]
    ranks = [StepSampler(kept, recipe, 5, most, rank, world) for rank in range(world)]
    chunk = ranks[0].chunk
    assert batch % chunk == 0
    assert chunk <= most
    for step, parts in enumerate(zip(*ranks, strict=True)):
        rows = [[part[at : at + chunk] for at in range(0, len(part), chunk)] for part in parts]
        dealt = [row for turn in zip(*rows, strict=True) for row in turn]  # as gather puts them
        assert [place for row in dealt[: ranks[0].chunks] for place in row] == whole[step]


def test_each_visit_sees_every_image_once_in_an_order_of_its_own():
    kept = np.arange(12)
    places = StepSampler(kept, TrainingRecipe(WarmupPoly(), batch_size=4, iterations=6), 0, 4)
    steps = list(places)
    assert len(steps) == len(places) == 6
    visits = [sum(steps[:3], []), sum(steps[3:], [])]  # noqa: RUF017
    for number, visit in enumerate(visits):
        assert sorted(visit) == [(number, index) for index in range(12)]
    assert [index for _, index in visits[0]] != [index for _, index in visits[1]]


def test_a_batch_may_be_larger_than_the_set():
    places = StepSampler(
        np.arange(3), TrainingRecipe(WarmupPoly(), batch_size=7, iterations=2), 0, 7
    )
    seen = sum(places, [])  # noqa: RUF017
    assert len(set(seen)) == len(seen)  # an image may come twice, but not in the same visit


def test_going_on_leaves_out_what_was_done():
    places = StepSampler(np.arange(12), RECIPE, 0, 3)
    expected = list(places)[4:]
    places.start = 4
    assert list(places) == expected


@pytest.mark.parametrize(
    "wrong",
    [
        {"iterations": 0},
        {"iterations": 5, "epochs": 5},
        {"iterations": 5, "lrs": ()},
        {"iterations": 5, "lrs": (1.0, 1.0)},
        {"iterations": 5, "lrs": (-1.0,)},
        {"iterations": 5, "batch_size": 0},
        {"iterations": 5, "eval_interval": -1},
    ],
)
def test_impossible_recipes_are_refused(wrong: dict):
    with pytest.raises(ValueError, match=r"give|must be"):
        TrainingRecipe(WarmupPoly(), **wrong)


def test_impossible_schedules_are_refused():
    with pytest.raises(ValueError, match="use 0 or more steps"):
        WarmupPoly(warmup_steps=-1)
    with pytest.raises(ValueError, match=r"use a number in \(0, 1\)"):
        OneCycle(pct_start=1.5)
