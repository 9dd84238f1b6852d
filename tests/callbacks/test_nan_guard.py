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
from refusals import refused
from runs import UNPROBED, differences, refusal, words

from vitlab.callbacks.failed_step import FailedStep, read, write
from vitlab.cli import main
from vitlab.commands.replay import run as replay
from vitlab.data import ImageNet
from vitlab.data.batch import Batch
from vitlab.encoders import ViT
from vitlab.objectives import DINO
from vitlab.objectives.dino_head import DINOHeadConfig
from vitlab.optim.schedules import Progress
from vitlab.run.module import Pretraining

Fit = Callable[..., Path]
FC1 = "student.encoder.blocks.2.mlp.fc1"


def stopped(fit: Fit, capsys: pytest.CaptureFixture, *options: str) -> str:
    """Return what a run that fails says at its end."""
    refusal(fit, *UNPROBED, *options, code=1)
    return capsys.readouterr().err


def replayed(folder: Path, capsys: pytest.CaptureFixture, *options: str) -> tuple[int, str]:
    """Return the exit code of a replay, and what it says."""
    code = 0
    try:
        main(["replay", str(folder), *options])
    except SystemExit as end:
        code = int(end.code or 0)
    return code, capsys.readouterr().out


def plant(monkeypatch, step: int, work: Callable[[DINO], object]) -> None:
    """Have something done to the objective before the loss of a step."""
    before = DINO.loss

    def loss(self, batch, progress):
        if progress.step == step:
            work(self)
        return before(self, batch, progress)

    monkeypatch.setattr(DINO, "loss", loss)


def test_an_overflow_is_kept_as_it_began_and_replayed(fit: Fit, tmp_path, capsys, monkeypatch):
    began = {}

    def overflow(objective: DINO) -> None:
        objective.get_submodule(FC1).weight.data[0].fill_(3e38)
        began.update({name: x.clone() for name, x in objective.state_dict().items()})

    plant(monkeypatch, 3, overflow)
    said = stopped(fit, capsys)
    kept = tmp_path / "run/failure"
    assert "the loss is not finite at step 3 (epoch 1, rank 0)" in said
    assert f"the output of {FC1}: " in said
    assert f"vitlab replay {kept}; continue with --run-dir" in said
    assert json.loads((tmp_path / "run/status.json").read_text())["state"] == "failed"
    good = torch.load(tmp_path / "run/last.ckpt", weights_only=True)["state_dict"]
    assert good["objective." + FC1 + ".weight"].max() < 1
    failure, weights, _ = read(kept)
    assert not differences(weights, began)
    assert (failure.progress.step, failure.epoch, failure.micro_batch) == (3, 1, 1)
    assert "teacher" in failure.evaluating
    assert "student" not in failure.evaluating
    assert len(failure.files) == 20

    monkeypatch.undo()  # all it takes is in the folder
    code, shown = replayed(kept, capsys)
    assert code == 0
    assert "reproduced, bit for bit" in shown
    code, shown = replayed(kept, capsys, "--precision", "64-true")
    assert code == 1
    assert f"is the output of {FC1} in the run, nothing in 64-true on cpu" in shown
    assert "returned nan values" in replayed(kept, capsys, "--anomaly")[1]

    record = json.loads((kept / "failure.json").read_text())
    record["seen"][0]["high"] += 1e-6
    (kept / "failure.json").write_text(json.dumps(record))
    code, shown = replayed(kept, capsys, "--all")
    assert code == 0
    assert "reproduced, though not bit for bit" in shown
    assert len(record["seen"]) == shown.count("\n") - 3


def test_a_damaged_image_is_named_by_its_file(fit: Fit, tmp_path, capsys, monkeypatch):
    before, batches = ImageNet.on_after_batch_transfer, []

    def after(self, batch, index):
        batches.append(before(self, batch, index))
        if len(batches) == 3:  # the first of two micro-batches of the second step
            batches[-1].views[1][2, 3, 0, 5, 5] = torch.inf
        return batches[-1]

    monkeypatch.setattr(ImageNet, "on_after_batch_transfer", after)
    said = stopped(fit, capsys, "--data.micro_batch_size", "10")
    failure, _, batch = read(tmp_path / "run/failure")
    assert "at step 1 (epoch 0, rank 0)" in said
    assert "the image views.1: 1 of" in said
    assert f"and to {failure.files[3]}. The step" in said
    assert failure.micro_batch == 2
    assert all(map(torch.equal, batch.views, batches[2].views))
    assert replayed(tmp_path / "run/failure", capsys)[0] == 0


@pytest.mark.slow
def test_a_gradient_is_found_behind_a_finite_loss(fit: Fit, tmp_path, capsys, monkeypatch):
    def steep(gradient):
        return gradient * torch.inf

    plant(monkeypatch, 1, lambda dino: dino.student.head.mlp[0].weight.register_hook(steep))
    said = stopped(fit, capsys)
    assert "gradients are not finite at step 1" in said
    assert "the gradient of student.head.mlp.0.weight: " in said
    monkeypatch.undo()
    assert replayed(tmp_path / "run/failure", capsys)[0] == 1  # without the hook


def small() -> DINO:
    return DINO(ViT("nano", img_size=32), DINOHeadConfig(8, 8, 4))


def test_a_center_that_is_not_finite_is_no_good_checkpoint_either():
    module = Pretraining(small())
    module.objective.center[0, 3] = torch.inf
    with pytest.raises(FloatingPointError, match=r"objective.center is not finite after step 0"):
        module.on_save_checkpoint({})


@pytest.fixture
def failed(tmp_path: Path) -> Path:
    """A failure that was kept, the second of a run, of a small model."""
    settings = {"encoder": {"class_path": "ViT", "init_args": {"size": "nano", "img_size": 32}}}
    settings["head"] = {"out_dim": 8, "hidden_dim": 8, "bottleneck_dim": 4}
    failure = FailedStep(
        *("said", Progress(0, 1, 1, 1), 0, 0, 0, 1, 7, "32-true", "cpu", 1, 1.0, ()),
        model={"objective": {"class_path": "vitlab.objectives.DINO", "init_args": settings}},
        seen=(),
    )
    batch = Batch([torch.zeros(2, 1, 3, 32, 32)], torch.tensor([3]))
    folders = [write(tmp_path, failure, small(), batch) for _ in range(2)]
    assert [path.name for path in folders] == ["failure", "failure.2"]
    found, _, kept = read(folders[1])
    assert found == failure
    assert (kept.labels, kept.masks) == (batch.labels, None)
    return folders[1]


def edited(**values) -> Callable[[Path], object]:
    def edit(failure: Path) -> None:
        record = json.loads((failure / "failure.json").read_text())
        (failure / "failure.json").write_text(json.dumps({**record, **values}))

    return edit


def rebuilt_as(class_path: str) -> Callable[[Path], object]:
    return edited(model={"objective": {"class_path": class_path, "init_args": {}}})


@pytest.mark.parametrize(
    ("damage", "field"),
    [
        (shutil.rmtree, "folder"),
        (lambda f: (f / "weights.safetensors").write_bytes(b"x" * 99), "folder"),
        (lambda f: (f / "batch.safetensors").write_bytes(b""), "folder"),
        (lambda f: (f / "batch.safetensors").unlink(), "folder"),
        (lambda f: (f / "failure.json").write_text("[" * 100_000), "folder"),
        (edited(threads=-3), "folder"),
        (edited(threads="two"), "folder"),
        (edited(seed=2**32), "folder"),
        (edited(model=3), "folder"),
        (edited(model=None), "folder"),
        (edited(progress={"step": "x", "steps": 4, "epochs": 2, "batch_size": 20}), "folder"),
        (edited(precision="bf16-true"), "--precision"),
        (rebuilt_as("os.system"), "failure.json"),
        (rebuilt_as("torch.hub.load"), "failure.json"),
        (rebuilt_as("vitlab.objectives.Nothing"), "failure.json"),
    ],
)
def test_a_failure_that_is_damaged_or_hostile_is_refused(damage, field, failed: Path):
    damage(failed)
    with refused(field):
        replay([str(failed)])


RANK_1_MEETS_INFINITY = """
import sys
import torch
from vitlab import distributed
from vitlab.cli import main
from vitlab.objectives import DINO

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
    ranks = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
    given = words(tmp_path / "run", drawn, ["dino", "demo"], *UNPROBED, *ranks)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), *given]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("vitlab: the loss is not finite at step 2 (epoch 1, rank 1)") == 1
    failure = read(tmp_path / "run/failure")[0]
    assert (failure.rank, failure.world) == (1, 2)
    assert f"and to {failure.files[0]}" in failure.sentence
    assert replayed(tmp_path / "run/failure", capsys)[0] == 0
