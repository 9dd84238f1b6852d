"""What TensorBoard gets: scores first, baselines and the best as constant curves beside them."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

from vitlab.callbacks.tensorboard import OrderedTensorBoardLogger, ordered

LOGGED = ["epoch", "loss", "speed/data_wait", "probe/seconds", "features/rank/a", "own/tag", "lr"]
LOGGED += ["optimizer/learning_rate", "teacher/entropy", "collapse_monitor/update"]
LOGGED += ["knn/top1", "linear/top1", "miou/a", "val/top1"]


def test_cards_stand_in_the_order_of_their_weight():
    assert sorted(ordered(dict.fromkeys(LOGGED))) == [
        "1 scores/1 miou/a",
        "1 scores/2 knn/top1",
        "1 scores/3 linear/top1",
        "1 scores/val/top1",
        "2 training/loss",
        "2 training/teacher/entropy",
        "3 optimizer/learning_rate",
        "4 speed/data_wait",
        "4 speed/epoch",
        "4 speed/probe/seconds",
        "5 features/rank/a",
        "6 collapse_monitor/update",
        "lr",
        "own/tag",
    ]


def test_of_several_sets_their_mean_stands_before_them():
    found = sorted(ordered(dict.fromkeys(["miou/a", "miou/b", "miou/mean", "knn/top1"])))
    assert [tag.rpartition(" ")[2] for tag in found] == [
        "miou/mean",
        "knn/top1",
        "miou/a",
        "miou/b",
    ]


@pytest.fixture
def written(tmp_path: Path) -> EventMultiplexer:
    """A run of two measurements, the second of which is worse, and its baselines."""
    logger = OrderedTensorBoardLogger(tmp_path / "arm/seed0", settings={"lr": 0.1})
    rows: list = []
    measured = [("pixels", 0, 5.0), ("untrained", 0, 7.0), ("trained", 9, 9.5), ("trained", 18, 9)]
    for encoder, step, score in measured:
        scores = {"own/top1": score, "val/loss": score}
        rows.append({"encoder": encoder, "step": step, "scores": scores})
        logger.log_measurement(rows, {} if encoder == "pixels" else scores, step)
    logger.finalize("success")
    return EventMultiplexer().AddRunsFromDirectory(str(tmp_path / "arm/seed0")).Reload()


def test_references_are_constant_and_have_as_many_points_as_the_run(written: EventMultiplexer):
    """So TensorBoard neither smooths them nor leaves them out as outliers."""

    def points(run: str, tag: str) -> list[tuple[int, float]]:
        return [(each.step, each.value) for each in written.Scalars(run, f"1 scores/{tag}")]

    assert set(written.Runs()) == {"arm", "pixels", "untrained", "best"}
    assert points("arm", "own/top1") == [(0, 7.0), (9, 9.5), (18, 9.0)]
    for run, top, loss in (("pixels", 5, 5), ("untrained", 7, 7), ("best", 9.5, 9)):
        assert points(run, "own/top1") == [(step, top) for step in (0, 9, 18)]
        assert points(run, "val/loss") == [(step, loss) for step in (0, 9, 18)]


def test_the_run_is_listed_with_its_arm_settings_and_scores(written: EventMultiplexer):
    plugin: EventAccumulator = written.GetAccumulator("arm")
    listed = plugin.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"arm" in listed
    assert b"lr" in listed
    metrics = plugin.SummaryMetadata("_hparams_/experiment").plugin_data.content
    assert b"own/top1" in metrics
    assert b"val/loss" in metrics


@pytest.mark.parametrize(
    ("folder", "name"), [("runs/a", "a"), ("runs/a/seed3", "a"), ("best", "best run")]
)
def test_the_curves_are_named_after_the_arm(tmp_path: Path, folder: str, name: str):
    assert Path(OrderedTensorBoardLogger(tmp_path / folder).log_dir).name == name
