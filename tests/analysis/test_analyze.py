"""`vitlab analyze` from words to files: every kind of data, and what it refuses."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitlab.analysis.analyze import shown
from vitlab.analysis.images import Middle, find_images
from vitlab.analysis.measures.accumulator import mean_of
from vitlab.analysis.results import CSV, JSON, Row, read_results
from vitlab.cli import main
from vitlab.commands.analyze_words import labels
from vitlab.encoders import Locality, ViT, save, vit

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(vit.SHAPES, "nano", vit.Shape(embed_dim=16, depth=2, num_heads=2))


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    save(ViT("nano", 16, 64).eval(), tmp_path / "plain")
    save(ViT("nano", 16, 64, num_registers=2, locality=Locality("gaussian")), tmp_path / "more")
    return tmp_path


@pytest.fixture
def analyze(weights, tmp_path, monkeypatch):
    # the report and its pictures have tests of their own
    monkeypatch.setattr("vitlab.commands.analyze.write_report", lambda _, __, folder: [folder])
    monkeypatch.setattr("vitlab.commands.analyze.example_pictures", lambda *_: [])

    def run(*options, data, models=("plain",)):
        given = [str(weights / model) for model in models]
        words = ["analyze", "--weights", *given, "--data", str(data), "--size", "64"]
        main(
            [*words, "--workers", "0", "--device", "cpu", "--out", str(tmp_path / "out"), *options]
        )
        return read_results(tmp_path / "out")

    return run


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index, size in enumerate([(90, 60), (50, 120), (64, 64)]):
        pixels = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def refused(capsys, run, *options, **more):
    with pytest.raises(SystemExit) as caught:
        run(*options, **more)
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_two_models_on_masks_side_by_side(analyze, drawn, tmp_path):
    found = analyze(data=drawn / "VOCdevkit", models=("plain", "more"))
    assert [model.label for model in found.models] == ["plain", "more"]
    assert (found.models[1].registers, found.models[1].depth, found.models[1].heads) == (2, 2, 2)
    assert found.data["images"] == 4
    assert found.data["masks"] is True
    for model in ("plain", "more"):
        assert found.select("diffusion_index", model=model, point="final")
        assert found.select("foreground_auroc", model=model, point="final")
        assert len(found.select("attention_entropy", model=model, role="cls", head=1)) == 2
    assert not found.select("registers_patch_cosine", model="plain")
    assert found.select("registers_patch_cosine", model="more")
    reasons = {(each.model, each.reason): each.measure for each in found.left_out}
    assert "bias_alpha" in reasons["plain", "no Gaussian bias"]
    assert ("more", "no registers") not in reasons
    measured = {row.measure for row in found.rows}
    assert measured <= {measure.name for measure in found.measures}
    with (tmp_path / "out" / CSV).open() as file:
        assert len(list(csv.DictReader(file))) == len(found.rows)


def test_photographs_of_mixed_sizes_have_no_masks_and_it_is_said(analyze, photographs, capsys):
    found = analyze(data=photographs)
    assert found.data["dataset"] == "photographs"
    assert found.data["images"] == 3
    assert not found.select("foreground_auroc")
    (masked,) = [each.measure for each in found.left_out if not each.model]
    assert {"foreground", "background", "diffusion_index"} < set(masked.split(", "))
    assert "there are no masks" in capsys.readouterr().out
    own = {name for each in found.left_out if each.model for name in each.measure.split(", ")}
    known = {each.measure for each in [*found.rows, *found.arrays]}
    assert not own & (known | set(masked.split(", ")))


def test_one_photograph_has_means_without_intervals(analyze, photographs):
    found = analyze(data=photographs / "1.png")
    assert {(row.low, row.high, row.images) for row in found.rows} == {(None, None, 1)}


def test_a_set_with_labels_is_read_without_masks(analyze, drawn):
    found = analyze("--images", "3", data=drawn / "imagenet")
    assert found.data["dataset"] == "ImageNet"
    assert found.data["images"] == 3
    assert "ImageNet has no masks" in [each.reason for each in found.left_out]


def test_classes_without_background_need_to_be_told_what_an_object_is(analyze, drawn):
    root = drawn / "ADEChallengeData2016"
    first = analyze(data=root)
    assert any("--foreground" in each.reason for each in first.left_out)
    assert not first.select("diffusion_index")
    names = find_images(root, "ADE20K", "val", 64, 0, []).about["dataset"]
    assert names == "ADE20K"


def test_named_classes_are_the_objects(drawn):
    images = find_images(drawn / "VOCdevkit", "", "val", 64, 0, ["person"])
    every = find_images(drawn / "VOCdevkit", "", "val", 64, 0, [])
    assert images.about["foreground"] == ["person"]
    pairs = [(images.pairs[index][1], every.pairs[index][1]) for index in range(len(every))]
    for some, many in pairs:
        assert ((some == 1) <= (many == 1)).all()
        assert torch.equal(some == 255, many == 255)
    assert any((many == 1).any() for _, many in pairs)


def test_a_mask_is_cropped_as_its_image():
    image = np.zeros((60, 100, 3), np.uint8)
    image[20:40, 50:80] = 255
    pair = Middle(64)(image, (image[..., 0] > 0).astype(np.uint8))
    assert pair.image.shape == (3, 64, 64)
    bright = pair.image[0] > 127
    assert (bright == pair.mask.bool()).float().mean() > 0.97


def test_the_same_words_give_the_same_numbers_whatever_the_batch(analyze, drawn):
    first = analyze("--batch", "4", data=drawn / "VOCdevkit")
    second = analyze("--batch", "1", "--overwrite", data=drawn / "VOCdevkit")
    for one, other in zip(first.rows, second.rows, strict=True):
        assert one.mean == pytest.approx(other.mean, abs=1e-3, rel=1e-3)


def test_the_score_of_a_probe_on_each_block_is_added(analyze, drawn):
    found = analyze("--probe", str(drawn / "VOCdevkit"), data=drawn / "VOCdevkit")
    assert [row.block for row in found.select("block_miou")] == [0, 1]


def test_an_untrained_encoder_of_a_config_stands_beside(tmp_path, photographs, analyze):
    config = tmp_path / "small.yaml"
    config.write_text(
        "model: {objective: {class_path: DINO, init_args: {encoder: {class_path: ViT, "
        "init_args: {size: nano, img_size: 64}}}}}"
    )
    found = analyze("--weights", f"untrained:{config}", data=photographs)
    assert [model.label for model in found.models] == ["untrained small"]


def test_a_dry_run_writes_nothing(analyze, photographs, tmp_path, capsys):
    with pytest.raises(ValueError, match="holds no analysis"):
        analyze("--dry-run", data=photographs)
    assert "analysis" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_kept_unless_told(analyze, photographs, tmp_path, capsys):
    analyze(data=photographs)
    assert "--overwrite" in refused(capsys, analyze, data=photographs)
    (tmp_path / "out" / "old").touch()
    analyze("--overwrite", data=photographs)
    assert not (tmp_path / "out" / "old").exists()
    (tmp_path / "out" / JSON).unlink()
    assert "other files" in refused(capsys, analyze, "--overwrite", data=photographs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "50"], "--size 48 or 64"),
        (["--images", "-1"], "--images -1 is too small"),
        (["--dataset", "MNIST"], "choose ADE20K"),
        (["--labels", "a", "b"], "2 names for 1 weights"),
        (["--which", "a", "b"], "--which has 2 values"),
        (["--data", "nowhere"], "there is no nowhere"),
        (["--weights", "nowhere"], "nowhere"),
        (["--probe", "."], "--probe-dataset"),
    ],
)
def test_bad_words_are_refused_before_any_work(analyze, photographs, capsys, options, message):
    assert message in refused(capsys, analyze, *options, data=photographs)


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(analyze, photographs, capsys):
    file = next(each for each in photographs.iterdir() if each.is_file())
    told = refused(capsys, analyze, "--out", str(file / "analysis"), data=photographs)
    assert "cannot be written" in told
    assert "Not a directory; name another folder" in told


def test_unknown_classes_and_needless_ones_are_refused(analyze, drawn, capsys):
    told = refused(capsys, analyze, "--foreground", "unicorn", data=drawn / "VOCdevkit")
    assert "unicorn" in told
    assert "aeroplane" in told
    told = refused(capsys, analyze, "--foreground", "dog", data=drawn / "imagenet")
    assert "no masks" in told


def test_weights_that_would_be_called_alike_are_refused(analyze, photographs, capsys):
    told = refused(capsys, analyze, models=("plain", "plain"), data=photographs)
    assert "--labels" in told
    found = analyze("--labels", "a", "b", models=("plain", "plain"), data=photographs)
    one, other = (found.select("cls_patch_cosine", model=label) for label in "ab")
    assert [row.mean for row in one] == [row.mean for row in other]


@pytest.mark.parametrize(
    ("paths", "which", "expected"),
    [
        (["runs/dino/best.ckpt"], [""], ["best"]),
        (["a/seed0/best.ckpt", "b/seed0/best.ckpt"], ["", ""], ["a/seed0/best", "b/seed0/best"]),
        (["a/last.ckpt", "a/last.ckpt"], ["teacher", "student"], ["last teacher", "last student"]),
        (["best.ckpt", "untrained:c/best.yaml"], ["", ""], ["best", "untrained best"]),
    ],
)
def test_labels_are_the_shortest_that_tell_apart(paths, which, expected):
    assert labels(paths, which) == expected


def test_an_interval_is_students():
    mean = mean_of(4, 10.0, 30.0)  # 1, 2, 3, 4
    assert mean.value == 2.5
    assert mean.high - mean.value == pytest.approx(3.182446 * np.sqrt(5 / 3 / 4), rel=1e-6)
    assert mean_of(1, 3.0, 9.0).low is None


def test_numbers_are_shown_with_half_their_interval():
    row = Row("m", "x", 0, "", None, "", 0.5, 0.4, 0.6, 9)
    assert shown(row) == "0.500 ±0.100"


def test_findings_are_plain_json(analyze, photographs, tmp_path):
    analyze(data=photographs)
    text = (tmp_path / "out" / JSON).read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert json.loads(text)["format"] == "vitlab analysis 1"
