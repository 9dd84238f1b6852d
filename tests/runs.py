"""Small runs of `vitlab fit` in this process, and what tests compare of them."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from vitlab.callbacks.throughput import ThroughputMonitor
from vitlab.cli import main

CONFIGS = Path(__file__).parents[1] / "configs"
UNPROBED = (
    *("--probing.every_n_epochs", "0", "--probing.baselines", "false", "--probing.dense", "{}"),
)


def words(
    folder: Path | str, drawn: Path, configs: Sequence[str], *options: str, verb: str = "fit"
) -> list[str]:
    """Return the command line of `vitlab fit` for two epochs of two steps on the drawn data.

    Args:
        folder: of the run; "" for the default.
        drawn: the drawn data sets.
        configs: names, in order.
        options: on the command line, last.
        verb: of vitlab.
    """
    dense = {"demo", "demo_supervised"} & {*configs}
    return [
        *(verb, *(word for name in configs for word in ("--config", f"{CONFIGS / name}.yaml"))),
        *(("--run-dir", str(folder)) if folder else ()),
        *("--synthetic.root", "", "--data.root", str(drawn / "imagenet")),
        *("--data.num_workers", "0", "--data.global_batch_size", "20"),
        *(("--probing.dense.voc2012.root", str(drawn / "VOCdevkit")) if dense else ()),
        *("--probing.num_workers", "0"),
        *(() if configs[0].startswith("dino") else ("--validation.num_workers", "0")),
        *("--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.max_epochs", "2"),
        *("--trainer.precision", "32-true", "--trainer.enable_progress_bar", "false"),
        *("--model.optimizer.warmup_epochs", "1", *options),
    ]


def run_fit(
    folder: Path | str, drawn: Path, configs: Sequence[str], *options: str, verb: str = "fit"
) -> Path:
    """Run `vitlab fit` in this process, see `words`; return its folder."""
    main(words(folder, drawn, configs, *options, verb=verb))
    return Path(folder)


def run_ranks(folder: Path, drawn: Path, configs: Sequence[str], *options: str) -> Path:
    """Run `vitlab fit` on two new ranks, see `words`; return its folder."""
    more = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
    command = [sys.executable, "-m", "vitlab", *words(folder, drawn, configs, *options, *more)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


class Interrupted(ThroughputMonitor):
    """Stands for a person who presses Ctrl-C in the second epoch, after a step."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 3:
            raise KeyboardInterrupt


class Signalled(ThroughputMonitor):
    """Asks for a stop within the first step of the second epoch."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)


def interrupt(patch: pytest.MonkeyPatch, by: type[ThroughputMonitor] = Interrupted) -> None:
    """Interrupt the runs that follow."""
    patch.setattr("vitlab.training.callbacks.ThroughputMonitor", by)


def interrupted(
    run: Callable[..., Path], by: type[ThroughputMonitor] = Interrupted, code: int = 1
) -> Path:
    """Start a run that is interrupted, and return the folder of its continuation."""
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, by)
        refusal(run, code=code)
    return run("--ckpt_path", "last")


def refusal(run: Callable[..., object], *given: Any, code: int = 2, **more: Any) -> None:
    """Expect that a command ends with this code."""
    with pytest.raises(SystemExit) as stopped:
        run(*given, **more)
    assert stopped.value.code == code


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]


def differences(ours: object, theirs: object, name: str = "") -> list[str]:
    """Return the names of the values within two nested ones that are not the same to the bit."""
    pairs: list[tuple[str, object, object]] = []
    if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        same = torch.equal(ours, theirs)
    elif isinstance(ours, dict) and isinstance(theirs, dict):
        same = ours.keys() == theirs.keys()
        pairs = [(f"{name}.{key}", ours[key], theirs[key]) for key in ours if same]
    elif isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        same = len(ours) == len(theirs)
        inner = enumerate(zip(ours, theirs, strict=False))
        pairs = [(f"{name}[{index}]", *pair) for index, pair in inner if same]
    else:
        same = type(ours) is type(theirs) and ours == theirs
    return [
        *([] if same else [name]),
        *(x for each in pairs for x in differences(*each[1:], each[0])),
    ]


def assert_same_bits(first: Path, second: Path) -> None:
    assert not differences(weights(first), weights(second))


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the points of every curve of a run, by the tag that other loggers get."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (place,) = (each.parent for each in folder.glob("*/hparams.yaml"))
    events = EventAccumulator(str(place), size_guidance={"scalars": 0}).Reload()
    order = re.compile(r"\d (scores/(\d )?|training/|speed/(?=probe|epoch))?")
    return {
        order.sub("", tag, count=1): [(point.step, point.value) for point in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }
