"""`vitlab evaluate` and `vitlab compare`, as people type them."""

import subprocess
import sys

import pytest
import torch

from vitlab.cli import main
from vitlab.encoders import Locality, ViT, load_pretrained, save
from vitlab.evaluation.frozen_encoder import Renormalized
from vitlab.evaluation.registry import names
from vitlab.evaluation.result import Result
from vitlab.probes.layer_selection import LayerSelection, extract_layers

# what makes a protocol of trained heads small; the settings are the protocol's own
SMALL = [
    *("--protocol.recipe.iterations", "3", "--protocol.recipe.batch_size", "3"),
    *("--protocol.transform.size", "64", "--protocol.transform.short_side", "64"),
    *("--protocol.test.window", "64", "--protocol.test.stride", "32"),
    *("--protocol.test.short", "64"),
]
READINGS = "--protocol.inputs.readings"


@pytest.mark.filterwarnings("ignore:there are 40 training images")
def test_a_result_says_what_was_measured_and_how(evaluate, weights, tmp_path, capsys):
    result = evaluate("knn")
    assert result.protocol.name == "knn"
    assert result.protocol.changed == {}
    assert result.data.dataset == "ImageNet"
    assert result.data.counts == {"train": 40, "val": 20}
    assert result.weights.encoder["size"] == "nano"
    assert result.weights.encoder["pixels"] == "imagenet"
    assert result.scores[result.headline] == result.scores["top1/k 20"]
    shown = capsys.readouterr().out
    assert f"{result.value:.2f}" in shown
    assert result.protocol.hash in shown


def test_pictures_and_curves_lie_beside_a_segmentation(evaluate, tmp_path):
    evaluate("dinov2-linear", *SMALL, data="VOCdevkit")
    assert (tmp_path / "result/pictures.png").stat().st_size > 1000
    assert list((tmp_path / "result").glob("events.out.tfevents.*"))
    assert not (tmp_path / "result/.unfinished").exists()


def test_changed_settings_change_the_hash_and_are_named(evaluate):
    first = evaluate("dinov2-linear", *SMALL, data="VOCdevkit")
    second = evaluate(
        "dinov2-linear",
        *SMALL,
        "--protocol.recipe.weight_decay",
        "0.5",
        data="VOCdevkit",
        out="other",
    )
    assert first.protocol.changed["recipe.iterations"] == (40000, 3)
    assert "recipe.weight_decay" not in first.protocol.changed
    assert second.protocol.changed["recipe.weight_decay"] == (1e-4, 0.5)
    assert first.protocol.hash != second.protocol.hash


def test_the_settings_of_a_dataset_are_part_of_the_protocol(evaluate):
    settings = evaluate("dinov2-linear", *SMALL[:4], "--protocol.test.window", "64",
                        "--protocol.test.stride", "64", "--protocol.transform.size", "64",
                        data="VOCdevkit").protocol.settings  # fmt: skip
    assert settings["init_args"]["transform"]["init_args"]["ratio"] == [1.0, 3.0]
    assert settings["init_args"]["test"]["short"] == 640


@pytest.mark.filterwarnings("ignore:there are 40 training images")
def test_a_result_is_not_overwritten_unless_told(evaluate, capsys):
    evaluate("knn")
    with pytest.raises(SystemExit) as stopped:
        evaluate("knn")
    assert stopped.value.code == 2
    assert "already holds a result" in capsys.readouterr().err
    evaluate("knn", "--overwrite")


def test_a_dry_run_checks_and_leaves_nothing(evaluate, tmp_path, capsys):
    with pytest.raises(ValueError, match="there is no"):
        evaluate("knn", "--dry-run")
    assert "40 images" in capsys.readouterr().out
    assert not (tmp_path / "result").exists()


@pytest.mark.parametrize(
    ("protocol", "data", "options", "reason"),
    [
        ("knnn", "imagenet", [], "did you mean knn"),
        ("knn", "VOCdevkit", [], "needs image labels"),
        ("dinov2-linear", "imagenet", [], "needs masks"),
        ("knn", "", [], "name its class with --data"),
        ("knn", "imagenet", ["--weights", "nothing.pth"], "nothing.pth"),
        ("knn", "imagenet", ["--data.train_split", "trian"], "no split 'trian'"),
        ("vitlab-fast", "VOCdevkit", ["--protocol.size", "100"], "multiple of patch 16"),
        (
            "dinov2-linear",
            "VOCdevkit",
            ["--protocol.inputs.readings", "[{layers: [9]}]"],
            "layer 9",
        ),
    ],
)
def test_bad_input_is_refused_with_one_message(
    evaluate, tmp_path, capsys, protocol, data, options, reason
):
    with pytest.raises(SystemExit) as stopped:
        evaluate(protocol, *options, data=data)
    assert stopped.value.code == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "result").exists()


def test_an_option_that_would_be_ignored_is_refused(evaluate, capsys):
    with pytest.raises(SystemExit):
        evaluate("knn", "--data.global_batch_size", "3")
    assert "global_batch_size" in capsys.readouterr().err


def test_all_protocols_are_listed(capsys):
    main(["evaluate", "--list"])
    shown = capsys.readouterr().out
    assert len(names()) == 14
    for name in names():
        assert name in shown


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "--help"])
    assert stopped.value.code == 0
    assert "--protocol.recipe.iterations 1000" in capsys.readouterr().out


def test_other_pixel_statistics_are_undone_exactly():
    torch.manual_seed(0)
    encoder = ViT("nano", 16, 32, locality=Locality(refine=True)).double().eval()
    rgb = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    mean = torch.tensor((0.485, 0.456, 0.406), dtype=torch.float64).view(3, 1, 1)
    std = torch.tensor((0.229, 0.224, 0.225), dtype=torch.float64).view(3, 1, 1)
    shifted = Renormalized(encoder).double()
    expected = encoder((rgb - 0.5) / 0.5)
    found = shifted((rgb - mean) / std)
    torch.testing.assert_close(found.cls, expected.cls, atol=1e-6, rtol=0)
    (last,) = extract_layers(shifted, (rgb - mean) / std, [LayerSelection((3,))])
    assert torch.equal(last.cls, found.cls)


def test_weights_of_timm_must_say_which_pixels_they_take(evaluate, weights, tmp_path, capsys):
    save(load_pretrained(weights).encoder, tmp_path / "plain.safetensors", "timm")
    given = ("--weights", str(tmp_path / "plain.safetensors"), "--family", "timm")
    with pytest.raises(SystemExit):
        evaluate("knn", *given)
    assert "--pixels half" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:there are 40 training images")
def test_an_imported_folder_remembers_which_pixels_its_weights_take(evaluate, weights, tmp_path):
    save(load_pretrained(weights).encoder, tmp_path / "imported", origin="locatvit")
    result = evaluate("knn", "--weights", str(tmp_path / "imported"))
    assert result.weights.encoder["pixels"] == "half"
    assert evaluate("knn", out="other").weights.encoder["pixels"] == "imagenet"


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(weights, drawn, tmp_path):
    for processes in (1, 2):
        words = ["evaluate", "--weights", str(weights), "--protocol", "dinov2-linear"]
        words += ["--data.root", str(drawn / "VOCdevkit"), "--num-workers", "0", *SMALL]
        words += ["--accelerator", "cpu", "--devices", str(processes)]
        words += ["--out", str(tmp_path / str(processes))]
        subprocess.run([sys.executable, "-m", "vitlab", *words], check=True, timeout=300)
    one, two = (Result.read(tmp_path / str(processes)) for processes in (1, 2))
    assert one.scores == pytest.approx(two.scores, abs=1e-6)
    assert one.interval == pytest.approx(two.interval, abs=1e-6)


@pytest.mark.filterwarnings("ignore:there are 40 training images")
def test_results_are_put_side_by_side(evaluate, tmp_path, capsys):
    evaluate("knn", out="all/a")
    evaluate("knn", out="all/b")
    main(["compare", str(tmp_path / "all"), "--out", str(tmp_path / "table")])
    assert "+0.00 [+0.00, +0.00]" in capsys.readouterr().out
    for ending in ("md", "csv", "tex", "png", "svg"):
        assert (tmp_path / f"table.{ending}").stat().st_size
