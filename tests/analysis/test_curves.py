import json
from pathlib import Path

import pytest

from vitlab.analysis.curves import curves, read, spread, table


def write(folder: Path, offset: float) -> Path:
    def row(encoder: str, epoch: int, score: float) -> dict:
        scores = {"knn/top1": score + offset, "miou/voc2012": score, "miou/mean": score}
        return {"encoder": encoder, "epoch": epoch, "step": 10 * epoch, "scores": scores}

    folder.mkdir(parents=True)
    rows = [row("pixels", 0, 5.0), row("untrained", 0, 10.0), row("trained", 4, 30.0)]
    (folder / "measurements.json").write_text(json.dumps(rows))
    return folder


def test_seeds_of_an_arm_are_summed_up(tmp_path: Path, capsys):
    runs = [write(tmp_path / "arm" / f"seed{i}", offset=i) for i in range(3)]
    curves([*runs, write(tmp_path / "other/seed0", 0.0)], tmp_path / "out/figure")
    text = (tmp_path / "out/figure.md").read_text()
    assert "| arm | trained, epoch 4 | 3 | 31.0 ± 1.0 | 30.0 ± 0.0 |" in text
    assert "| other | trained, epoch 4 | 1 | 30.0 | 30.0 |" in text
    assert "miou/mean" not in text  # of one set it is that set
    assert capsys.readouterr().out == text
    assert (tmp_path / "out/figure.png").stat().st_size > 1000


def test_a_run_without_measurements_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no measurements\.json"):
        read([tmp_path])


def test_folders_that_are_no_seeds_are_arms_of_their_own(tmp_path: Path):
    runs = [write(tmp_path / "runs" / name, 0.0) for name in ("dino", "entmax")]
    assert [arm.name for arm in read(runs)] == ["dino", "entmax"]


def test_one_seed_has_no_spread():
    assert spread([1.25]) == "1.2"
    assert spread([1.0, 3.0]) == "2.0 ± 1.4"


def test_an_unfinished_arm_is_shown_as_far_as_it_came(tmp_path: Path):
    text = table(read([write(tmp_path / "arm/seed0", 0.0)]))
    assert text.count("\n") == 5
