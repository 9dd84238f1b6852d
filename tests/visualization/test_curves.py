import json
from pathlib import Path

import pytest
from refusals import refused

from vitlab.commands.curves import run
from vitlab.visualization.curves import LOST, common_tags, draw, read, spread, summary


def write(folder: Path, values: list[float], offset: float = 0.0, features: bool = True) -> Path:
    """A run of these mIoU, measured every two epochs, and its baselines."""

    def row(encoder: str, epoch: int, score: float) -> dict:
        scores = {"knn/top1": 50 + epoch + offset, "miou/voc2012": score, "miou/mean": score}
        found = {"encoder": encoder, "epoch": epoch, "step": 10 * epoch, "scores": scores}
        more = {"features": {"features/diffusion_index/voc2012": 0.1 * epoch}}
        return found | (more if features else {})

    rows = [row("pixels", 0, 5.0), row("untrained", 0, 10.0)]
    rows += [row("trained", 2 * epoch, value) for epoch, value in enumerate(values, 1)]
    folder.mkdir(parents=True)
    (folder / "measurements.json").write_text(json.dumps(rows))
    return folder


def test_seeds_of_an_arm_are_summed_up_and_a_run_is_shown_as_far_as_it_came(tmp_path, capsys):
    values = [10.0, 14.0, 12.0], [10.0, 12.0, 11.0]
    runs = [write(tmp_path / f"arm/seed{i}", each, i) for i, each in enumerate(values)]
    runs += [write(tmp_path / "other/seed0", [30.0]), write(tmp_path / "begun", [])]
    for name in ("one", "two"):
        run([*map(str, runs), "--out", str(tmp_path / f"out/{name}")])
    text = (tmp_path / "out/one.md").read_text()
    assert capsys.readouterr().out == 2 * text
    for line in (
        "| arm | pixels | 2 | 50.5 ± 0.7 | 5.0 ± 0.0 |",
        "| arm | trained, epoch 6 | 2 | 56.5 ± 0.7 | 11.5 ± 0.7 |",
        "| other | trained, epoch 2 | 1 | 52.0 | 30.0 |",
        "| begun | untrained | 1 | 50.0 | 10.0 |",
        "| arm | k-NN top-1 | % | 2 | 6 ± 0 | 56.5 ± 0.7 | 56.5 ± 0.7 | 0.0 ± 0.0 |",
        "| arm | mIoU, voc2012 | % | 2 | 4 ± 0 | 13.0 ± 1.4 | 11.5 ± 0.7 | 1.5 ± 0.7 |",
        # of features there is no best
        "| arm | diffusion index, voc2012 | cosine | 2 | - | - | 0.600 ± 0.000 | - |",
    ):
        assert line in text
    assert "begun | trained" not in text
    assert "miou/mean" not in text  # of one set it is that set
    assert (tmp_path / "out/one.png").stat().st_size > 1000
    for ending in ("svg", "pdf", "png"):
        one, two = (tmp_path / f"out/{name}.{ending}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (None, "runs"),
        ("[]", "runs"),
        *((each, None) for each in ("[", '{"a": 1}', "[1]", '[{"epoch": 1}]', "[" * 10**5)),
    ],
    ids=lambda text: text and text[:9],
)
def test_missing_and_damaged_measurements_are_named(tmp_path: Path, text, field):
    if text is not None:
        (tmp_path / "measurements.json").write_text(text)
    with refused(field or "measurements.json", wording=False):
        read([tmp_path])


@pytest.mark.parametrize(
    ("folders", "arms"),
    [
        (["runs/dino", "runs/entmax"], ["dino", "entmax"]),
        (["a/seed0", "a/seed1", "b/seed0"], ["a", "b"]),
        (["short/dino/seed0", "long/dino/seed0"], ["short/dino", "long/dino"]),
    ],
)
def test_arms_are_named_by_as_many_folders_as_tell_them_apart(tmp_path: Path, folders, arms):
    table = read([write(tmp_path / folder, [1.0, 2.0]) for folder in folders])
    assert list(table["arm"].unique()) == arms


def test_one_seed_has_no_spread():
    assert [spread([1.25]), spread([1.0, 3.0]), spread([])] == ["1.2", "2.0 ± 1.4", "-"]


def test_peaks_bands_and_baselines_are_drawn_and_losses_have_a_panel(tmp_path: Path):
    runs = [write(tmp_path / "arm/seed0", [10.0, 14.0, 12.0]), write(tmp_path / "arm/seed1", [8.0])]
    figure = draw(read(runs))
    panels = {panel.get_title(): panel for panel in figure.axes}
    assert list(panels) == ["k-NN top-1", "mIoU, voc2012", LOST, "diffusion index, voc2012"]
    mean, star, pixels = panels["mIoU, voc2012"].lines
    assert mean.get_xydata().tolist() == [[0.0, 10.0], [2.0, 9.0], [4.0, 14.0], [6.0, 12.0]]
    assert (star.get_marker(), star.get_xydata().tolist()) == ("*", [[4.0, 14.0]])
    assert set(pixels.get_ydata()) == {5.0}
    (band,) = panels["mIoU, voc2012"].collections
    assert {8.0, 10.0} <= {y for x, y in band.get_paths()[0].vertices if x == 2}
    assert [sorted(line.get_xdata()) for line in panels[LOST].lines] == [[0.0, 0.0], [0.0, 2.0]]


def test_what_not_all_runs_measured_is_left_out(tmp_path: Path):
    old = write(tmp_path / "old/seed0", [10.0, 12.0], features=False)
    new = write(tmp_path / "new/seed0", [10.0, 12.0])
    assert common_tags(read([old, new])) == ["knn/top1", "miou/voc2012"]
    other = [{"encoder": "trained", "epoch": 1, "scores": {"linear/top1": 1.0}}]
    (new / "measurements.json").write_text(json.dumps(other))
    with refused("runs"):
        summary(read([old, new]))


def test_more_arms_than_colors_differ_by_their_lines(tmp_path: Path):
    runs = [write(tmp_path / f"arm{i}/seed0", [float(i), 2.0]) for i in range(8)]
    lines = [line for line in draw(read(runs)).axes[0].lines if len(line.get_xdata()) > 1]
    assert len({line.get_marker() for line in lines} - {"*", "None"}) == 8


def test_a_run_that_lost_nothing_has_no_panel_of_it_and_names_can_be_chosen(tmp_path: Path):
    run_ = write(tmp_path / "arm/seed0", [10.0, 12.0])
    figure = draw(read([run_], ["arm=DINO"], ["miou/voc2012=mIoU on VOC"]))
    assert [panel.get_title() for panel in figure.axes] == [
        "k-NN top-1", "mIoU on VOC", "diffusion index, voc2012"
    ]  # fmt: skip
    assert " DINO (1 seed)" in [text.get_text() for text in figure.legends[0].get_texts()]
    with refused("--metrics"):
        read([run_], metrics=["miou=x"])
