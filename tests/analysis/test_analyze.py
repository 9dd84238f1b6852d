"""`vitlab analyze` from the command line to files: every kind of data, and refusals."""

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import check_wording, refused
from runs import refusal

from vitlab.analysis.images import CenterCropPair, find_images
from vitlab.analysis.results import CSV, JSON, read_results
from vitlab.cli import main
from vitlab.commands.weights_option import default_labels
from vitlab.data import VOC2012
from vitlab.encoders import Locality, ViT, save, vit


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    shape = replace(vit.SHAPES["nano"], embed_dim=16, depth=2, num_heads=2)
    monkeypatch.setitem(vit.SHAPES, "nano", shape)


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    save(ViT("nano", 16, 64).eval(), tmp_path / "plain")
    save(ViT("nano", 16, 64, num_registers=2, locality=Locality("gaussian")), tmp_path / "more")
    return tmp_path


@pytest.fixture
def analyze(weights, tmp_path, monkeypatch):
    # the report and its pictures have tests of their own
    monkeypatch.setattr("vitlab.commands.run_analyze.write_report", lambda _, __, folder: [folder])
    monkeypatch.setattr("vitlab.commands.run_analyze.example_pictures", lambda *_: [])

    def run(*options, root=None, photographs=None, models=("plain",)):
        models = [str(weights / each) if each in ("plain", "more") else each for each in models]
        words = ["analyze", "--weights", *models]
        words += ["--data.root", str(root)] if root else ["--photographs", str(photographs)]
        words += ["--size", "64", "--num-workers", "0", "--device", "cpu"]
        main([*words, "--out", str(tmp_path / "out"), *options])
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


@pytest.fixture
def message(capsys, analyze):
    """The last line of a command that is refused."""

    def run(*options, **more):
        refusal(analyze, *options, **more)
        return capsys.readouterr().err.splitlines()[-1]

    return run


def test_two_models_on_masks_side_by_side(analyze, drawn, tmp_path):
    probe = ("--probe.root", str(drawn / "VOCdevkit"))
    found = analyze(*probe, root=drawn / "VOCdevkit", models=("plain", "more"))
    assert [model.label for model in found.models] == ["plain", "more"]
    more = found.models[1]
    assert (more.num_registers, more.depth, more.heads, more.patch_size) == (2, 2, 2, 16)
    assert (found.data["images"], found.data["masks"]) == (4, True)
    for model in ("plain", "more"):
        for measure in ("diffusion_index", "foreground_auroc"):
            assert len(found.select(measure, model=model, point="final", block=None)) == 1
        assert len(found.select("attention_entropy", model=model, role="cls", head=1)) == 2
        assert found.select("block_miou", model=model)["block"].tolist() == [0, 1]
    assert found.select("registers_patch_cosine", model="plain").empty
    assert len(found.select("registers_patch_cosine", model="more"))
    reasons = {(each.model, each.reason): each.measure for each in found.left_out}
    assert "bias_alpha" in reasons["plain", "no Gaussian bias"]
    assert ("more", "no registers") not in reasons
    assert set(found.rows["measure"]) <= {measure.name for measure in found.measures}
    text = (tmp_path / "out" / JSON).read_text()
    assert not {"NaN", "Infinity"} & set(re.findall(r"\w+", text))
    lines = csv.DictReader((tmp_path / "out" / CSV).read_text().splitlines())
    for line, row in zip(lines, json.loads(text)["rows"], strict=True):
        assert line == {name: "" if v is None else str(v) for name, v in row.items()}


def test_photographs_have_no_masks(analyze, photographs, capsys):
    found = analyze(photographs=photographs)
    assert (found.data["dataset"], found.data["images"]) == ("photographs", 3)
    (masked,) = [each.measure for each in found.left_out if not each.model]
    assert {"foreground", "background", "diffusion_index"} < set(masked.split(", "))
    assert "there are no masks" in capsys.readouterr().out
    absent = {name for each in found.left_out if each.model for name in each.measure.split(", ")}
    known = {*found.rows["measure"], *found.arrays["measure"], *masked.split(", ")}
    assert not absent & known
    assert absent | known >= {each.name for each in found.measures}
    one = analyze("--overwrite", photographs=photographs / "1.png")
    assert one.rows[["low", "high"]].isna().all(axis=None)
    assert set(one.rows["images"]) == {1}


def test_datasets_without_masks_or_background(analyze, drawn):
    found = analyze("--images", "3", root=drawn / "imagenet")
    assert (found.data["dataset"], found.data["images"]) == ("ImageNet", 3)
    assert "ImageNet has no masks" in [each.reason for each in found.left_out]
    found = analyze("--overwrite", "--data", "ADE20K", root=drawn / "ADEChallengeData2016")
    assert any("--foreground" in each.reason for each in found.left_out)
    assert found.select("diffusion_index").empty


def test_named_classes_are_the_objects(drawn):
    data = VOC2012(str(drawn / "VOCdevkit"))
    images, every = find_images(data, 64, objects=["person"]), find_images(data, 64)
    assert images.about["foreground"] == ["person"]
    some, many = (
        torch.stack([x.pairs[index][1] for index in range(len(x))]) for x in (images, every)
    )
    assert {1, 255} <= set(many.unique().tolist())
    assert ((some == 1) <= (many == 1)).all()
    assert torch.equal(some == 255, many == 255)


def test_a_mask_is_cropped_as_its_image():
    image = np.zeros((60, 100, 3), np.uint8)
    image[20:40, 50:80] = 255
    pair = CenterCropPair(64)(image, (image[..., 0] > 0).astype(np.uint8))
    assert pair.image.shape == (3, 64, 64)
    bright = pair.image[0] > 127
    assert (bright == pair.mask.bool()).float().mean() > 0.97


def test_an_untrained_encoder_of_a_config(tmp_path, photographs, analyze):
    config = tmp_path / "small.yaml"
    config.write_text(
        "model: {objective: {class_path: DINO, init_args: {encoder: {class_path: ViT, "
        "init_args: {size: nano, img_size: 64}}}}}"
    )
    found = analyze(photographs=photographs, models=[f"untrained:{config}"])
    assert [model.label for model in found.models] == ["untrained small"]


def test_an_analysis_is_kept_without_overwrite(analyze, message, photographs, tmp_path, capsys):
    out = tmp_path / "out"
    with refused(JSON):
        analyze("--dry-run", photographs=photographs)
    assert "center crop of 64 px" in capsys.readouterr().out
    assert not out.exists()
    analyze(photographs=photographs)
    check_wording(message(photographs=photographs))
    (out / "old").touch()
    analyze("--overwrite", photographs=photographs)
    assert not (out / "old").exists()
    (out / JSON).unlink()
    check_wording(message("--overwrite", photographs=photographs))


def test_bad_options_are_refused_before_any_work(message, photographs, drawn):
    file = str(photographs / "0.png")
    for options in (
        *(["--size", "50"], ["--images", "-1"], ["--labels", "a", "b"], ["--which", "a", "b"]),
        *(["--photographs", "nowhere"], ["--weights", "nowhere"], ["--probe.root", "nowhere"]),
        *(["--foreground", "dog"], ["--out", f"{file}/analysis"]),
    ):
        check_wording(message(*options, photographs=photographs))
    check_wording(message("--foreground", "unicorn", root=drawn / "VOCdevkit"))
    check_wording(message("--foreground", "dog", root=drawn / "imagenet"))
    check_wording(message("--photographs", file, root=drawn / "imagenet"))


def test_weights_of_one_label_are_refused(analyze, message, photographs):
    check_wording(message(models=("plain", "plain"), photographs=photographs))
    found = analyze("--labels", "a", "b", models=("plain", "plain"), photographs=photographs)
    one, other = (found.select("cls_patch_cosine", model=label)["mean"] for label in "ab")
    assert one.tolist() == other.tolist()


@pytest.mark.parametrize(
    ("paths", "which", "expected"),
    [
        (["runs/dino/best.ckpt"], [""], ["dino"]),
        (["a/seed0/best.ckpt", "b/seed0/best.ckpt"], ["", ""], ["a", "b"]),
        (["a/last.ckpt", "a/last.ckpt"], ["teacher", "student"], ["a (teacher)", "a (student)"]),
        (["a/seed0/last.ckpt", "a/seed1/last.ckpt"], ["", ""], ["a/seed0", "a/seed1"]),
        (["x/a/seed0/last.ckpt", "y/a/seed0/best.ckpt"], ["", ""], ["x/a", "y/a"]),
        (["a/seed0/last.ckpt", "a/seed0/best.ckpt"], ["", ""], ["a/seed0/last", "a/seed0/best"]),
        (["dino_s16.pth", "untrained:dino,demo"], ["", ""], ["dino_s16", "untrained dino"]),
        (["untrained:dino,demo", "untrained:dino"], ["", ""],
         ["untrained dino,demo", "untrained dino"]),
    ],
)  # fmt: skip
def test_labels_are_arms_or_runs_and_as_short_as_tells_them_apart(paths, which, expected):
    assert default_labels(paths, which) == expected
