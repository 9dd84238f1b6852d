"""`vitlab fit` in miniature: identities, what a run leaves behind, bad input."""

import json
import pickle
import re
import shutil
from collections import UserList
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
import yaml
from lightning import Trainer
from refusals import refused
from runs import (
    CONFIGS,
    UNPROBED,
    Signalled,
    assert_same_bits,
    curves,
    interrupt,
    interrupted,
    read,
    refusal,
    run_fit,
    weights,
)
from torch.utils.data import BatchSampler, DataLoader

from vitlab.callbacks.nan_guard import NaNGuard
from vitlab.callbacks.throughput import ThroughputMonitor
from vitlab.cli import main
from vitlab.data.batch import Batch
from vitlab.encoders import ViT
from vitlab.errors import InputError
from vitlab.objectives import DINO, DINOHeadConfig
from vitlab.optim.optimizer import OptimizerConfig
from vitlab.run.module import Pretraining
from vitlab.training.cli import FitCLI
from vitlab.training.summary import below_baselines, summary_rows
from vitlab.training.synthetic import Synthetic

Fit = Callable[..., Path]
# [CLS]-specific weights, drop path and probes: what could differ after a resume
ALL = ("--model.objective.encoder.drop_path", "0.3", "--probing.every_n_epochs", "1")
ALL += ("--trainer.log_every_n_steps", "1", "--model.objective.head.out_dim", "64")
ARM = ["dino_entmax", "demo"]


@pytest.fixture(scope="module")
def probed(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is measured before training and after each epoch."""
    return run_fit(tmp_path_factory.mktemp("runs") / "probed", drawn, ARM, *ALL)


def test_probing_does_not_affect_training(probed: Path, drawn: Path, tmp_path: Path):
    assert_same_bits(probed, run_fit(tmp_path / "run", drawn, ARM, *ALL, *UNPROBED))


def test_a_run_resumed_within_an_epoch_is_bit_identical(probed, drawn, tmp_path, capsys):
    def run(*more: str) -> Path:
        return run_fit(tmp_path / "run", drawn, ARM, *ALL, *more)

    resumed = interrupted(run, Signalled, code=75)
    assert "stopped by SIGTERM at step 3; continue with --run-dir" in capsys.readouterr().err
    assert_same_bits(probed, resumed)
    assert read(probed / "measurements.json") == read(resumed / "measurements.json")


def test_a_run_ends_with_its_pictures_and_commands(fit: Fit, drawn: Path, capsys):
    folder = fit(*ALL, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1")
    text = capsys.readouterr().out
    assert f"pictures     {folder}/pictures/voc2012_epoch_0001.png\n" in text
    assert f"curves       tensorboard --logdir {folder}\n" in text
    words = text.splitlines()[-1].split()[1:]
    assert words[:4] == ["vitlab", "evaluate", "--weights", f"{folder}/best.ckpt"]
    main([*words[1:], "--dry-run"])
    short = ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1")
    fit(*short, "--callbacks.probing", "false", name="short")
    assert "curves" not in capsys.readouterr().out  # there are none


def test_a_run_leaves_scores_pictures_settings_and_curves(probed: Path):
    rows = read(probed / "results.json")
    names = [row["encoder"] for row in rows]
    assert (names[:2], names[-1]) == (["pixels", "untrained"], "trained, epoch 2")
    for row in rows:
        for tag in ("knn/top1", "linear/top1", "miou/voc2012"):
            assert 0 <= row[tag] <= 100
    names = {path.name for path in probed.iterdir()}
    assert {"config.yaml", "environment.json", "last.ckpt", "best.ckpt", "pictures"} <= names
    version = read(probed / "environment.json")["packages"]["torch"]
    assert torch.__version__.startswith(version)
    status = read(probed / "status.json")
    assert status["state"] == "finished"
    assert (status["step"], status["epoch"]) == (status["steps"], status["epochs"]) == (4, 2)
    assert {"loss", "knn/top1"} <= status["metrics"].keys()
    found = curves(probed)
    tags = {"linear/top1", "miou/voc2012", "loss", "teacher/entropy"}
    tags |= {"teacher/momentum", "optimizer/learning_rate", "optimizer/weight_decay"}
    tags |= {"optimizer/gradient_norm", "speed/images_per_second", "speed/data_wait"}
    assert tags | {"probe/seconds"} <= found.keys()
    assert [step for step, _ in found["knn/top1"]] == [0, 2, 4]
    assert "miou/mean" not in found  # which is that of the single set


def test_the_saved_config_and_checkpoint_repeat_the_run(probed: Path, tmp_path: Path):
    cli = FitCLI(["--config", str(probed / "config.yaml"), "--run-dir", str(tmp_path / "again")])
    assert cli.datamodule.global_batch_size == 20
    built = Pretraining.load_from_checkpoint(probed / "last.ckpt", weights_only=True)
    assert cli.model.state_dict().keys() == built.state_dict().keys()
    for name, tensor in weights(probed).items():
        assert torch.equal(tensor, built.state_dict()[name])


def test_a_folder_is_kept_for_its_own_run(probed: Path, drawn: Path, tmp_path: Path, capsys):
    before = (probed / "last.ckpt").read_bytes()
    for again in ((), ("--ckpt_path", "last")):
        refusal(run_fit, probed, drawn, ARM, *ALL, *again)
        assert "holds a finished run" in capsys.readouterr().err
    assert (probed / "last.ckpt").read_bytes() == before
    run_fit(probed, drawn, ARM, *ALL, "--ckpt_path", "auto")
    assert "is finished; nothing is left to do" in capsys.readouterr().out
    (tmp_path / "run").mkdir()
    (tmp_path / "run/thesis.tex").write_text("precious")
    refusal(run_fit, tmp_path / "run", drawn, ARM, "--dry-run")
    assert "holds other files" in capsys.readouterr().err
    (tmp_path / "run/config.yaml").write_text("# of an attempt without a checkpoint")
    run_fit(tmp_path / "run", drawn, ARM, "--dry-run")


def test_a_run_continues_with_its_own_settings_only(probed: Path, drawn, tmp_path, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(probed, folder)
    (folder / "results.json").unlink()  # as if it were still going on
    before = (folder / "config.yaml").read_bytes()
    spelled = f"{folder}/../copy/best.ckpt"
    other = {"seed_everything": "5", "trainer.max_epochs": "3", "trainer.limit_train_batches": "1"}
    other |= {"model.optimizer.lr": "0.001", "data.global_batch_size": "8"}
    other |= {"model.objective.encoder.normalizer": '{"alpha": 1.25}'}  # for a name
    for number, (key, value) in enumerate(other.items()):
        start = ("--ckpt_path", spelled if number % 2 else "auto")
        refusal(run_fit, folder, drawn, ARM, *ALL, f"--{key}", value, *start)
        text = capsys.readouterr().err
        named = f"began with other settings: {key.replace('data.', 'data.init_args.')}"
        assert named.replace("e.encoder", "e.init_args.encoder.init_args") in text
        assert (folder / "config.yaml").read_bytes() == before
    refusal(run_fit, folder, drawn, ARM, *ALL, "--ckpt_path", str(probed / "best.ckpt"))
    assert "holds an unfinished run" in capsys.readouterr().err
    (folder / "config.yaml").write_text("[]")
    refusal(run_fit, folder, drawn, ARM, *ALL, "--ckpt_path", spelled)
    assert "config.yaml is damaged: it holds no settings" in capsys.readouterr().err
    (folder / "config.yaml").write_bytes(before)
    more = ("--data.micro_batch_size", "5", "--dry-run")
    run_fit(folder, drawn, ARM, *ALL, "--ckpt_path", "auto", *more)


def test_curves_of_an_attempt_that_saved_nothing_are_hidden(fit: Fit, monkeypatch):
    class Broken(ThroughputMonitor):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 1:
                raise KeyboardInterrupt

    options = (*UNPROBED, "--trainer.log_every_n_steps", "1", "--trainer.max_epochs", "1")
    with monkeypatch.context() as patch:
        interrupt(patch, Broken)
        refusal(fit, *options, code=1)
    assert [step for step, _ in curves(fit(*options))["loss"]] == [0, 1]


def test_unlabeled_data_can_be_trained_on(fit: Fit, drawn: Path, capsys):
    voc = ("--data", "VOC2012", "--data.root", str(drawn / "VOCdevkit"))
    folder = fit(*voc, "--data.global_batch_size", "6", "--probing.pictures", "0")
    trained = read(folder / "results.json")[2]
    assert "miou/voc2012" in trained
    assert "knn/top1" not in trained
    assert "no k-NN or linear probe" in capsys.readouterr().out


def test_the_plan_has_the_steps_of_a_limited_epoch(fit: Fit, capsys):
    micro = ("--data.micro_batch_size", "10", "--dry-run")
    for limit, steps in (("1", 1), ("0.5", 1), ("3", 2), ("9", 2)):
        fit(*micro, "--trainer.limit_train_batches", limit)
        assert f"2 epochs x {steps} steps = {2 * steps} " in capsys.readouterr().out


def test_callbacks_of_lightning_monitor_the_scores_and_may_stop_the_run(
    fit: Fit, tmp_path: Path, capsys
):
    """A run that is stopped is measured at its end, when that is due and when it is not."""
    top = {
        "monitor": "miou/voc2012",
        "mode": "max",
        "filename": "top",
        "dirpath": str(tmp_path / "top"),
    }
    score = {"monitor": "knn/top1", "mode": "max", "stopping_threshold": -1.0}
    loss = {"monitor": "loss", "stopping_threshold": 1e9}
    due = [("EarlyStopping", score), ("ModelCheckpoint", top)]
    for every, kinds in (("1", due), ("0", [("EarlyStopping", loss)])):
        callbacks = [
            {"class_path": f"lightning.pytorch.callbacks.{kind}", "init_args": given}
            for kind, given in kinds
        ]
        options = ("--trainer.callbacks", json.dumps(callbacks), "--probing.every_n_epochs", every)
        off = ("--probing.baselines", "false", "--probing.pictures", "0")
        (row,) = read(fit(*options, *off, name=every) / "measurements.json")
        assert (row["epoch"], row["step"]) == (1, 2)
        assert "ended early  at step 2 of 4, by a callback" in capsys.readouterr().out
    assert (tmp_path / "top/top.ckpt").exists()


@pytest.mark.filterwarnings("ignore:Found .* in eval mode")
def test_any_trainer_and_loader_of_batches_will_do(tmp_path):
    images = [torch.randn(2, 3, 16, 16) for _ in range(4)]
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}

    def collate(items: list[torch.Tensor]) -> Batch:
        return Batch([torch.stack(items, 1)])

    def train(loader: Iterable[Batch], **options) -> Pretraining:
        objective = DINO(ViT("nano", 8, 16), DINOHeadConfig(16, 16, 8))
        module = Pretraining(objective, OptimizerConfig(warmup_epochs=0))
        given = {**quiet, "max_epochs": 1, "accelerator": "cpu", **options}
        trainer = Trainer(default_root_dir=tmp_path, callbacks=[NaNGuard()], **given)
        trainer.fit(module, train_dataloaders=loader)
        return module

    batches = BatchSampler(range(4), 2, drop_last=False)
    for how in ({"batch_size": 2}, {"batch_sampler": batches}):
        assert train(DataLoader(images, collate_fn=collate, **how)).last.batch_size == 2
    with pytest.raises(InputError, match="give it the attribute batch_size"):
        train(UserList([collate(images)]))
    given = {"fast_dev_run": 1, "gradient_clip_val": 1.0, "precision": "bf16-true"}
    for wrong in ({name: value} for name, value in (given | {"max_epochs": -1}).items()):
        with pytest.raises(InputError) as refused:
            train(DataLoader(images, 2, collate_fn=collate), **wrong)
        assert refused.value.field == f"trainer.{next(iter(wrong))}"


def test_the_closing_table_has_the_best_epoch_where_it_is_not_the_last():
    def names(tag: str, *scores: float) -> list[object]:
        rows = [{"encoder": "pixels", "epoch": 0, "scores": {tag: 99.0}}]
        for epoch, score in enumerate(scores, 1):
            rows.append({"encoder": "trained", "epoch": epoch, "scores": {tag: score}})
        return [row["encoder"] for row in summary_rows(rows)]

    best = ["pixels", "best mIoU, epoch 1", "trained, epoch 3"]
    assert names("miou/mean", 30.0, 20.0, 30.0) == best
    assert names("val/top1", 20.0, 30.0, 10.0)[1:2] == ["best top-1, epoch 2"]
    assert names("miou/mean", 10.0, 20.0) == ["pixels", "trained, epoch 2"]
    assert names("knn/top1", 20.0, 10.0) == ["pixels", "trained, epoch 2"]


def test_a_dry_run_draws_nothing(tmp_path: Path):
    with refused("--dry-run", wording=False):
        Synthetic(str(tmp_path / "drawn")).draw([f"{tmp_path}/drawn/imagenet"], True, allowed=False)
    assert not (tmp_path / "drawn").exists()


def test_scores_that_never_came_above_a_baseline_are_named():
    def named(**scores: float) -> list[str]:
        found = {"pixels": {"a": 9.0, "b": 9.0}, "untrained": {"a": 5.0, "b": 11.0}}
        rows = [{"encoder": each, "scores": known} for each, known in found.items()]
        rows += [{"encoder": "trained", "scores": scores}, {"encoder": "trained", "scores": {}}]
        assert not below_baselines(rows[2:])
        return below_baselines(rows)

    assert not named(a=9.0, b=11.5, c=0.0)
    first, second, advice = named(a=8.0, b=8.5)
    assert first == "a stays below raw pixels with 9.0: at best 8.0"
    assert second.startswith(
        "b stays below raw pixels with 9.0 and the untrained encoder with 11.0"
    )
    assert "trainer.max_epochs" in advice


def test_unreadable_images_are_replaced_up_to_a_number(fit: Fit, drawn: Path, tmp_path, capsys):
    root = tmp_path / "damaged"
    shutil.copytree(drawn / "imagenet", root)
    for path in sorted((root / "train").rglob("*.JPEG"))[:3]:
        path.write_bytes(path.read_bytes()[:200])
    options = (*UNPROBED, "--trainer.max_epochs", "1", "--data.root", str(root))
    with pytest.warns(UserWarning, match="cannot read"):
        fit(*options)
    refusal(lambda: fit(*options, "--data.max_unreadable", "0", name="strict"), code=1)
    assert "max_unreadable" in capsys.readouterr().err


BAD = {
    "dino_entmax demo": [
        ("--data.root /nowhere", "vitlab fit: there is no folder /nowhere; set its root"),
        ("--data.root {voc}", "it looks like VOC2012"),
        ("--data.transform.size 60", "use data.transform.size 48 or 64"),
        ("--data.transform.local_size 30", "use data.transform.local_size 16 or 32"),
        ("--probing.size 50", "use probing.size 48 or 64"),
        ("--probing.dense_size 50", "use probing.dense_size 48 or 64"),
        ("--data.global_batch_size 200", "48 training images do not fill one batch of 200"),
        ("--data.global_batch_size 7 --trainer.devices 2", "multiple of 2"),
        ("--data.transform.num_local_crops 1000000", "use fewer or smaller crops"),
        ("--trainer.max_epochs -1", "set trainer.max_epochs"),
        ("--trainer.gradient_clip_val 1.0", "model.optimizer.clip_grad_norm"),
        ("--trainer.accumulate_grad_batches 2", "use --data.micro_batch_size"),
        ("--trainer.default_root_dir /tmp", "use --run-dir"),
        ("--trainer.max_time 00:00:01:00", "timeout 6h vitlab fit"),
        ("--trainer.precision bf16-true", "use bf16-mixed"),
        ("--trainer.precision 16-mixed", "use bf16-mixed or 32-true"),
        ("--trainer.precision 64-true", "use bf16-mixed"),
        ("--trainer.devices [0]", "should be an int > 0"),
        ("--trainer.precision transformer-engine", "'transformer_engine"),
        ("--trainer.fast_dev_run true", "use --dry-run, `vitlab plan`"),
        ("--trainer.limit_train_batches 0", "leaves nothing to train on"),
        ("--trainer.limit_train_batches 0.1", "less than one micro-batch of an epoch, which has 2"),
        ("--trainer.overfit_batches 1", "use a folder of a few images"),
        ("--trainer.limit_val_batches 2", "there is no validation loop"),
        ("--trainer.val_check_interval 2", "there is no validation loop"),
        ("--trainer.num_sanity_val_steps 2", "there is no validation loop"),
        ("--trainer.enable_checkpointing false", "--checkpoint.minutes 0"),
        ("--trainer.use_distributed_sampler true", "deal out global batches"),
        ("--trainer.reload_dataloaders_every_n_epochs 1", "files are listed once"),
        ("--trainer.barebones true", "use vitlab plan"),
        ("--trainer.strategy ddp_spawn --trainer.devices 2", "use ddp"),
        ("--validation.crop 0.9", "DINO trains no classifier"),
        ("--probing.every_n_epochs -1", "probing.every_n_epochs -1 is too small"),
        ("--trainer.devices 0", "devices"),
        ("--ckpt_path last", "there is no checkpoint"),
        ("--seed_everything true", "seed_everything"),
        ("--probing.dense.voc2012.root /nowhere", "probing.dense.voc2012: there is no folder"),
        ("--model.objective.encoder.normaliser softmax", "normaliser"),
        ("--model.objective DINOO", "DINOO"),
    ],
    "supervised_deit_s demo_supervised": [
        ("--data.repeats 2 --data.global_batch_size 15", "15 images cannot be mixed"),
        ("--data.repeats 2 --model.objective.loss binary_cross_entropy", "all classes would"),
        ("--data.transform.color_jitter 0.4", "timm ignores the jitter"),
        ("--data.repeats 0", "repeats 0 is too small"),
        ("--data.transform MultiCrop --data.transform.size 64", "needs one crop"),
        ("--model.objective.num_classes 7", "num_classes"),
        ("--validation.every_n_epochs -1", "validation.every_n_epochs -1 is too small"),
        ("--validation.crop 2", "no part of the image"),
        ("--validation.size 50", "use validation.size 48 or 56"),
        ("--model.optimizer.lr_schedule.warmup_lr -1", "lr_schedule.warmup_lr -1"),
        ("--model.optimizer.name adamb", "adamb"),
        ("--data VOC2012 --data.root {voc} --data.global_batch_size 6", "has no image labels"),
    ],
}
CASES = [(configs, *case) for configs, cases in BAD.items() for case in cases]


@pytest.mark.parametrize(("configs", "options", "message"), CASES, ids=[case[1] for case in CASES])
def test_bad_input_is_named_before_training(drawn, tmp_path, capsys, configs, options, message):
    given = options.format(voc=drawn / "VOCdevkit").split()
    refusal(run_fit, tmp_path / "run", drawn, configs.split(), *given)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_model_or_with_a_program_is_refused(
    probed: Path, fit: Fit, tmp_path: Path, capsys
):
    registers = ("--model.objective.encoder.num_registers", "2")
    damaged, unsafe = tmp_path / "damaged.ckpt", tmp_path / "unsafe.ckpt"
    damaged.write_bytes(b"PK\x03\x04 cut short")
    unsafe.write_bytes(pickle.dumps(print))
    for path, message in (
        (probed / "last.ckpt", "another model than the config describes"),
        (damaged, f"{damaged} cannot be read safely"),
        (unsafe, f"{unsafe} cannot be read safely"),
    ):
        refusal(fit, *UNPROBED, *registers, "--ckpt_path", str(path))
        assert message in capsys.readouterr().err


def test_a_dry_run_with_any_hardware_prints_the_plan_and_writes_nothing(fit: Fit, capsys):
    """This machine has other hardware; that everything else is accepted can be checked."""
    for path in sorted((CONFIGS / "hardware").glob("*.yaml")):
        asked = yaml.safe_load(path.read_text())["trainer"]
        here = ["--trainer.num_nodes", "1"] if "num_nodes" in asked else []
        here += ["--trainer.strategy", "auto", "--trainer.accelerator", "cpu"]
        folder = fit("--config", str(path), "--dry-run", *here, "--trainer.devices", "1")
        assert not folder.exists()
        printed = capsys.readouterr().out
        assert "2 epochs x 2 steps = 4" in printed
        assert "20 = 20 images x 1 devices x 1 micro-batches" in printed


def test_the_plan_has_the_blocks_that_are_split_and_what_they_add(fit: Fit, capsys):
    split = "{norm: 1.0, qkv: 0.333}"  # nano has 4 blocks, of which 1.33 are 1
    fit("--dry-run", "--model.objective.encoder.cls_specialization", split)
    printed = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    assert "blocks of 4 with own weights for [CLS]: norm 4, qkv 1, proj 0, mlp 0; +" in printed
