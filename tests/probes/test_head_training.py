from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from refusals import refused

from vitlab.optim.lr_schedule import WarmupPoly
from vitlab.probes import head_training
from vitlab.probes.head_training import HeadBatch, HeadTraining
from vitlab.probes.linear_heads import HeadConfig, HeadGrid, HeadSpec, image_loss
from vitlab.probes.recipe import TrainingRecipe

SPECS = [HeadSpec("x", 5, lr) for lr in (1e-2, 1e-1)]
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
    heads = HeadGrid(SPECS, 3, HeadConfig(dropout=0.2), RECIPE, 0, torch.device("cpu"))
    return HeadTraining(heads, 40, folder, key)


def run(fit: HeadTraining, stop: int = 12) -> HeadTraining:
    first, second = fit.heads.names
    # the score of the second rises and falls
    fit.run(batches(fit.step, stop), lambda: {first: fit.step, second: 20.0 - abs(fit.step - 8)})
    return fit


@pytest.mark.parametrize("killed", [1, 5, 8])
def test_a_killed_run_resumes_to_the_bit(tmp_path: Path, monkeypatch, killed: int):
    monkeypatch.setattr(head_training, "SECONDS", 0.0)
    whole = run(start(None))
    with pytest.raises(KilledError):
        run(start(tmp_path), killed)
    resumed = run(start(tmp_path))
    assert (resumed.step, resumed.tried) == (12, whole.tried)
    for name, best in whole.best.items():
        assert (best.score, best.step) == (resumed.best[name].score, resumed.best[name].step)
        for key, value in whole.heads.weights(name).items():
            assert torch.equal(value, resumed.heads.weights(name)[key])
    assert start(tmp_path, "another").step == 0
    (tmp_path / "heads.pt").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="damaged"):
        assert start(tmp_path).step == 0


def test_the_state_is_saved_after_evaluations(tmp_path: Path):
    with pytest.raises(KilledError):
        run(start(tmp_path), 7)  # two minutes have not passed
    assert start(tmp_path).step == 4
    assert [file.name for file in tmp_path.iterdir()] == ["heads.pt"]


def test_the_best_state_of_each_head_is_kept():
    fit = run(start(None))
    first, second = fit.heads.names
    assert (fit.best[first].step, fit.best[second].step) == (12, 8)
    assert fit.chosen == second
    assert fit.label(second) == f"{second}, step 8"
    assert len(fit.tried) == 6
    early = fit.best[second].weights["classify.weight"]
    assert not torch.equal(fit.heads.weights(second)["classify.weight"], early)
    fit.keep_best()
    assert torch.equal(fit.heads.weights(second)["classify.weight"], early)


def test_a_diverged_head_is_never_best():
    fit = start(None)
    first, second = fit.heads.names
    fit.run(batches(0), lambda: {first: float("nan"), second: 1.0})
    assert fit.chosen == second
    with refused("protocol.recipe.lrs"):
        start(None).run(batches(0), lambda: dict.fromkeys((first, second), float("nan")))
    void = [replace(batch, labeled=False) for batch in batches(0)]
    with refused("data"):
        start(None).run(void, None)
