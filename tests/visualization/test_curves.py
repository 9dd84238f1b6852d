import json
from pathlib import Path

import pytest
from refusals import refused

from vitlab.visualization.curves import LOST, common_tags, curves, draw, read, spread, summary


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
    with refused("runs"):
        read([tmp_path])


@pytest.mark.parametrize(
    "text", ["[", '{"a": 1}', "[1]", '[{"epoch": 1}]', "[" * 100_000], ids=lambda text: text[:9]
)
def test_damaged_measurements_are_named(tmp_path: Path, text):
    (tmp_path / "measurements.json").write_text(text)
    with refused("measurements.json", wording=False):
        read([tmp_path])


def test_folders_that_are_no_seeds_are_arms_of_their_own(tmp_path: Path):
    runs = [write(tmp_path / "runs" / name, 0.0) for name in ("dino", "entmax")]
    assert list(read(runs)["arm"].unique()) == ["dino", "entmax"]


def test_one_seed_has_no_spread():
    assert spread([1.25]) == "1.2"
    assert spread([1.0, 3.0]) == "2.0 ± 1.4"


def test_an_unfinished_arm_is_shown_as_far_as_it_came(tmp_path: Path):
    text = summary(read([write(tmp_path / "arm/seed0", 0.0)]))
    assert text.count("\n") == 5


def course(folder: Path, values: list[float], features: bool = True) -> Path:
    """A run measured every two epochs."""
    rows = []
    for place, value in enumerate(values):
        row = {"encoder": "trained", "epoch": 2 * (place + 1), "step": place}
        row["scores"] = {"knn/top1": 50.0 + place, "miou/voc2012": value, "miou/mean": value}
        if features:
            row["features"] = {"features/diffusion_index/voc2012": 0.1 * place}
        rows.append(row)
    folder.mkdir(parents=True)
    (folder / "measurements.json").write_text(json.dumps(rows))
    return folder


def test_degradation_is_best_minus_last_of_each_seed_with_its_spread(tmp_path: Path, capsys):
    runs = [
        course(tmp_path / "arm/seed0", [10.0, 14.0, 12.0]),
        course(tmp_path / "arm/seed1", [10.0, 12.0, 11.0]),
    ]
    curves(runs, tmp_path / "figure")
    text = capsys.readouterr().out
    assert "| arm | knn/top1 | % | 2 | 6 ± 0 | 52.0 ± 0.0 | 52.0 ± 0.0 | 0.0 ± 0.0 |" in text
    assert "| arm | miou/voc2012 | % | 2 | 4 ± 0 | 13.0 ± 1.4 | 11.5 ± 0.7 | 1.5 ± 0.7 |" in text
    # of features there is no best
    line = "| arm | diffusion_index/voc2012 | cosine | 2 | - | - | 0.200 ± 0.000 | - |"
    assert line in text
    assert (tmp_path / "figure.svg").read_text().startswith("<?xml")


def test_the_same_runs_give_the_same_picture(tmp_path: Path):
    run = course(tmp_path / "arm/seed0", [10.0, 14.0, 12.0])
    for name in ("one", "two"):
        curves([run], tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_peaks_are_marked_and_losses_have_a_panel(tmp_path: Path):
    figure = draw(read([course(tmp_path / "arm/seed0", [10.0, 14.0, 12.0])]))
    panels = {panel.get_title(): panel for panel in figure.axes}
    assert list(panels) == ["knn/top1", "miou/voc2012", LOST, "diffusion_index/voc2012"]
    stars = [line for line in panels["miou/voc2012"].lines if line.get_marker() == "*"]
    assert [line.get_xydata().tolist() for line in stars] == [[[4.0, 14.0]]]


def test_runs_of_before_there_were_features_are_drawn_beside_others(tmp_path: Path):
    runs = [
        course(tmp_path / "old/seed0", [10.0, 12.0], features=False),
        course(tmp_path / "new/seed0", [10.0, 12.0]),
    ]
    assert common_tags(read(runs)) == ["knn/top1", "miou/voc2012"]


def test_arms_called_alike_are_told_apart_by_their_folders(tmp_path: Path):
    runs = [course(tmp_path / place / "dino/seed0", [1.0, 2.0]) for place in ("short", "long")]
    assert list(read(runs)["arm"].unique()) == ["short/dino", "long/dino"]


def test_a_run_that_has_measured_nothing_yet_is_refused(tmp_path: Path):
    with refused("runs"):
        read([course(tmp_path / "run", [])])


def test_more_arms_than_colors_differ_by_their_lines(tmp_path: Path):
    runs = [course(tmp_path / f"arm{i}/seed0", [float(i), 2.0]) for i in range(8)]
    (panel, *_) = draw(read(runs)).axes
    looks = [
        (line.get_color(), line.get_linestyle())
        for line in panel.lines
        if line.get_label()[0] != "_"
    ]
    assert len(set(looks)) == len(looks) == 8
