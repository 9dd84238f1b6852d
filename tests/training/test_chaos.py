"""The chaos test in short; `make chaos` is the long one."""

from pathlib import Path

import pytest
import torch
from chaos import Setting, chaos, compare, draw, leaves

from vitlab.run import run_dir


@pytest.mark.slow
def test_a_run_of_two_ranks_survives_random_stops_and_damage(tmp_path: Path):
    chaos(tmp_path, Setting(seed=1, stops=2, epochs=8))


def test_any_difference_between_the_runs_is_found(tmp_path: Path):
    for name, value in (("calm", 1.0), ("chaos", 1.0)):
        (tmp_path / name).mkdir()
        content = {"state_dict": {"w": torch.tensor(value)}, "optimizer_states": [{"step": 3}]}
        torch.save({**content, "global_step": 3}, tmp_path / name / run_dir.LAST)
        (tmp_path / name / "measurements.json").write_text("[]")
    compare(tmp_path / "calm", tmp_path / "chaos")
    content["state_dict"]["w"] += 1e-7
    torch.save({**content, "global_step": 3}, tmp_path / "chaos" / run_dir.LAST)
    with pytest.raises(AssertionError, match=r"state_dict\.w"):
        compare(tmp_path / "calm", tmp_path / "chaos")
    assert leaves({"a": [1, 2]}, {"a": [1, 3]}, "x") == [("x.a[0]", True), ("x.a[1]", False)]


def test_some_training_images_cannot_be_read(tmp_path: Path):
    sizes = [path.stat().st_size for path in draw(tmp_path).rglob("imagenet/train/*/*.JPEG")]
    assert sizes.count(0) == 2
    assert sizes.count(200) == 2
