"""A run that meets NaN stops before it reaches the weights, and the step can be replayed."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from runs import UNPROBED

from vitlab.callbacks.failed_step import (
    FailedStep,
    free_folder,
    read,
    read_batch,
    read_weights,
    write,
)
from vitlab.cli import main
from vitlab.data import ImageNet
from vitlab.data.batch import Batch
from vitlab.encoders import ViT
from vitlab.objectives import DINO
from vitlab.objectives.dino_head import DINOHeadConfig
from vitlab.optim.schedules import Progress
from vitlab.training import Pretraining

Fit = Callable[..., Path]


def stopped(fit: Fit, capsys: pytest.CaptureFixture, *options: str) -> str:
    """Return what a run that fails says at its end."""
    with pytest.raises(SystemExit) as end:
        fit(*UNPROBED, *options)
    assert end.value.code == 1
    return capsys.readouterr().err


def replayed(folder: Path, capsys: pytest.CaptureFixture, *options: str) -> tuple[int, str]:
    """Return the exit code of a replay, and what it says."""
    try:
        main(["replay", str(folder), *options])
    except SystemExit as end:
        return int(end.code or 0), capsys.readouterr().out
    return 0, capsys.readouterr().out


def plant(monkeypatch, step: int, work: Callable[[DINO], None]) -> None:
    """Have something done to the objective before the loss of a step."""
    before = DINO.loss

    def loss(self, batch, progress):
        if progress.step == step:
            work(self)
        return before(self, batch, progress)

    monkeypatch.setattr(DINO, "loss", loss)


def scale_of(factor: float) -> Callable[[DINO], None]:
    def work(objective: DINO) -> None:
        with torch.no_grad():
            objective.student.encoder.blocks[2].mlp.fc1.weight[0].fill_(factor)

    return work


def test_an_overflow_is_kept_and_replayed_bit_for_bit(fit: Fit, tmp_path, capsys, monkeypatch):
    plant(monkeypatch, 3, scale_of(3e38))
    said = stopped(fit, capsys)
    kept = tmp_path / "run/failure"
    assert "the loss is nan at step 3 (epoch 1)" in said
    assert "the output of student.encoder.blocks.2.mlp.fc1: " in said
    assert "the largest of its weights is 3e+38" in said
    assert f"vitlab replay {kept}" in said
    assert "--ckpt_path last" in said
    assert json.loads((tmp_path / "run/status.json").read_text())["state"] == "failed"
    good = torch.load(tmp_path / "run/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.isfinite(x).all() for x in good.values())

    monkeypatch.undo()  # all it takes is in the folder
    code, shown = replayed(kept, capsys)
    assert code == 0
    assert "reproduced, bit for bit" in shown
    assert "student.encoder.blocks.2.mlp.fc1" in shown
    code, shown = replayed(kept, capsys, "--precision", "64-true")
    assert code == 1
    assert "not reproduced: in 64-true on cpu every number of the step is finite, as the run" in (
        shown.replace("\n", " ")
    )
    assert "returned nan values" in replayed(kept, capsys, "--anomaly")[1]

    record = json.loads((kept / "failure.json").read_text())
    record["seen"][0]["high"] += 1e-6
    (kept / "failure.json").write_text(json.dumps(record))
    code, shown = replayed(kept, capsys, "--all")
    assert code == 0
    assert "reproduced, though not bit for bit" in shown
    assert "* other numbers than in the run" in shown


@pytest.mark.slow
def test_the_step_is_kept_as_it_began(fit: Fit, tmp_path, capsys, monkeypatch):
    seen = {}

    def note(objective: DINO) -> None:
        seen.update({name: x.clone() for name, x in objective.state_dict().items()})
        scale_of(torch.nan)(objective)

    plant(monkeypatch, 2, note)
    said = stopped(fit, capsys)
    name = "student.encoder.blocks.2.mlp.fc1.weight"
    assert f"the first that is not finite is the weight {name}: " in said
    assert "It was there before this step" in said
    failure = read(tmp_path / "run/failure")
    weights = read_weights(tmp_path / "run/failure")
    assert weights.keys() == seen.keys()
    assert all(torch.equal(weights[key], seen[key]) for key in seen if key != name)
    assert (failure.progress.step, failure.epoch, failure.micro_batch) == (2, 1, 0)
    assert "teacher" in failure.evaluating
    assert "student" not in failure.evaluating
    assert len(failure.files) == 20
    assert replayed(tmp_path / "run/failure", capsys)[0] == 0


def test_a_damaged_image_is_named_by_its_file(fit: Fit, tmp_path, capsys, monkeypatch):
    before = ImageNet.on_after_batch_transfer
    count = 0

    def after(self, batch, index):
        nonlocal count
        batch = before(self, batch, index)
        count += 1
        if count == 4:  # one of two micro-batches of the second step
            batch.views[1][2, 3, 0, 5, 5] = torch.inf
        return batch

    monkeypatch.setattr(ImageNet, "on_after_batch_transfer", after)
    said = stopped(fit, capsys, "--data.micro_batch_size", "10")
    failure = read(tmp_path / "run/failure")
    assert "at step 1 (epoch 0)" in said
    assert "the image views.1: 1 of" in said
    assert f"see to {failure.files[3]} and" in said
    assert failure.micro_batch == 3
    assert torch.isinf(read_batch(tmp_path / "run/failure").views[1][2, 3, 0, 5, 5])
    assert replayed(tmp_path / "run/failure", capsys)[0] == 0


@pytest.mark.slow
def test_a_gradient_is_found_behind_a_finite_loss(fit: Fit, tmp_path, capsys, monkeypatch):
    def work(objective: DINO) -> None:  # its root has an infinite slope at 0
        def steep(gradient):
            return gradient * torch.inf

        objective.student.head.mlp[0].weight.register_hook(steep)

    plant(monkeypatch, 1, work)
    said = stopped(fit, capsys)
    assert "gradients are not finite at step 1" in said
    assert "the gradient of student.head.mlp.0.weight: " in said
    monkeypatch.undo()
    code, shown = replayed(tmp_path / "run/failure", capsys)  # without the hook
    assert code == 1
    assert "not reproduced" in shown


@pytest.mark.slow
def test_weights_that_are_not_finite_do_not_replace_a_good_checkpoint(
    fit: Fit, tmp_path, capsys, monkeypatch
):
    before = DINO.after_step

    def after(self, progress):
        before(self, progress)
        if progress.step == 3:  # the last one: no loss sees it any more
            scale_of(torch.nan)(self)

    monkeypatch.setattr(DINO, "after_step", after)
    said = stopped(fit, capsys)
    assert "student.encoder.blocks.2.mlp.fc1.weight is not finite after step 4" in said
    good = torch.load(tmp_path / "run/last.ckpt", weights_only=True)
    assert good["global_step"] == 2


def test_a_center_that_is_not_finite_is_no_good_checkpoint_either():
    module = Pretraining(DINO(ViT("nano", img_size=32), DINOHeadConfig(8, 8, 4)))
    module.objective.center[0, 3] = torch.inf
    with pytest.raises(FloatingPointError, match=r"objective.center is not finite after step 0"):
        module.on_save_checkpoint({})


def test_a_second_failure_gets_a_folder_of_its_own(tmp_path):
    for name in ("failure", "failure.2", "failure.3"):
        assert free_folder(tmp_path) == tmp_path / name
        free_folder(tmp_path).mkdir()


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A failure that was kept, of a small model."""
    settings = {"encoder": {"class_path": "ViT", "init_args": {"size": "nano", "img_size": 32}}}
    settings["head"] = {"out_dim": 8, "hidden_dim": 8, "bottleneck_dim": 4}
    objective = DINO(ViT("nano", img_size=32), DINOHeadConfig(8, 8, 4))
    batch = Batch([torch.zeros(2, 1, 3, 32, 32)])
    progress = Progress(0, 1, 1, 1)
    failure = FailedStep(
        *("said", progress, 0, 0, 0, 1, 7, "32-true", "cpu", 1, 1.0, ()),
        model={"objective": {"class_path": "vitlab.objectives.DINO", "init_args": settings}},
        seen=(),
    )
    folder = tmp_path_factory.mktemp("failed") / "failure"
    write(folder, failure, objective, batch)
    return folder


def test_what_is_no_failure_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["replay", str(tmp_path)])
    assert end.value.code == 2
    assert "give the folder that the run named" in capsys.readouterr().err
    shutil.rmtree(tmp_path)


def edited(failure: Path, **values) -> None:
    record = json.loads((failure / "failure.json").read_text())
    (failure / "failure.json").write_text(json.dumps({**record, **values}))


def rebuilt_as(class_path: str) -> Callable[[Path], None]:
    return lambda failure: edited(
        failure, model={"objective": {"class_path": class_path, "init_args": {}}}
    )


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: (f / "weights.safetensors").write_bytes(b"x" * 99), "weights.safetensors: "),
        (lambda f: (f / "batch.safetensors").write_bytes(b""), "batch.safetensors: "),
        (lambda f: (f / "batch.safetensors").unlink(), "batch.safetensors: "),
        (lambda f: (f / "failure.json").write_text("[" * 100_000), "can be read"),
        (lambda f: edited(f, threads=-3), "its threads are -3"),
        (lambda f: edited(f, threads="two"), "threads: Input should be a valid integer"),
        (lambda f: edited(f, model=3), "model: Input should be an object"),
        (
            lambda f: edited(f, progress={"step": "x", "steps": 4, "epochs": 2, "batch_size": 20}),
            "progress.step: Input should be a valid integer",
        ),
        (rebuilt_as("os.system"), "names os.system, but a config may only build classes of"),
        (rebuilt_as("torch.hub.load"), "names torch.hub.load, but a config"),
        (rebuilt_as("vitlab.objectives.Nothing"), "has settings of no model"),
    ],
)
def test_a_failure_that_is_damaged_or_hostile_is_refused_in_a_sentence(
    damage, said, failed: Path, tmp_path, capsys
):
    folder = tmp_path / "failure"
    shutil.copytree(failed, folder)
    damage(folder)
    with pytest.raises(SystemExit) as end:
        main(["replay", str(folder)])
    assert end.value.code == 2
    assert said in capsys.readouterr().err


RANK_1_MEETS_INFINITY = """
import sys
import torch
from vitlab import distributed
from vitlab.cli import main
from vitlab.objectives import DINO
from vitlab.objectives.dino_head import DINOHeadConfig
from vitlab.training import Pretraining

before = DINO.loss

def loss(self, batch, progress):
    if progress.step == 2 and distributed.rank() == 1:
        batch.views[0][0, 0] = torch.inf
    return before(self, batch, progress)

DINO.loss = loss
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_all_ranks_stop_with_what_one_has_met(drawn: Path, tmp_path: Path, capsys):
    script = tmp_path / "planted.py"
    script.write_text(RANK_1_MEETS_INFINITY)
    root = Path(__file__).parents[2]
    words = [
        *(sys.executable, str(script), "fit", "--run-dir", str(tmp_path / "run")),
        *("--config", str(root / "configs/dino.yaml"), "--config", str(root / "configs/demo.yaml")),
        *UNPROBED,  # behind the configs, which have probes of their own
        *("--synthetic.root", "", "--data.root", str(drawn / "imagenet")),
        *("--data.num_workers", "0"),
        *("--data.global_batch_size", "20", "--trainer.precision", "32-true"),
        *("--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false"),
        *("--trainer.devices", "2", "--trainer.strategy", "ddp"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        words, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 1
    assert done.stderr.count("vitlab: the loss is nan at step 2 (epoch 1, rank 1)") == 1
    failure = read(tmp_path / "run/failure")
    assert (failure.rank, failure.world) == (1, 2)
    assert f"see to {failure.files[0]} and" in failure.sentence
    assert replayed(tmp_path / "run/failure", capsys)[0] == 0
