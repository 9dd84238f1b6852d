"""The main job, in miniature: identities first, then what is written, then bad input."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from comparing import assert_same_bits, weights

from vitlab.callbacks.measurements import Measurement
from vitlab.callbacks.throughput import ThroughputMonitor
from vitlab.training import Pretraining
from vitlab.training.cli import FitCLI
from vitlab.training.summary import summary_rows

Fit = Callable[..., Path]
UNPROBED = (
    "--probing.every_n_epochs",
    "0",
    "--probing.baselines",
    "false",
    "--probing.dense",
    "{}",
)


class Interrupted(ThroughputMonitor):
    """Stands for a person who presses Ctrl-C in the second epoch."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt


def test_probes_leave_training_untouched(fit: Fit):
    drop_path = ("--model.objective.encoder.drop_path", "0.3")
    probed = fit("--probing.every_n_epochs", "1", *drop_path, name="probed")
    plain = fit(
        "--probing.every_n_epochs", "0", "--probing.baselines", "false", *drop_path, name="plain"
    )
    assert_same_bits(probed, plain)


def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(fit: Fit, monkeypatch, capsys):
    options = ("--model.objective.encoder.drop_path", "0.3", "--probing.every_n_epochs", "1")
    calm = fit(*options, name="calm")
    with monkeypatch.context() as patch:
        patch.setattr("vitlab.training.cli.ThroughputMonitor", Interrupted)
        with pytest.raises(SystemExit) as stopped:
            fit(*options, name="stopped")
    assert stopped.value.code == 1
    assert "--ckpt_path last" in capsys.readouterr().err
    assert not (calm.parent / "stopped/results.json").exists()
    resumed = fit(*options, "--ckpt_path", "last", name="stopped")
    assert_same_bits(calm, resumed)
    assert read(calm / "measurements.json") == read(resumed / "measurements.json")


OTHER = {
    "seed_everything": "5",
    "trainer.max_epochs": "3",
    "model.optimizer.lr": "0.001",
    "data.global_batch_size": "8",
}


def test_a_run_does_not_go_on_with_other_settings(fit: Fit, capsys):
    folder = fit(*UNPROBED)
    (folder / "results.json").unlink()  # as if it were still going on
    before = (folder / "config.yaml").read_bytes()
    for key, value in OTHER.items():
        with pytest.raises(SystemExit) as refused:
            fit(*UNPROBED, "--ckpt_path", "auto", f"--{key}", value)
        assert refused.value.code == 2
        said = capsys.readouterr().err
        assert f"began with other settings: {key.replace('data.', 'data.init_args.')} " in said
        assert "--run-dir DIR" in said
        assert (folder / "config.yaml").read_bytes() == before
    fit(*UNPROBED, "--ckpt_path", "auto", "--data.micro_batch_size", "5")


@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_however_its_own_checkpoint_is_named_other_settings_are_refused(fit: Fit, capsys, name):
    folder = fit(*UNPROBED)
    (folder / "results.json").unlink()
    (folder / "best.ckpt").write_bytes((folder / "last.ckpt").read_bytes())
    spelled = f"{folder}/../{folder.name}/{name}"
    for change in (("--model.optimizer.lr", "0.001"), ("--trainer.overfit_batches", "1")):
        with pytest.raises(SystemExit) as refused:
            fit(*UNPROBED, "--ckpt_path", spelled, *change)
        assert refused.value.code == 2
        assert "began with other settings" in capsys.readouterr().err
    settings = (folder / "config.yaml").read_bytes()
    (folder / "config.yaml").write_text("[]")
    with pytest.raises(SystemExit):
        fit(*UNPROBED, "--ckpt_path", spelled)
    assert "config.yaml is damaged: it holds no settings" in capsys.readouterr().err
    (folder / "config.yaml").write_bytes(settings)
    fit(*UNPROBED, "--ckpt_path", spelled, "--data.micro_batch_size", "5")


def test_curves_of_an_attempt_that_saved_nothing_are_hidden(fit: Fit, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class Broken(ThroughputMonitor):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 1:
                raise KeyboardInterrupt

    options = (*UNPROBED, "--trainer.log_every_n_steps", "1")
    calm = fit(*options, name="calm")
    with monkeypatch.context() as patch:
        patch.setattr("vitlab.training.cli.ThroughputMonitor", Broken)
        with pytest.raises(SystemExit):
            fit(*options, name="again")
    again = fit(*options, name="again")
    points = []
    for folder in (calm, again):
        events = EventAccumulator(str(folder)).Reload()
        points.append([(point.step, point.value) for point in events.Scalars("loss")])
    assert points[0] == points[1]


def test_micro_batches_take_the_steps_of_the_whole_batch(fit: Fit):
    whole = weights(fit(*UNPROBED, "--model.objective.encoder.normalizer", "softmax", name="whole"))
    parts = weights(
        fit(
            *UNPROBED,
            *("--model.objective.encoder.normalizer", "softmax", "--data.micro_batch_size", "5"),
            name="parts",
        )
    )
    for name, tensor in whole.items():
        assert torch.allclose(tensor, parts[name], atol=2e-4), name


def test_the_saved_config_repeats_the_run(fit: Fit, tmp_path: Path):
    first = fit(*UNPROBED, name="first")
    saved = yaml.safe_load((first / "config.yaml").read_text())
    assert saved["data"]["init_args"]["global_batch_size"] == 20
    command = FitCLI(["--config", str(first / "config.yaml"), "--run-dir", str(tmp_path / "again")])
    assert command.datamodule.global_batch_size == 20
    again = command.model.state_dict()
    built = Pretraining.load_from_checkpoint(first / "last.ckpt", weights_only=True)
    assert again.keys() == built.state_dict().keys()
    for name, tensor in weights(first).items():
        assert torch.equal(tensor, built.state_dict()[name])


def test_a_run_leaves_its_scores_pictures_and_surroundings(fit: Fit, capsys):
    folder = fit("--probing.every_n_epochs", "1", config="dino_entmax")
    rows = read(folder / "results.json")
    assert [row["encoder"] for row in rows][:3] == ["pixels", "untrained", "trained, epoch 2"]
    for row in rows:
        for tag in ("knn/top1", "linear/top1", "miou/voc2012"):
            assert 0 <= row[tag] <= 100
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "environment.json", "last.ckpt", "best.ckpt", "pictures"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    version = read(folder / "environment.json")["packages"]["torch"]
    assert torch.__version__.startswith(version)
    printed = capsys.readouterr().out
    assert "miou/voc2012" in printed
    assert "tensorboard --logdir" in printed
    assert "20 = 20 images x 1 devices x 1 micro-batches" in printed


def test_curves_have_names_a_person_finds(fit: Fit):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = fit("--probing.every_n_epochs", "1", "--trainer.log_every_n_steps", "1")
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {
        "knn/top1",
        "linear/top1",
        "miou/voc2012",
        "miou/mean",
        "loss",
        "teacher/entropy",
        "teacher/momentum",
        "optimizer/learning_rate",
        "optimizer/weight_decay",
        "optimizer/gradient_norm",
        "speed/images_per_second",
        "speed/data_wait",
        "probe/seconds",
    } <= tags
    assert "pictures/voc2012" in events.Tags()["images"]
    assert [point.step for point in events.Scalars("knn/top1")] == [0, 2, 4]


def test_several_segmentation_sets_are_probed_at_once(fit: Fit, drawn: Path):
    folder = fit(
        *("--probing.dense.ade20k.class_path", "ADE20K"),
        *("--probing.dense.ade20k.root", str(drawn)),
        *("--probing.dense.cityscapes.class_path", "Cityscapes"),
        *("--probing.dense.cityscapes.root", str(drawn / "cityscapes"), "--probing.pictures", "0"),
    )
    trained = read(folder / "results.json")[2]
    sets = [trained[f"miou/{name}"] for name in ("voc2012", "ade20k", "cityscapes")]
    assert trained["miou/mean"] == pytest.approx(sum(sets) / 3)


def test_unlabeled_data_can_be_trained_on(fit: Fit, drawn: Path, capsys):
    folder = fit(
        *(
            "--data",
            "VOC2012",
            "--data.root",
            str(drawn / "VOCdevkit"),
            "--data.global_batch_size",
            "6",
        ),
        *("--probing.pictures", "0"),
    )
    trained = read(folder / "results.json")[2]
    assert "miou/voc2012" in trained
    assert "knn/top1" not in trained
    assert "no k-NN or linear probe" in capsys.readouterr().out


def test_a_dry_run_prints_the_plan_and_writes_nothing(fit: Fit, capsys):
    folder = fit("--dry-run")
    assert not folder.exists()
    assert "2 epochs x 2 steps = 4" in capsys.readouterr().out


def test_the_closing_table_shows_the_best_epoch_where_it_is_not_the_last():
    def trained(epoch: int, miou: float) -> Measurement:
        return Measurement("trained", epoch, epoch, {"miou/mean": miou})

    rows = summary_rows([trained(1, 30.0), trained(2, 20.0)])
    assert [row["encoder"] for row in rows] == ["trained, epoch 2", "best mIoU, epoch 1"]
    assert len(summary_rows([trained(1, 10.0), trained(2, 20.0)])) == 1


def test_a_finished_run_is_never_overwritten(fit: Fit, capsys):
    folder = fit(*UNPROBED)
    before = (folder / "last.ckpt").read_bytes()
    for again in ((), ("--ckpt_path", "last")):
        with pytest.raises(SystemExit) as refused:
            fit(*UNPROBED, *again)
        assert refused.value.code == 2
        assert "--run-dir" in capsys.readouterr().err
    assert (folder / "last.ckpt").read_bytes() == before


def test_an_unreadable_image_is_reported_and_replaced(fit: Fit, drawn: Path, tmp_path: Path):
    import shutil

    root = tmp_path / "damaged"
    shutil.copytree(drawn / "imagenet", root)
    damaged = sorted((root / "train").rglob("*.JPEG"))[3]
    damaged.write_bytes(damaged.read_bytes()[:200])
    with pytest.warns(UserWarning, match=damaged.name):
        fit(*UNPROBED, "--data.root", str(root))


def test_too_many_unreadable_images_stop_the_run(fit: Fit, drawn: Path, tmp_path: Path, capsys):
    import shutil

    root = tmp_path / "damaged"
    shutil.copytree(drawn / "imagenet", root)
    for path in sorted((root / "train").rglob("*.JPEG"))[:3]:
        path.write_bytes(b"")
    with pytest.raises(SystemExit) as stopped:
        fit(*UNPROBED, "--data.root", str(root), "--data.max_unreadable", "0")
    assert stopped.value.code == 1
    assert "max_unreadable" in capsys.readouterr().err


BAD = [
    (("--data.root", "/nowhere"), "no folder /nowhere"),
    (("--data.transform.size", "60"), "use data.transform.size 56 or 64"),
    (("--data.transform.local_size", "30"), "use data.transform.local_size 24 or 32"),
    (("--probing.size", "50"), "use probing.size 48 or 56"),
    (("--probing.dense_size", "50"), "use probing.dense_size 48 or 56"),
    (("--data.global_batch_size", "200"), "40 training images do not fill one batch of 200"),
    (("--data.global_batch_size", "7", "--trainer.devices", "2"), "multiple of 2"),
    (("--data.transform.num_local_crops", "1000000"), "use fewer or smaller crops"),
    (("--trainer.max_epochs", "-1"), "set trainer.max_epochs"),
    (("--trainer.gradient_clip_val", "1.0"), "model.optimizer.clip_grad_norm"),
    (("--trainer.accumulate_grad_batches", "2"), "use --data.micro_batch_size"),
    (("--trainer.default_root_dir", "/tmp"), "use --run-dir"),
    (("--trainer.precision", "bf16-true"), "use bf16-mixed"),
    (("--probing.every_n_epochs", "-1"), "probing.every_n_epochs is too small"),
    (("--trainer.devices", "0"), "devices"),
    (("--ckpt_path", "last"), "there is no checkpoint"),
    (("--seed_everything", "true"), "seed_everything"),
    (("--probing.dense.voc2012.root", "/nowhere"), "probing.dense.voc2012: there is no folder"),
    (("--model.objective.encoder.normalizer", "sparsemin"), "sparsemin"),
    (("--model.objective.encoder.normaliser", "softmax"), "normaliser"),
    (("--model.objective", "DINOO"), "DINOO"),
    (("--model.objective.encoder.cls_specialization.norm", "2"), "fraction of the depth"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[" ".join(case[0]) for case in BAD])
def test_bad_input_is_named_before_training(fit: Fit, tmp_path: Path, capsys, options, message):
    with pytest.raises(SystemExit) as refused:
        fit(*options)
    assert refused.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_another_dataset_in_the_root_is_recognized(fit: Fit, drawn: Path, capsys):
    with pytest.raises(SystemExit):
        fit("--data.root", str(drawn / "VOCdevkit"))
    assert "it looks like VOC2012" in capsys.readouterr().err


def test_a_run_that_ended_before_its_first_checkpoint_can_start_anew(fit: Fit, tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("# of the earlier attempt")
    assert (fit(*UNPROBED) / "results.json").exists()


def test_another_run_and_other_files_are_never_written_over(fit: Fit, tmp_path: Path, capsys):
    first, second = fit(*UNPROBED, name="first"), fit(*UNPROBED, name="second")
    (second / "results.json").unlink()  # as if it were still going on
    with pytest.raises(SystemExit):
        fit(*UNPROBED, "--ckpt_path", str(first / "last.ckpt"), name="second")
    assert "already holds another run" in capsys.readouterr().err
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/thesis.tex").write_text("precious")
    with pytest.raises(SystemExit):
        fit(*UNPROBED, name="thesis")
    assert "holds other files" in capsys.readouterr().err


def test_a_checkpoint_from_elsewhere_is_named(fit: Fit, tmp_path: Path, capsys):
    foreign = tmp_path / "dino_deitsmall16_pretrain.pth"
    torch.save({"cls_token": torch.zeros(1, 1, 384)}, foreign)
    with pytest.raises(SystemExit):
        fit(*UNPROBED, "--ckpt_path", str(foreign))
    assert "is not a checkpoint of `vitlab fit`" in capsys.readouterr().err


def test_a_damaged_segmentation_image_is_replaced_too(fit: Fit, drawn: Path, tmp_path: Path):
    import shutil

    root = tmp_path / "VOCdevkit"
    shutil.copytree(drawn / "VOCdevkit", root)
    names = (root / "VOC2012/ImageSets/Segmentation/val.txt").read_text().split()
    (root / f"VOC2012/JPEGImages/{names[1]}.jpg").write_bytes(b"")
    with pytest.warns(UserWarning, match=names[1]):
        fit("--probing.dense.voc2012.root", str(root), "--probing.baselines", "false")


def test_a_mask_of_another_size_than_its_image_is_refused(
    fit: Fit, drawn: Path, tmp_path: Path, capsys
):
    import shutil

    from PIL import Image

    root = tmp_path / "VOCdevkit"
    shutil.copytree(drawn / "VOCdevkit", root)
    folder = root / "VOC2012"
    name = (folder / "ImageSets/Segmentation/val.txt").read_text().split()[-1]
    mask = folder / f"SegmentationClass/{name}.png"
    Image.open(mask).resize((10, 10)).save(mask)
    with pytest.raises(SystemExit):
        fit("--probing.dense.voc2012.root", str(root))
    assert f"{name}.png" in capsys.readouterr().err


def test_a_checkpoint_of_another_architecture_is_refused(fit: Fit, capsys):
    folder = fit(*UNPROBED, name="small")
    with pytest.raises(SystemExit) as refused:
        fit(
            *UNPROBED,
            *("--ckpt_path", str(folder / "last.ckpt")),
            *("--model.objective.encoder.num_registers", "2"),
            name="other",
        )
    assert refused.value.code == 2
    assert "another model than the config describes" in capsys.readouterr().err


def test_a_damaged_or_unsafe_checkpoint_is_refused_before_training(fit: Fit, tmp_path, capsys):
    import pickle

    damaged, unsafe = tmp_path / "damaged.ckpt", tmp_path / "unsafe.ckpt"
    damaged.write_bytes(b"PK\x03\x04 cut short")
    unsafe.write_bytes(pickle.dumps(print))
    for path in (damaged, unsafe):
        with pytest.raises(SystemExit) as refused:
            fit(*UNPROBED, "--ckpt_path", str(path))
        assert refused.value.code == 2
        assert f"{path} cannot be read safely" in capsys.readouterr().err


def read(path: Path):
    return json.loads(path.read_text())


def test_a_time_limit_that_would_finish_a_run_early_is_refused(fit: Fit, capsys):
    with pytest.raises(SystemExit) as refused:
        fit(*UNPROBED, "--trainer.max_time", "00:00:00:01")
    assert refused.value.code == 2
    assert "timeout 6h vitlab fit" in capsys.readouterr().err
