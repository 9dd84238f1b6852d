"""`vitlab evaluate` as people type it."""

import subprocess
import sys

import pytest
import torch
from refusals import check_wording
from runs import refusal
from torchvision.transforms import Normalize

from vitlab.cli import main
from vitlab.encoders import Locality, ViT, save
from vitlab.evaluation.frozen_encoder import Renormalized
from vitlab.evaluation.result import Result, read_counts
from vitlab.probes.layer_selection import LayerSelection, extract_layers

# what makes a protocol of trained heads small; the settings are the protocol's own
SMALL = [
    *("--protocol.recipe.iterations", "3", "--protocol.recipe.batch_size", "3"),
    *("--protocol.transform.size", "64", "--protocol.transform.short_side", "64"),
    *("--protocol.inference.window", "64", "--protocol.inference.stride", "32"),
    *("--protocol.inference.short", "64"),
]
KNN = ("knn", "--protocol.size", "64")
pytestmark = pytest.mark.filterwarnings("ignore:there are 48 training images")


def test_a_result_has_the_numbers_and_their_origin(evaluate, tmp_path, capsys):
    result = evaluate(*KNN)
    assert (result.protocol.name, result.protocol.changed) == ("knn", {"size": (224, 64)})
    assert result.data.dataset == "ImageNet"
    assert result.data.counts == {"train": 48, "val": 24}
    assert {"size": "nano", "pixels": "imagenet"}.items() <= result.weights.encoder.items()
    assert result.scores[result.headline] == result.scores["top1/k 20"]
    shown = capsys.readouterr().out
    assert f"{result.value:.2f}" in shown
    assert result.protocol.hash in shown
    counts = read_counts(tmp_path / "result")
    assert len(counts.names) == 24
    assert counts.counts.value == pytest.approx(result.value)


def test_own_class_folders_are_scored(evaluate, drawn, tmp_path):
    (tmp_path / "mine").mkdir()
    for split in ("train", "val"):
        (tmp_path / "mine" / split).symlink_to(drawn / "imagenet/train")
    result = evaluate(*KNN, "--data", "Folder", data=tmp_path / "mine")
    assert (result.data.dataset, result.data.counts) == ("mine", {"train": 48, "val": 48})


def test_a_segmentation_has_pictures_and_names_its_changes(evaluate, tmp_path):
    changes = ["--protocol.recipe.weight_decay", "0.5", "--protocol.inference.pixels", "20"]
    whole = ["--protocol.inference.window", "0", "--protocol.inference.stride", "0"]
    result = evaluate("dinov2-linear", *SMALL, *whole, *changes, data="VOCdevkit")
    assert (tmp_path / "result/pictures.png").stat().st_size > 1000
    assert list((tmp_path / "result").glob("events.out.tfevents.*"))
    assert not (tmp_path / "result/.unfinished").exists()
    expected = {"recipe.iterations": (40000, 3), "recipe.weight_decay": (1e-4, 0.5)}
    assert expected.items() <= result.protocol.changed.items()
    assert "recipe.lrs" not in result.protocol.changed
    settings = result.protocol.settings["init_args"]
    assert settings["transform"]["init_args"]["ratio_range"] == [1.0, 3.0]  # of VOC2012
    assert settings["transform"]["class_path"] == "SegmentationCrop"
    assert settings["inference"]["aspect"] == "inf"


def test_a_dry_run_leaves_nothing(evaluate, tmp_path, capsys):
    with pytest.raises(ValueError, match="there is no"):
        evaluate("knn", "--dry-run")
    assert "48 images" in capsys.readouterr().out
    assert not (tmp_path / "result").exists()


def test_results_are_kept_unless_told_and_put_side_by_side(evaluate, tmp_path, capsys):
    evaluate(*KNN, out="all/a")
    refusal(evaluate, *KNN, out="all/a")
    assert "already holds a result" in capsys.readouterr().err
    evaluate(*KNN, "--overwrite", out="all/a")
    evaluate(*KNN, out="all/b")
    main(["compare", str(tmp_path / "all")])
    assert "+0.00 [+0.00, +0.00]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("protocol", "data", "options"),
    [
        ("knnn", "imagenet", []),
        ("knn", "VOCdevkit", []),
        ("dinov2-linear", "imagenet", []),
        ("knn", "imagenet", ["--weights", "nothing.pth"]),
        ("knn", "imagenet", ["--data.train_split", "trian"]),
        ("vitlab-fast", "VOCdevkit", ["--protocol.size", "100"]),
        ("dinov2-linear", "VOCdevkit", ["--protocol.features.layer_selections", "[{layers: [9]}]"]),
        ("knn", "imagenet", ["--data.root", "/nope"]),
        ("knn", "imagenet", ["--out", "/proc/nothing"]),
        ("knn", "imagenet", ["--out", "weights/config.json/result"]),
        ("knn", "imagenet", ["--batch-size", "0"]),
        ("knn", "imagenet", ["--memory", "0"]),
    ],
)
def test_bad_input_is_refused_with_one_message(evaluate, tmp_path, capsys, protocol, data, options):
    refusal(evaluate, protocol, *options, data=data)
    check_wording(capsys.readouterr().err)
    assert not (tmp_path / "result").exists()


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--list"], 0, "linear-grid "),
        (["--help"], 0, "--protocol.recipe.iterations 1000"),
        (["--protocol", "linear-dino", "--help"], 0, "eval_interval: 1"),
        (["--data.root", "x"], 2, "--protocol"),
        (
            ["--weights", "x", "--protocol", "knn", "--data.rot", "x"],
            2,
            "did you mean --data.root?",
        ),
        (["--weights", "x", "--protocol", "knn", "--data.max", "x"], 2, "--data.root is missing"),
        (["--protocol", "knn"], 2, "--data.root"),
        (["--data.global_batch_size", "3"], 2, "global_batch_size"),  # it would be ignored
        (["--accelerator", "cda"], 2, "did you mean cuda?"),
    ],
)
def test_help_and_what_the_parser_and_others_refuse(evaluate, capsys, words, code, text):
    if words[0] in ("--data.global_batch_size", "--accelerator"):
        run, words = evaluate, ("knn", *words)
    else:
        run, words = main, (["evaluate", *words],)
    with pytest.raises(SystemExit) as stopped:
        sys.exit(run(*words))  # without an error, if it has not ended before
    assert (stopped.value.code or 0) == code
    shown = capsys.readouterr()
    assert text in (shown.err if code else shown.out)


def test_other_pixel_statistics_are_undone_exactly():
    torch.manual_seed(0)
    encoder = ViT("nano", 16, 32, locality=Locality(refine=True)).double().eval()
    rgb = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    normalize = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    shifted, images = Renormalized(encoder).double(), normalize(rgb)
    expected = encoder((rgb - 0.5) / 0.5)
    found = shifted(images)
    torch.testing.assert_close(found.cls, expected.cls, atol=1e-6, rtol=0)
    (last,) = extract_layers(shifted, images, [LayerSelection((3,))])
    assert torch.equal(last.cls, found.cls)


def test_weights_have_their_pixel_statistics(evaluate, encoder, tmp_path, capsys):
    save(encoder, tmp_path / "plain.safetensors", "timm")
    given = ("--weights", str(tmp_path / "plain.safetensors"), "--family", "timm")
    refusal(evaluate, "knn", *given)
    assert "--pixels half" in capsys.readouterr().err
    save(encoder, tmp_path / "imported", origin="locatvit")
    result = evaluate(*KNN, "--weights", str(tmp_path / "imported"))
    assert result.weights.encoder["pixels"] == "half"


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(evaluate, weights, drawn, tmp_path):
    one = evaluate("dinov2-linear", *SMALL, data="VOCdevkit")
    words = ["--weights", str(weights), "--protocol", "dinov2-linear", *SMALL, "--devices", "2"]
    words += ["--data.root", str(drawn / "VOCdevkit"), "--num-workers", "0", "--accelerator", "cpu"]
    command = [sys.executable, "-m", "vitlab", "evaluate", *words, "--out", str(tmp_path / "two")]
    subprocess.run(command, check=True, timeout=300)
    two = Result.read(tmp_path / "two")
    for found, expected in ((two.scores, one.scores), (two.interval, one.interval)):
        assert found == pytest.approx(expected, abs=1e-6)
