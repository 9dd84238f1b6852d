"""Runs of decision-stream calibration, in miniature: stages in order, identities, bad input."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from runs import UNPROBED, assert_same_bits, interrupted, read, refusal, run_fit, weights

from vitlab.cli import main
from vitlab.data.foreground import mask_name
from vitlab.encoders import load, load_pretrained, save
from vitlab.objectives import Calibration
from vitlab.run.module import Pretraining

CLASSIFIER = "--model.objective.classifier"
UNLEARNED = ("--model.objective.dimensions.allow_unlearned", "true")
ALONE = {"dimensions": (*UNLEARNED, f"{CLASSIFIER}.allow_uncalibrated", "true")}
SMALL = (
    *("--data.transform.size", "64", "--probing.size", "64", "--probing.dense_size", "64"),
    *("--model.optimizer.warmup_epochs", "0", "--model.optimizer.lr", "4e-4"),
    *("--model.optimizer.lr_schedule.base_batch_size", "0", *UNPROBED),
)
Train = Callable[..., Path]


@pytest.fixture(scope="module")
def converged(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of a supervised run; it has not converged, of course."""
    init = {"size": "nano", "patch_size": 8, "img_size": 64, "drop_path": 0.1}
    encoder = json.dumps({"class_path": "ViT", "init_args": init})
    schedule = "--model.optimizer.lr_schedule"
    options = (
        *("--model.objective.mixup", '{"mixup_alpha": 0, "cutmix_alpha": 0}'),
        *("--model.objective.ema_decay", "0", "--model.objective.random_erasing", '{"prob": 0}'),
        *("--data.repeats", "1", "--model.objective.encoder", encoder, "--trainer.max_epochs", "8"),
        *(f"{schedule}.cooldown_epochs", "0", f"{schedule}.warmup_lr", "0"),
    )
    folder = tmp_path_factory.mktemp("converged") / "run"
    return run_fit(folder, drawn, ["supervised_deit_s"], *SMALL, *options) / "last.ckpt"


@pytest.fixture
def calibrate(drawn: Path, tmp_path: Path, converged: Path) -> Train:
    """Run a stage from the supervised run, or from another one; returns its folder."""

    def run(stage: str, *options: str, name: str = "run", start: Path | None = None) -> Path:
        path = (f"{CLASSIFIER}.path", str(start or converged))
        return run_fit(tmp_path / name, drawn, [f"calibrate_{stage}"], *SMALL, *path, *options)

    return run


def test_the_stages_follow_each_other_from_the_model_before_both(
    calibrate: Train, converged: Path, tmp_path: Path
):
    first = calibrate("tokens", name="first")
    second = calibrate("dimensions", *UNLEARNED, name="second", start=first / "last.ckpt")
    before = torch.load(converged, weights_only=True)["state_dict"]
    for name, tensor in before.items():
        _, _, rest = name.partition("objective.model.")
        assert torch.equal(weights(first)[f"objective.reference.{rest}"], tensor)
        assert torch.equal(weights(second)[f"objective.reference.{rest}"], tensor)
    assert not torch.equal(
        weights(first)["objective.classification.model.head.weight"],
        before["objective.model.head.weight"],
    )
    assert {"val/top1", "val/loss"} <= read(second / "results.json")[-1].keys()
    # read back without the files it began from, and exported as the plain encoder it is
    model = Pretraining.load_from_checkpoint(second / "last.ckpt", weights_only=True)
    assert isinstance(model.objective, Calibration)
    save(load_pretrained(second / "last.ckpt", which="model").encoder, tmp_path / "encoder")
    exported = load(tmp_path / "encoder")
    assert exported.state_dict().keys() == model.objective.encoder.state_dict().keys()


@pytest.mark.parametrize("stage", ["tokens", "dimensions", "blank"])
def test_the_demo_shrinks_every_config(stage: str, converged: Path, drawn: Path, tmp_path, capsys):
    path = (f"{CLASSIFIER}.path", str(converged), *ALONE.get(stage, ()), "--dry-run")
    run_fit(tmp_path / "run", drawn, [f"calibrate_{stage}", "demo_calibrate"], *path)
    assert "20 images x 1 devices" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["tokens", "dimensions"])
def test_half_precision_and_micro_batches_work(calibrate: Train, stage: str, capsys):
    options = ("--trainer.precision", "bf16-mixed", "--data.micro_batch_size", "10")
    folder = calibrate(stage, *options, *ALONE.get(stage, ()))
    assert all(value.isfinite().all() for value in weights(folder).values())
    assert ("masks of" in capsys.readouterr().out) == (stage == "dimensions")


@pytest.mark.slow
def test_the_report_puts_the_arms_side_by_side(
    calibrate: Train, converged: Path, drawn: Path, tmp_path: Path, capsys
):
    stage = calibrate("tokens")
    arms = [f"before={converged}", f"tokens={stage / 'last.ckpt'}"]
    out = tmp_path / "new" / "report.v1"
    options = ["--data.root", str(drawn / "imagenet"), "--size", "64", "--out", str(out)]
    main(["report", "calibration", *arms, *options])
    lines = out.with_name("report.v1.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["before", "tokens"]
    scored = read(stage / "results.json")[-1]["val/top1"]
    assert float(lines[3].split("|")[2]) == pytest.approx(scored, abs=0.05)
    assert out.with_name("report.v1.png").exists()
    assert out.with_name("report.v1_rules.png").exists()
    for wrong, message in (
        (["nothing"], "is no NAME=CHECKPOINT"),
        (["a=nothing"], "there is no file"),
        ([*arms, arms[0]], "is given twice"),
        ([*arms, "--size", "60"], "is not a multiple of patch 8"),
    ):
        refusal(main, ["report", "calibration", *options, *wrong])
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_masks_reach_a_run_and_those_that_show_no_background_add_nothing(
    calibrate: Train, drawn: Path, tmp_path: Path, capsys
):
    """One mask is all object, the other images have none: the weights are the blank arm's."""
    root = tmp_path / "masked"
    root.mkdir()
    for place in (drawn / "imagenet").iterdir():
        (root / place.name).symlink_to(place)
    masks = ("tokens", "--model.objective.tokens.foreground", "masks", "--data.root", str(root))
    plain = ("--data.transform.auto_augment", "")
    refusal(calibrate, *masks, *plain)
    assert "none of the 48 training images has a mask" in capsys.readouterr().err
    image = next(path for path in sorted((root / "train").rglob("*")) if path.is_file())
    mask = root / mask_name(str(image.relative_to(root)))
    mask.parent.mkdir(parents=True)
    with Image.open(image) as opened:
        size = opened.size
    blank = weights(calibrate("blank", *plain, name="blank"))
    assert not any("reference" in name or "rules" in name for name in blank)
    for value in (255, 0):
        Image.new("L", size, value).save(mask)
        masked = weights(calibrate(*masks, *plain, name=str(value)))
        assert "1 training images have one; the others add nothing" in capsys.readouterr().out
        close = all(torch.allclose(blank[name], masked[name], atol=2e-4) for name in blank)
        assert close is (value == 255)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["tokens", "dimensions", "blank"])
def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(calibrate: Train, stage: str):
    def run(*more: str, name: str = "stopped") -> Path:
        return calibrate(stage, *ALONE.get(stage, ()), *more, name=name)

    assert_same_bits(run(name="calm"), interrupted(run))


def test_starts_that_cannot_be_calibrated_are_refused(
    calibrate: Train, capsys, converged: Path, tmp_path: Path
):
    save(load_pretrained(converged).encoder, tmp_path / "encoder")
    torch.save({"cls_token": torch.zeros(1, 1, 8)}, tmp_path / "bare.pth")
    content = torch.load(converged, weights_only=True)
    settings = content["hyper_parameters"]["objective"]["init_args"]
    settings["encoder"] = {"class_path": "vitlab.encoders.PromptedViT"}
    torch.save(content, tmp_path / "prompts.ckpt")
    content = torch.load(converged, weights_only=True)
    for name in ("objective.model.head.weight", "objective.model.head.bias"):
        content["state_dict"][name] = content["state_dict"][name][:7]
    torch.save(content, tmp_path / "seven.ckpt")
    uncalibrated = (f"{CLASSIFIER}.allow_uncalibrated", "true")
    for options, start, message in (
        (["dimensions"], None, "not the output of the first stage"),
        (["tokens", *uncalibrated], None, "would be ignored"),
        (["tokens"], "encoder", "an exported encoder has no classifier"),
        (["tokens"], "bare.pth", "holds no classifier"),
        (["tokens"], "nothing.pth", "there is no file"),
        (["tokens"], "prompts.ckpt", "holds prompts, "),
        (["tokens"], "seven.ckpt", "has 7 classes and the data have 12"),
    ):
        refusal(calibrate, *options, start=start and tmp_path / start)
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_class_without_a_correct_image_is_refused(calibrate: Train, capsys, tmp_path):
    """An encoder and a head that say the same of every image."""
    content = torch.load(calibrate("tokens", name="first") / "last.ckpt", weights_only=True)
    for name, value in content["state_dict"].items():
        if name.endswith("head.bias"):
            value[0] += 1000
    torch.save(content, tmp_path / "constant.ckpt")
    refusal(calibrate, "dimensions", start=tmp_path / "constant.ckpt", code=1)
    assert "no training image of the classes 1, 2" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("wrapping", ["model", ""])
def test_weights_of_deit_and_timm_bring_their_head(
    calibrate: Train, converged: Path, tmp_path: Path, wrapping: str
):
    state = torch.load(converged, weights_only=True)["state_dict"]
    plain = {name.replace("encoder.", "").removeprefix("objective.model."): value
             for name, value in state.items()}  # fmt: skip
    torch.save({wrapping: plain} if wrapping else plain, tmp_path / "deit.pth")
    family = (f"{CLASSIFIER}.family", "deit" if wrapping else "timm")
    after = weights(calibrate("tokens", *family, start=tmp_path / "deit.pth"))
    for name in ("head.weight", "head.bias"):
        assert torch.equal(after[f"objective.reference.{name}"], plain[name])
