from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from vitlab.optim.lr_schedule import WarmupPoly
from vitlab.probes import head_training
from vitlab.probes.head_training import HeadBatch, HeadTraining
from vitlab.probes.linear_heads import HeadConfig, HeadGrid, HeadSpec, image_loss
from vitlab.probes.recipe import TrainingRecipe

PLANNED = [HeadSpec("x", 5, rate) for rate in (1e-2, 1e-1)]
RECIPE = TrainingRecipe(
    WarmupPoly(warmup_steps=2), lrs=(1e-2, 1e-1), batch_size=4, iterations=12, eval_interval=4
)


class KilledError(Exception):
    pass


def batches(start: int, stop: int = 12) -> Iterator[HeadBatch]:
    for step in range(start, 12):
        if step == stop:
            raise KilledError
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(4, 1, 5, generator=generator)
        yield HeadBatch({"x": x}, image_loss(torch.randint(0, 3, (4,), generator=generator)))


def start(folder: Path | None, key: str = "k") -> HeadTraining:
    heads = HeadGrid(PLANNED, 3, HeadConfig(dropout=0.2), RECIPE, 0, torch.device("cpu"))
    return HeadTraining(heads, 40, folder, key)


def scores(fit: HeadTraining) -> dict[str, float]:
    """Something that rises and falls with the steps."""
    first, second = fit.heads.names
    return {first: float(fit.step), second: 20.0 - abs(fit.step - 8)}


def run(fit: HeadTraining, stop: int = 12) -> HeadTraining:
    fit.run(batches(fit.step, stop), lambda: scores(fit))
    return fit


@pytest.mark.parametrize("killed", [1, 4, 5, 8, 11])
def test_a_killed_run_goes_on_to_the_bit(tmp_path: Path, monkeypatch, killed: int):
    monkeypatch.setattr(head_training, "SECONDS", 0.0)
    whole = run(start(None))
    broken = start(tmp_path)
    with pytest.raises(KilledError):
        run(broken, killed)
    resumed = run(start(tmp_path))
    assert resumed.step == 12
    for name in whole.heads.names:
        for key, value in whole.heads.weights(name).items():
            assert torch.equal(value, resumed.heads.weights(name)[key])
    assert resumed.tried == whole.tried
    assert {n: (b.score, b.step) for n, b in resumed.best.items()} == {
        n: (b.score, b.step) for n, b in whole.best.items()
    }


def test_between_saves_a_run_goes_on_from_the_last_one(tmp_path: Path):
    with pytest.raises(KilledError):
        run(start(tmp_path), 7)  # two minutes have not passed: saved where it was evaluated
    assert start(tmp_path).step == 4


def test_a_state_of_other_settings_is_left_alone(tmp_path: Path):
    run(start(tmp_path))
    assert start(tmp_path).step == 12
    assert start(tmp_path, "another").step == 0


def test_nothing_half_written_is_left(tmp_path: Path):
    run(start(tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["heads.pt"]


def test_the_best_state_of_each_head_is_kept():
    fit = run(start(None))
    first, second = fit.heads.names
    assert (fit.best[first].step, fit.best[second].step) == (12, 8)
    assert fit.chosen == second
    assert fit.label(second) == f"{second}, step 8"
    assert len(fit.tried) == 6
    early = fit.best[second].weights
    assert not torch.equal(fit.heads.weights(second)["classify.weight"], early["classify.weight"])
    fit.keep_best()
    assert torch.equal(fit.heads.weights(second)["classify.weight"], early["classify.weight"])


def test_a_score_that_is_none_is_never_best():
    fit = start(None)
    first, second = fit.heads.names
    fit.run(batches(0), lambda: {first: float("nan"), second: 1.0})
    assert fit.chosen == second
