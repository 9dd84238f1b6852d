"""Measurements over the course of a run: online, afterwards, and in the table at the end."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from refusals import refused
from runs import curves, run_fit
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vitlab.callbacks.online_probes import OnlineProbes
from vitlab.cli import main
from vitlab.commands.measure import run as measure
from vitlab.encoders import ViT
from vitlab.errors import InputError
from vitlab.training.checkpoint_series import find_series, read_info
from vitlab.training.summary import print_scores

PLANTED = "patches lose what the image feature gains"
PATCHES = ("cls_patch_cosine", "patch_patch_cosine", "diffusion_index", "norm_outliers")


@pytest.fixture(scope="module")
def finished(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run of two epochs, measured after each."""
    options = ("--probing.every_n_epochs", "1", "--probing.pictures", "0")
    options += ("--model.objective.head.out_dim", "64", "--trainer.precision", "bf16-mixed")
    options += ("--probing.dense.streets.class_path", "Cityscapes")
    options += ("--probing.dense.streets.root", str(drawn / "cityscapes"))
    with pytest.MonkeyPatch.context() as patch:  # so short a run gives no reason to warn
        patch.setattr(
            "vitlab.callbacks.online_probes.latest_warning",
            lambda rows: PLANTED if rows[-1]["epoch"] == 2 else "",
        )
        folder = tmp_path_factory.mktemp("runs") / "dino/seed0"
        return run_fit(folder, drawn, ["dino", "demo"], *options)


@pytest.fixture(scope="module")
def measured(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run, measured afterwards."""
    folder = tmp_path_factory.mktemp("measured") / "dino/seed0"
    main(["measure", str(finished), "--out", str(folder)])
    return folder


def read(folder: Path) -> list[dict]:
    return json.loads((folder / "measurements.json").read_text())


def test_measurements_have_statistics_of_patches_and_a_warning_and_are_curves(finished: Path):
    for row in read(finished):
        features, scores = row["features"], row["scores"]
        names = {f"features/{name}/voc2012" for name in (*PATCHES, "feature_rank")}
        assert names <= features.keys()
        mean = (scores["miou/voc2012"] + scores["miou/streets"]) / 2
        assert scores["miou/mean"] == pytest.approx(mean)
        for name in PATCHES[:3]:
            assert -1 <= features[f"features/{name}/voc2012"] <= 1
        assert features["features/feature_rank/voc2012"] >= 1
    points = curves(finished)["features/diffusion_index/voc2012"]
    assert [step for step, _ in points] == [0, 2, 4]
    content = torch.load(finished / "last.ckpt", weights_only=True)["callbacks"]
    logs = [state["measurements"] for state in content.values() if "measurements" in state]
    assert len(logs) == 2
    for rows in (read(finished), *logs):  # of each callback that measures
        assert [row["warning"] for row in rows] == ["", "", "", PLANTED]
    (text,) = EventAccumulator(str(finished / "dino")).Reload().Tensors("warning/text_summary")
    assert text.tensor_proto.string_val == [PLANTED.encode()]


def test_a_checkpoint_has_the_numbers_of_the_callback_to_the_digit(finished, measured, tmp_path):
    online = {(row["encoder"], row["epoch"]): row for row in read(finished)}
    after = read(measured)
    assert [row["epoch"] for row in after if row["encoder"] == "trained"] == [1, 2]
    for row in after:
        same = online[row["encoder"], row["epoch"]]
        assert all(row[name] == same[name] for name in ("scores", "features", "step"))
    for folder, name in ((finished, "online"), (measured, "after")):
        main(["curves", str(folder), "--out", str(tmp_path / name)])
    assert (tmp_path / "online.md").read_text() == (tmp_path / "after.md").read_text()


def test_the_same_command_measures_what_is_missing_alone(
    finished: Path, measured: Path, tmp_path: Path, monkeypatch, capsys
):
    folder = tmp_path / "copy"
    shutil.copytree(measured, folder)
    rows, probed, probe = read(folder), [], OnlineProbes.probe
    (folder / "measurements.json").write_text(json.dumps(rows[:-1]))
    monkeypatch.setattr(OnlineProbes, "probe", lambda *words: probed.append(1) or probe(*words))
    main(["measure", str(finished), "--out", str(tmp_path / "new"), "--dry-run"])
    assert not (tmp_path / "new").exists()
    assert "1, 2" in capsys.readouterr().out
    assert not probed
    main(["measure", str(finished), "--out", str(folder), "--num-workers", "1"])
    assert len(probed) == 1
    assert read(folder)[-1]["scores"] == rows[-1]["scores"]


def test_what_cannot_be_measured_is_refused(finished: Path, measured: Path, tmp_path: Path):
    run, new = str(finished), str(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    shutil.copytree(finished, tmp_path / "moved/seed0")
    config = tmp_path / "moved/seed0/config.yaml"
    config.write_text(config.read_text().replace("VOCdevkit", "nowhere"))
    wrong = [
        ("checkpoints", [str(tmp_path / "empty")]),
        ("checkpoints", [str(tmp_path / "nothing")]),
        ("--out", [run, "--out", str(measured), "--dense-size", "32"]),
        ("--out", [run, "--out", str(tmp_path / "other")]),
        ("--dense", [str(tmp_path / "moved/seed0"), "--out", new]),
        ("--dense", [run, "--dense", "voc2012"]),
        ("--data.root", [run, "--data", "ImageNet", "--data.root", f"{new}/none", "--out", new]),
        (None, [run, "--out", new, "--size", "30"]),
    ]
    for field, words in wrong:
        with refused(field, kind=InputError if field else ValueError):
            measure(words)


def weights(path: Path, **more) -> Path:
    """A file as others write it."""
    torch.manual_seed(0)
    state = ViT("nano", patch_size=16, img_size=64).state_dict()
    torch.save({**more, "student": state, "teacher": state} if more else state, path)
    return path


def test_files_of_others_are_a_series_by_the_epoch_in_them_or_in_their_names(
    drawn: Path, tmp_path: Path
):
    """DINO counts finished epochs, DeiT from 0."""
    files = [weights(tmp_path / "checkpoint0020.pth", epoch=21), weights(tmp_path / "w_0040.pth")]
    words = ["--family", "dino", "--dense-size", "64", "--num-workers", "0", "--dense-images", "3"]
    dense = ["--dense", f"shapes={drawn / 'VOCdevkit'}", "--out", str(tmp_path / "out")]
    main(["measure", str(files[0]), *words, *dense, "--which", "teacher"])
    (row,) = read(tmp_path / "out")
    assert (row["encoder"], row["epoch"]) == ("trained", 21)
    assert set(row["scores"]) == {"miou/shapes", "miou/mean"}
    assert read_info(files[1]).epoch == 40
    torch.save({"model": {"a": torch.zeros(1)}, "epoch": 4}, tmp_path / "deit.pth")
    assert read_info(tmp_path / "deit.pth").epoch == 5
    with refused("unnamed.pth"):
        read_info(weights(tmp_path / "unnamed.pth"))
    twice = weights(tmp_path / "again.pth", epoch=21)
    with refused("checkpoints"):
        measure([str(files[0]), str(twice), *words, *dense])
    with refused("--dense", wording=False):
        measure([str(files[0]), *words, "--which", "teacher"])
    with pytest.raises(ValueError, match="holds the models student, teacher"):
        measure([str(files[0]), *words, *dense[:2]])


def test_a_checkpoint_from_the_middle_of_an_epoch_is_left_out_and_said(finished, tmp_path: Path):
    shutil.copytree(finished, tmp_path / "seed0")
    content = torch.load(finished / "last.ckpt", weights_only=True)
    content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False
    torch.save(content, tmp_path / "seed0/last.ckpt")
    (series,) = find_series([tmp_path / "seed0"])
    assert [checkpoint.epoch for checkpoint in series.checkpoints][:1] == [1]
    assert series.left_out[tmp_path / "seed0/last.ckpt"] == "written in the middle of an epoch"


def test_tables_of_frozen_features_and_of_each_classifier(capsys):
    """Whole heads in 80 columns, and no rows without a score."""
    frozen = {f"miou/{name}": 12.3 for name in ("voc2012", "ade20k", "cityscapes", "mean")}
    frozen |= {"knn/top1": 12.3, "linear/top1": 12.3}
    scores = {f"{of}/{s}": 1.0 for of in ("val", "ema") for s in ("top1", "top5", "loss", "ece")}
    rows = [("pixels", 0, frozen), ("trained", 95, {**scores, "val/top1": 9.0})]
    rows += [("trained", 100, {**frozen, **scores})]
    print_scores([{"encoder": e, "epoch": n, "scores": s} for e, n, s in rows])
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    for word in ("voc2012", "cityscapes", "linear/", "top5", "ece", "classifier ema", "9.0"):
        assert word in text
    assert "…" not in text
    assert not any(line.count(" - ") > 1 for line in text.splitlines())
    assert text.count("best top-1, epoch 95") == 2
