import warnings

import numpy as np
import pytest
import torch
from refusals import refused

from vitlab.optim.lr_schedule import (
    CosineAnnealing,
    LRFactor,
    MultiStep,
    OneCycle,
    WarmupCosine,
    WarmupPoly,
)
from vitlab.probes.recipe import StepSampler, TrainingRecipe


def factors(schedule: LRFactor, steps: int, epochs: int = 0, images: int = 10) -> list[float]:
    if epochs:
        recipe = TrainingRecipe(schedule, batch_size=images * epochs // steps, epochs=epochs)
    else:
        recipe = TrainingRecipe(schedule, iterations=steps)
    assert recipe.steps(images) == steps
    return [schedule(recipe.progress(step, images)) for step in range(steps)]


def torch_factors(name: str, steps: int, **options) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = getattr(torch.optim.lr_scheduler, name)(optimizer, **options)
    found = [scheduler.get_last_lr()[0]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(steps - 1):
            scheduler.step()
            found.append(scheduler.get_last_lr()[0])
    return found


@pytest.mark.parametrize(
    ("schedule", "name", "options"),
    [
        (WarmupPoly(0.9), "PolynomialLR", {"total_iters": 40, "power": 0.9}),
        (CosineAnnealing(), "CosineAnnealingLR", {"T_max": 40}),
        *(
            (
                OneCycle(0.25, 1e4, 1e4, anneal),
                "OneCycleLR",
                {"max_lr": 1.0, "total_steps": 40, "pct_start": 0.25, "anneal_strategy": anneal}
                | {"div_factor": 1e4, "final_div_factor": 1e4, "cycle_momentum": False},
            )
            for anneal in ("linear", "cos")
        ),
    ],
)
def test_schedules_are_those_of_torch(schedule, name, options):
    assert factors(schedule, 40) == pytest.approx(torch_factors(name, 40, **options), abs=1e-9)


def test_schedules_by_epoch():
    by_epoch = torch_factors("CosineAnnealingLR", 6, T_max=6)
    found = factors(CosineAnnealing("epoch"), 30, epochs=6)
    assert found == pytest.approx(np.repeat(by_epoch, 5))
    found = factors(MultiStep((2, 4), 0.1), 30, epochs=6)
    assert found == pytest.approx([1.0] * 10 + [0.1] * 10 + [0.01] * 10)
    assert factors(MultiStep((2,), 0.5), 4) == pytest.approx([1, 1, 0.5, 0.5])


def test_warm_ups_multiply_the_decay_or_hide_its_beginning():
    found = factors(WarmupPoly(1.0, 150, 1e-6), 4000)
    assert found[0] == pytest.approx(1e-6)
    assert found[75] == pytest.approx((1 - 75 / 4000) * (1 - 0.5 * (1 - 1e-6)))
    assert found[150] == pytest.approx(1 - 150 / 4000)
    assert found[3999] == pytest.approx(1 / 4000)
    found = factors(WarmupCosine(10, 1e-6), 100)
    assert found[0] == pytest.approx(1e-6)
    assert found[5] == pytest.approx(0.95 * (1 - 0.5 * (1 - 1e-6)))
    assert found[10] == pytest.approx(0.5 * (1 + np.cos(np.pi * 0.11)))
    assert found[99] == pytest.approx(0)


@pytest.mark.parametrize(
    ("world", "batch_size", "most"), [(1, 6, 4), (2, 8, 64), (3, 6, 4), (5, 6, 1), (5, 5, 2)]
)
def test_ranks_share_out_the_same_batches(world: int, batch_size: int, most: int):
    recipe = TrainingRecipe(WarmupPoly(), batch_size=batch_size, iterations=7)
    kept = np.array([3, 4, 7, 9, 11, 12, 20, 21, 30, 31])
    whole = [StepSampler(kept, recipe, 5, most).batch(step) for step in range(7)]
    ranks = [StepSampler(kept, recipe, 5, most, rank, world) for rank in range(world)]
    chunk = ranks[0].chunk
    assert batch_size % chunk == 0
    assert chunk <= most
    for step, parts in enumerate(zip(*ranks, strict=True)):
        rows = [[part[at : at + chunk] for at in range(0, len(part), chunk)] for part in parts]
        dealt = [row for turn in zip(*rows, strict=True) for row in turn]  # as gathered
        assert [place for row in dealt[: ranks[0].chunks] for place in row] == whole[step]


def test_each_visit_is_a_permutation_and_a_start_skips_steps():
    sampler = StepSampler(
        np.arange(12), TrainingRecipe(WarmupPoly(), batch_size=4, iterations=6), 0, 4
    )
    steps = list(sampler)
    assert len(steps) == len(sampler) == 6
    visits = [sum(steps[:3], []), sum(steps[3:], [])]  # noqa: RUF017
    for number, visit in enumerate(visits):
        assert sorted(visit) == [(number, index) for index in range(12)]
    assert [index for _, index in visits[0]] != [index for _, index in visits[1]]
    sampler.start = 4
    assert list(sampler) == steps[4:]
    scaled = TrainingRecipe(WarmupPoly(), batch_size=1024, iterations=1, base_batch_size=256)
    assert scaled.peak_lr(1e-3) == pytest.approx(4e-3)
    large = TrainingRecipe(WarmupPoly(), batch_size=7, iterations=2)  # than the set
    seen = sum(StepSampler(np.arange(3), large, 0, 7), [])  # noqa: RUF017
    assert len(set(seen)) == len(seen)  # an image may come twice, but not in the same visit


def test_impossible_recipes_and_schedules_are_refused():
    for field, wrong in (
        ("iterations", {"iterations": 0}),
        ("iterations", {"iterations": 5, "epochs": 5}),
        ("lrs", {"iterations": 5, "lrs": ()}),
        ("lrs", {"iterations": 5, "lrs": (1.0, 1.0)}),
        ("lrs", {"iterations": 5, "lrs": (-1.0,)}),
        ("batch_size", {"iterations": 5, "batch_size": 0}),
        ("eval_interval", {"iterations": 5, "eval_interval": -1}),
    ):
        with refused(f"protocol.recipe.{field}"):
            TrainingRecipe(WarmupPoly(), **wrong)
    for make in (lambda: WarmupPoly(warmup_steps=-1), lambda: OneCycle(pct_start=1.5)):
        with refused("protocol.recipe.lr_schedule"):
            make()
