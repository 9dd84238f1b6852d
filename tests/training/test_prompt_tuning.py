"""Runs of prompt tuning, in miniature: what is kept, what resumes, what is refused."""

import json

import pytest
import torch
import yaml
from runs import CONFIGS, assert_same_bits, interrupt, weights

from vitlab.cli import main
from vitlab.encoders import PromptedViT, Prompts, ViT, load_pretrained, save
from vitlab.objectives import PromptTuning
from vitlab.training import Pretraining
from vitlab.training.cli import FitCLI

RECIPES = sorted(path.stem for path in CONFIGS.glob("prompts_*.yaml"))
OVERLAYS = sorted((CONFIGS / "prompts").glob("*.yaml"))


@pytest.fixture
def backbone(tmp_path):
    torch.manual_seed(5)
    save(ViT("nano", 8, 64), tmp_path / "backbone")
    return tmp_path / "backbone"


@pytest.fixture
def train(drawn, tmp_path, backbone):
    """Run `vitlab fit` of a prompts config in this process; returns its folder."""

    def run(*options, config="prompts_tcpa", name="run", path=backbone):
        folder = tmp_path / name
        start = "--model.objective.encoder.backbone"
        main(
            [
                *("fit", "--config", str(CONFIGS / f"{config}.yaml")),
                *("--config", str(CONFIGS / "demo_prompts.yaml"), "--run-dir", str(folder)),
                *("--synthetic.root", "", "--data.root", str(drawn / "imagenet")),
                *(f"{start}.path", str(path), f"{start}.family", "auto", f"{start}.which", ""),
                *("--data.num_workers", "0", "--data.global_batch_size", "20"),
                *("--validation.num_workers", "0"),
                *("--trainer.precision", "32-true", "--trainer.enable_progress_bar", "false"),
                *("--trainer.max_epochs", "2", "--model.optimizer.warmup_epochs", "1"),
                *options,
            ]
        )
        return folder

    return run


@pytest.mark.parametrize(
    "config",
    ["prompts_r_tcpa", *(pytest.param(c, marks=pytest.mark.slow) for c in RECIPES[1:])],
)
def test_every_recipe_trains_is_scored_and_keeps_no_backbone(train, backbone, config):
    folder = train(config=config)
    assert {"val/top1", "val/loss"} <= json.loads((folder / "results.json").read_text())[-1].keys()
    state = weights(folder)
    names = {name.removeprefix("objective.model.") for name in state}
    assert names - {"head.weight", "head.bias", "encoder.fingerprint"} == {
        name for name in names if ".prompts." in name
    }
    trained = sum(tensor.numel() for tensor in state.values()) - 32
    size = (folder / "last.ckpt").stat().st_size
    assert size < 3 * 4 * trained + 100_000  # with both averages of AdamW
    model = Pretraining.load_from_checkpoint(folder / "last.ckpt", weights_only=True)
    assert isinstance(model.objective, PromptTuning)
    before = load_pretrained(backbone).encoder.state_dict()
    for name, tensor in before.items():
        assert torch.equal(model.objective.encoder.backbone.state_dict()[name], tensor), name


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(train, backbone, monkeypatch):
    """With mixup, dropout of prompts, entries drawn in the first half; the backbone has moved."""
    options = ("--model.objective.matching.random_fraction", "0.7")
    calm = train(*options, name="calm")
    with monkeypatch.context() as patch:
        interrupt(patch)
        with pytest.raises(SystemExit):
            train(*options, name="stopped")
    moved = backbone.rename(backbone.with_name("moved"))
    assert_same_bits(calm, train(*options, "--ckpt_path", "last", path=moved, name="stopped"))


@pytest.mark.slow
def test_another_backbone_is_refused_when_a_run_goes_on(train, tmp_path, capsys):
    last = train() / "last.ckpt"
    torch.manual_seed(6)
    save(ViT("nano", 8, 64), tmp_path / "other")
    more = ("--ckpt_path", str(last), "--trainer.max_epochs", "3")
    with pytest.raises(SystemExit) as stopped:
        train(*more, path=tmp_path / "other", name="other")
    assert stopped.value.code == 2
    assert "were learned beside the backbone" in capsys.readouterr().err


@pytest.mark.slow
def test_dense_probes_run_on_a_prompted_encoder(train, drawn):
    folder = train(
        *("--probing.dense.voc2012.class_path", "VOC2012"),
        *("--probing.dense.voc2012.root", str(drawn / "VOCdevkit"), "--probing.num_workers", "0"),
    )
    last = json.loads((folder / "results.json").read_text())[-1]
    assert {"knn/top1", "linear/top1", "miou/voc2012", "val/top1"} <= last.keys()


def test_head_bias_keys_and_prompts_are_one_group_with_decay():
    path = CONFIGS / "prompts_tcpa.yaml"
    assert yaml.safe_load(path.read_text())["model"]["optimizer"]["param_groups"] == {
        "decay_1d": True
    }
    from vitlab.optim.optimizer import OptimizerConfig, ParamGroups

    objective = PromptTuning(PromptedViT(ViT("nano", 8, 32), Prompts(shared=1)), 3)
    for vectors, count in ((True, 0), (False, 1)):
        optimizer = OptimizerConfig(param_groups=ParamGroups(decay_1d=vectors)).build(objective)
        assert len(optimizer.param_groups[1]["params"]) == count
        assert sum(len(group["params"]) for group in optimizer.param_groups) == 6


# of the scripts released with TCPA: pool, rate, decay
TABLE = {
    "dtd": (18, 0.01, 0.1),
    "cub": (18, 0.0015, 0.5),
    "nabirds": (18, 0.001, 0.5),
    "dogs": (16, 0.004, 0.5),
    "flowers": (18, 0.014, 1.4),
    "food101": (18, 0.005, 0.1),
    "cifar100": (18, 0.004, 0.1),
    "cifar10": (18, 0.005, 0.1),
    "gtsrb": (18, 0.001, 0.1),
    "svhn": (18, 0.002, 0.1),
}


def test_there_is_an_overlay_for_each_data_set_of_the_table():
    assert {path.stem for path in OVERLAYS} == set(TABLE)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_a_recipe_resolves_to_the_values_of_the_table(overlay, backbone, tmp_path, drawn):
    command = FitCLI(
        [
            *("--config", str(CONFIGS / "prompts_tcpa.yaml"), "--config", str(overlay)),
            *("--run-dir", str(tmp_path / "run"), "--trainer.precision", "32-true"),
            *("--trainer.accelerator", "cpu", "--trainer.devices", "1"),
            *("--data.class_path", "ImageNet", "--data.root", str(drawn / "imagenet")),
            *("--model.objective.encoder.backbone.path", str(backbone)),
            *("--model.objective.encoder.backbone.family", "auto"),
        ]
    )
    optimizer, objective = command.model.settings, command.model.objective
    size, rate, decay = TABLE[overlay.stem]
    prompts, views = objective.encoder.prompts, command.datamodule.transform
    for pool in (prompts.cls, prompts.patches):
        assert (pool.size, pool.length, pool.top_k) == (size, 1, 10)
    assert (prompts.dropout, prompts.mask_mode, prompts.shared) == (0.1, "post_softmax", 0)
    assert optimizer.peak_lr(command.datamodule.global_batch_size) == pytest.approx(rate)
    assert (optimizer.weight_decay, optimizer.final_weight_decay) == (decay, decay)
    assert (optimizer.name, optimizer.betas, optimizer.clip_grad_norm) == (
        "adamw",
        (0.9, 0.999),
        0.0,
    )
    assert (optimizer.warmup_epochs, optimizer.min_lr, optimizer.lr_schedule.warmup_lr) == (
        20,
        0.0,
        0.0,
    )
    assert (command.trainer.max_epochs, command.datamodule.global_batch_size) == (100, 128)
    assert (objective.matching.weight, objective.matching.random_fraction) == (0.01, 0.1)
    assert (objective.mixup.mixup_alpha, objective.mixup.prob) == (0.8, 0.5)
    assert (objective.mixup.cutmix_alpha, objective.label_smoothing) == (0.0, 0.1)
    assert (views.size, views.resize_size, views.flip) == (224, 256, 0.5)
    assert command.config_init.validation.crop == 224 / 256
    given = yaml.safe_load(overlay.read_text())["data"]["class_path"]
    assert given == {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}.get(overlay.stem, "Folder")


def test_precision_is_fp16():
    for name in RECIPES:
        assert yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["trainer"] == {
            "max_epochs": 100,
            "precision": "16-mixed",
        }
