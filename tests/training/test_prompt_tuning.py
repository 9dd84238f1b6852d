"""Runs of prompt tuning, in miniature: what is kept, what resumes, what is refused."""

import pytest
import torch
import yaml
from runs import CONFIGS, assert_same_bits, interrupted, read, refusal, run_fit, weights, words

from vitlab.encoders import PromptedViT, Prompts, ViT, load_pretrained, save
from vitlab.objectives import PromptTuning
from vitlab.optim.optimizer import OptimizerConfig, ParamGroups
from vitlab.run.module import Pretraining
from vitlab.training.cli import FitCLI

RECIPES = sorted(path.stem for path in CONFIGS.glob("prompts_*.yaml"))
START = "--model.objective.encoder.backbone"


@pytest.fixture
def backbone(tmp_path):
    torch.manual_seed(5)
    save(ViT("nano", 8, 64), tmp_path / "backbone")
    return tmp_path / "backbone"


@pytest.fixture
def train(drawn, tmp_path, backbone):
    """Run `vitlab fit` of a prompts config in this process; returns its folder."""

    def run(*options, config="prompts_tcpa", name="run", path=backbone):
        start = (f"{START}.path", str(path), f"{START}.family", "auto", f"{START}.which", "")
        return run_fit(tmp_path / name, drawn, [config, "demo_prompts"], *start, *options)

    return run


@pytest.mark.parametrize(
    "config",
    ["prompts_r_tcpa", *(pytest.param(c, marks=pytest.mark.slow) for c in RECIPES[1:])],
)
def test_every_recipe_trains_is_scored_and_keeps_no_backbone(train, backbone, config):
    folder = train(config=config)
    assert {"val/top1", "val/loss"} <= read(folder / "results.json")[-1].keys()
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
def test_a_run_resumes_to_the_bit_beside_its_own_backbone_only(train, backbone, tmp_path, capsys):
    """With mixup, dropout of prompts, entries drawn in the first half; the backbone has moved."""
    options = ("--model.objective.matching.random_fraction", "0.7")
    calm = train(*options, name="calm")
    moved = backbone.with_name("moved")

    def run(*more):
        if more:
            backbone.rename(moved)
        return train(*options, *more, path=moved if more else backbone, name="stopped")

    assert_same_bits(calm, interrupted(run))
    save(ViT("nano", 8, 64), tmp_path / "other")
    more = ("--ckpt_path", str(calm / "last.ckpt"), "--trainer.max_epochs", "3")
    refusal(train, *more, path=tmp_path / "other", name="other")
    assert "that they were trained with" in capsys.readouterr().err


@pytest.mark.slow
def test_dense_probes_run_on_a_prompted_encoder(train, drawn):
    dense = ("--probing.dense.voc2012.class_path", "VOC2012")
    folder = train(*dense, "--probing.dense.voc2012.root", str(drawn / "VOCdevkit"))
    last = read(folder / "results.json")[-1]
    assert {"knn/top1", "linear/top1", "miou/voc2012", "val/top1"} <= last.keys()


def test_head_bias_keys_and_prompts_are_one_group_with_decay():
    objective = PromptTuning(PromptedViT(ViT("nano", 8, 32), Prompts(shared=1)), 3)
    for vectors, count in ((True, 0), (False, 1)):
        optimizer = OptimizerConfig(param_groups=ParamGroups(decay_1d=vectors)).build(objective)
        assert len(optimizer.param_groups[1]["params"]) == count
        assert sum(len(group["params"]) for group in optimizer.param_groups) == 6


# of the scripts released with TCPA: pool, rate, decay
TABLE = {
    "dtd": (18, 0.01, 0.1), "cub": (18, 0.0015, 0.5), "nabirds": (18, 0.001, 0.5),
    "dogs": (16, 0.004, 0.5), "flowers": (18, 0.014, 1.4), "food101": (18, 0.005, 0.1),
    "cifar100": (18, 0.004, 0.1), "cifar10": (18, 0.005, 0.1), "gtsrb": (18, 0.001, 0.1),
    "svhn": (18, 0.002, 0.1),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_a_recipe_resolves_to_the_values_of_the_table(name, backbone, tmp_path, drawn):
    full = words(tmp_path / "run", drawn, ["prompts_tcpa", f"prompts/{name}"])
    for option in ("--data.global_batch_size", "--trainer.max_epochs", "--model.optimizer.warmup"):
        place = next(index for index, word in enumerate(full) if word.startswith(option))
        del full[place : place + 2]  # those of a small run
    data = ("--data.class_path", "ImageNet", "--data.root", str(drawn / "imagenet"))
    start = (f"{START}.path", str(backbone), f"{START}.family", "auto")
    command = FitCLI([*full[1:], *data, *start])
    optimizer, objective = command.model.settings, command.model.objective
    size, rate, decay = TABLE[name]
    prompts, views = objective.encoder.prompts, command.datamodule.transform
    schedule, mixup, matching = optimizer.lr_schedule, objective.mixup, objective.matching
    for pool in (prompts.cls, prompts.patches):
        assert (pool.size, pool.length, pool.top_k) == (size, 1, 10)
    assert (prompts.dropout, prompts.mask_mode, prompts.shared) == (0.1, "post_softmax", 0)
    assert optimizer.peak_lr(command.datamodule.global_batch_size) == pytest.approx(rate)
    assert (optimizer.weight_decay, optimizer.final_weight_decay) == (decay, decay)
    assert (optimizer.name, optimizer.betas) == ("adamw", (0.9, 0.999))
    assert (optimizer.clip_grad_norm, optimizer.param_groups.decay_1d) == (0.0, True)
    assert (optimizer.warmup_epochs, optimizer.min_lr, schedule.warmup_lr) == (20, 0.0, 0.0)
    assert (command.trainer.max_epochs, command.datamodule.global_batch_size) == (100, 128)
    assert (matching.weight, matching.random_fraction) == (0.01, 0.1)
    assert (mixup.mixup_alpha, mixup.prob, mixup.cutmix_alpha) == (0.8, 0.5, 0.0)
    assert objective.label_smoothing == 0.1
    assert (views.size, views.resize_size, views.flip) == (224, 256, 0.5)
    assert command.config_init.validation.crop == 224 / 256
    given = yaml.safe_load((CONFIGS / f"prompts/{name}.yaml").read_text())["data"]["class_path"]
    assert given == {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}.get(name, "Folder")


def test_every_data_set_has_an_overlay_and_every_recipe_is_fp16():
    assert {path.stem for path in (CONFIGS / "prompts").glob("*.yaml")} == set(TABLE)
    for name in RECIPES:
        trainer = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["trainer"]
        assert trainer == {"max_epochs": 100, "precision": "16-mixed"}
