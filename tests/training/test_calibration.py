"""Runs of decision-stream calibration, in miniature: stages in order, identities, bad input."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from runs import CONFIGS, UNPROBED, assert_same_bits, interrupt, weights

from vitlab.cli import main
from vitlab.data.foreground import mask_name
from vitlab.encoders import load, load_pretrained, save
from vitlab.objectives import Calibration
from vitlab.training import Pretraining

PLAIN = (
    "--model.objective.mixup",
    '{"mixup_alpha": 0, "cutmix_alpha": 0}',
    "--model.objective.ema_decay",
    "0",
)
PLAIN += ("--model.objective.random_erasing", '{"prob": 0}')
Train = Callable[..., Path]


def command(config: str, folder: Path, drawn: Path, *options: str) -> None:
    main(
        [
            *("fit", "--config", str(CONFIGS / f"{config}.yaml"), "--run-dir", str(folder)),
            *("--data.root", str(drawn / "imagenet"), "--data.num_workers", "0"),
            *("--data.global_batch_size", "20", "--data.transform.size", "64"),
            *("--probing.size", "64"),
            *("--probing.dense_size", "64", "--probing.num_workers", "0"),
            *("--validation.num_workers", "0"),
            *("--trainer.precision", "32-true", "--trainer.enable_progress_bar", "false"),
            *("--trainer.accelerator", "cpu", "--trainer.devices", "1"),
            *("--trainer.max_epochs", "2", "--model.optimizer.lr", "4e-4"),
            *("--model.optimizer.warmup_epochs", "0"),
            *("--model.optimizer.lr_schedule.base_batch_size", "0", *UNPROBED),
            *options,
        ]
    )


@pytest.fixture(scope="module")
def converged(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of a supervised run; it has not converged, of lr_schedule."""
    folder = tmp_path_factory.mktemp("converged") / "run"
    encoder = {"size": "nano", "patch_size": 8, "img_size": 64, "drop_path": 0.1}
    lr_schedule = "--model.optimizer.lr_schedule"
    command(
        *("supervised_deit_s", folder, drawn, *PLAIN, "--data.repeats", "1"),
        *("--model.objective.encoder", json.dumps({"class_path": "ViT", "init_args": encoder})),
        *("--trainer.max_epochs", "8", f"{lr_schedule}.cooldown_epochs", "0"),
        *(f"{lr_schedule}.warmup_lr", "0"),
    )
    return folder / "last.ckpt"


@pytest.fixture
def calibrate(drawn: Path, tmp_path: Path, converged: Path) -> Train:
    """Run a stage from the supervised run, or from another one; returns its folder."""

    def run(stage: str, *options: str, name: str = "run", start: Path | None = None) -> Path:
        folder = tmp_path / name
        path = ("--model.objective.classifier.path", str(start or converged))
        command(f"calibrate_{stage}", folder, drawn, *path, *options)
        return folder

    return run


UNLEARNED = ("--model.objective.dimensions.allow_unlearned", "true")


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
    rows = json.loads((second / "results.json").read_text())
    assert {"val/top1", "val/loss"} <= rows[-1].keys()
    # read back without the files it began from, and exported as the plain encoder it is
    model = Pretraining.load_from_checkpoint(second / "last.ckpt", weights_only=True)
    assert isinstance(model.objective, Calibration)
    save(load_pretrained(second / "last.ckpt", which="model").encoder, tmp_path / "encoder")
    exported = load(tmp_path / "encoder")
    assert exported.state_dict().keys() == model.objective.encoder.state_dict().keys()


@pytest.mark.slow
def test_the_blank_arm_begins_where_the_other_does(calibrate: Train):
    blank = calibrate("blank", name="blank")
    assert not any("reference" in name or "rules" in name for name in weights(blank))


@pytest.mark.parametrize("stage", ["tokens", "dimensions", "blank"])
def test_the_demo_shrinks_every_config(stage: str, converged: Path, drawn: Path, tmp_path, capsys):
    configs = [f"calibrate_{stage}", "demo_calibrate"]
    classifier = "--model.objective.classifier"
    extra = (f"{classifier}.allow_uncalibrated", "true") if stage == "dimensions" else ()
    main(
        [
            *(
                "fit",
                *(word for name in configs for word in ("--config", f"{CONFIGS / name}.yaml")),
            ),
            *("--run-dir", str(tmp_path / "run"), "--synthetic.root", "", "--dry-run"),
            *("--data.root", str(drawn / "imagenet"), f"{classifier}.path", str(converged), *extra),
        ]
    )
    assert "16 images x 1 devices" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["tokens", "dimensions"])
def test_half_precision_and_micro_batches_work(calibrate: Train, stage: str, caplog):
    options = ("--trainer.precision", "bf16-mixed", "--data.micro_batch_size", "10")
    if stage == "dimensions":
        options = (*options, *UNLEARNED, "--model.objective.classifier.allow_uncalibrated", "true")
    folder = calibrate(stage, *options)
    assert all(value.isfinite().all() for value in weights(folder).values())
    assert ("masks of" in caplog.text) == (stage == "dimensions")


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
    scored = json.loads((stage / "results.json").read_text())[-1]["val/top1"]
    assert float(lines[3].split("|")[2]) == pytest.approx(scored, abs=0.05)
    assert out.with_name("report.v1.png").exists()
    assert out.with_name("report.v1_rules.png").exists()
    for wrong, message in (
        (["nothing"], "is no NAME=CHECKPOINT"),
        (["a=nothing"], "there is no file"),
        ([*arms, arms[0]], "is given twice"),
        ([*arms, "--size", "60"], "is not a multiple of patch 8"),
    ):
        asked = [*options, *wrong]
        assert message in refused(
            capsys, lambda asked=asked: main(["report", "calibration", *asked])
        )


@pytest.mark.slow
def test_masks_reach_a_run_and_those_that_show_no_background_add_nothing(
    calibrate: Train, drawn: Path, tmp_path: Path, capsys
):
    """One mask is all object, the other images have none: the weights are the blank arm's."""
    root = tmp_path / "masked"
    root.mkdir()
    for place in (drawn / "imagenet").iterdir():
        (root / place.name).symlink_to(place)
    masks = ("--model.objective.tokens.foreground", "masks", "--data.root", str(root))
    run = lambda name: calibrate("tokens", *masks, "--data.transform.auto_augment", "", name=name)  # noqa: E731
    assert "none of the 40 training images has a mask" in refused(capsys, lambda: run("none"))
    image = next(path for path in sorted((root / "train").rglob("*")) if path.is_file())
    mask = root / mask_name(str(image.relative_to(root)))
    mask.parent.mkdir(parents=True)
    with Image.open(image) as opened:
        size = opened.size
    Image.new("L", size, 255).save(mask)
    nothing = run("nothing")
    assert "1 training images have one; the others add nothing" in capsys.readouterr().out
    blank = weights(calibrate("blank", "--data.transform.auto_augment", "", name="blank"))
    for name, tensor in blank.items():
        assert torch.allclose(tensor, weights(nothing)[name], atol=2e-4), name
    Image.new("L", size, 0).save(mask)
    something = weights(run("something"))
    assert any(not torch.allclose(blank[name], something[name], atol=2e-4) for name in blank)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["tokens", "dimensions", "blank"])
def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(
    calibrate: Train, stage: str, monkeypatch
):
    options = ()
    if stage == "dimensions":
        options = (*UNLEARNED, "--model.objective.classifier.allow_uncalibrated", "true")
    calm = calibrate(stage, *options, name="calm")
    with monkeypatch.context() as patch:
        interrupt(patch)
        with pytest.raises(SystemExit):
            calibrate(stage, *options, name="stopped")
    resumed = calibrate(stage, *options, "--ckpt_path", "last", name="stopped")
    assert_same_bits(calm, resumed)


def refused(capsys, run: Callable[[], Path], code: int = 2) -> str:
    with pytest.raises(SystemExit) as stopped:
        run()
    assert stopped.value.code == code
    return capsys.readouterr().err


def test_the_second_stage_without_the_first_is_refused(calibrate: Train, capsys):
    message = refused(capsys, lambda: calibrate("dimensions"))
    assert "not the output of the first stage" in message
    ignored = ("--model.objective.classifier.allow_uncalibrated", "true")
    assert "would be ignored" in refused(capsys, lambda: calibrate("tokens", *ignored))


@pytest.mark.slow
def test_a_class_without_a_correct_image_is_refused(calibrate: Train, capsys, drawn, tmp_path):
    """An encoder and a head that say the same of every image."""
    first = calibrate("tokens", name="first")
    content = torch.load(first / "last.ckpt", weights_only=True)
    for name, value in content["state_dict"].items():
        if name.endswith("head.bias"):
            value[0] += 1000
    torch.save(content, tmp_path / "constant.ckpt")
    run = lambda: calibrate("dimensions", start=tmp_path / "constant.ckpt")  # noqa: E731
    assert "no training image of the classes 1, 2" in refused(capsys, run, code=1)


def test_files_without_a_classifier_are_refused(calibrate: Train, capsys, converged, tmp_path):
    save(load_pretrained(converged).encoder, tmp_path / "encoder")
    run = lambda: calibrate("tokens", start=tmp_path / "encoder")  # noqa: E731
    assert "an exported encoder has no classifier" in refused(capsys, run)
    torch.save({"cls_token": torch.zeros(1, 1, 8)}, tmp_path / "bare.pth")
    run = lambda: calibrate("tokens", start=tmp_path / "bare.pth")  # noqa: E731
    assert "holds no classifier" in refused(capsys, run)
    run = lambda: calibrate("tokens", start=tmp_path / "nothing.pth")  # noqa: E731
    assert "there is no file" in refused(capsys, run)
    content = torch.load(converged, weights_only=True)
    content["hyper_parameters"]["objective"]["class_path"] = "vitlab.objectives.PromptTuning"
    torch.save(content, tmp_path / "prompts.ckpt")
    run = lambda: calibrate("tokens", start=tmp_path / "prompts.ckpt")  # noqa: E731
    assert "holds prompts and a head beside a frozen backbone" in refused(capsys, run)


def test_a_classifier_of_other_classes_is_refused(calibrate: Train, capsys, converged, tmp_path):
    content = torch.load(converged, weights_only=True)
    for name in ("weight", "bias"):
        key = f"objective.model.head.{name}"
        content["state_dict"][key] = content["state_dict"][key][:7]
    torch.save(content, tmp_path / "seven.ckpt")
    run = lambda: calibrate("tokens", start=tmp_path / "seven.ckpt")  # noqa: E731
    assert "has 7 classes and the data have 10" in refused(capsys, run)


@pytest.mark.slow
@pytest.mark.parametrize("wrapping", ["model", ""])
def test_weights_of_deit_and_timm_bring_their_head(
    calibrate: Train, converged: Path, tmp_path: Path, wrapping: str
):
    state = torch.load(converged, weights_only=True)["state_dict"]
    plain = {name.replace("encoder.", "").removeprefix("objective.model."): value
             for name, value in state.items()}  # fmt: skip
    torch.save({wrapping: plain} if wrapping else plain, tmp_path / "deit.pth")
    family = ("--model.objective.classifier.family", "deit" if wrapping else "timm")
    folder = calibrate("tokens", *family, start=tmp_path / "deit.pth")
    for name, value in plain.items():
        if name.startswith("head"):
            assert torch.equal(weights(folder)[f"objective.reference.{name}"], value)
