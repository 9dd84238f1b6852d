"""The chaos test in short; `make chaos` is the long one."""

from pathlib import Path

import pytest
import torch
from chaos import chaos, compare, draw

from vitlab.run import run_dir


@pytest.mark.slow
def test_a_run_of_two_ranks_survives_random_stops_and_damage(tmp_path: Path):
    chaos(tmp_path, seed=1, stops=2, epochs=8)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, ""),
        ({"state_dict": {"w": torch.tensor(1 + 1e-7)}}, r"state_dict\.w"),
        ({"optimizer_states": [{"step": 4}]}, r"optimizer_states\[0\]\.step"),
        ({"global_step": 4}, "global_step"),
    ],
)
def test_any_difference_between_the_runs_is_found(tmp_path: Path, change, found):
    same = {"state_dict": {"w": torch.tensor(1.0)}, "optimizer_states": [{"step": 3}]}
    same["global_step"] = 3
    for name, content in (("calm", same), ("chaos", {**same, **change})):
        (tmp_path / name).mkdir()
        torch.save(content, tmp_path / name / run_dir.LAST)
        (tmp_path / name / "measurements.json").write_text("[]")
    if not found:
        compare(tmp_path / "calm", tmp_path / "chaos")
        return
    with pytest.raises(AssertionError, match=found):
        compare(tmp_path / "calm", tmp_path / "chaos")


def test_some_training_images_cannot_be_read(tmp_path: Path):
    sizes = [path.stat().st_size for path in draw(tmp_path).rglob("imagenet/train/*/*.JPEG")]
    assert (sizes.count(0), sizes.count(200)) == (2, 2)
