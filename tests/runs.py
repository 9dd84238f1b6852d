"""Small runs of `vitlab fit` in this process, and what tests compare of them."""

import os
import signal
from pathlib import Path

import pytest
import torch

from vitlab.callbacks.throughput import ThroughputMonitor
from vitlab.cli import main

CONFIGS = Path(__file__).parents[1] / "configs"
UNPROBED = (
    "--probing.every_n_epochs",
    "0",
    "--probing.baselines",
    "false",
    "--probing.dense",
    "{}",
)


def run_fit(folder: Path, drawn: Path, configs: list[str], *options: str) -> Path:
    """Run `vitlab fit` for two epochs of two steps on the drawn data; return its folder.

    Args:
        folder: of the run.
        drawn: the drawn data sets.
        configs: names below configs/, in order.
        options: on the command line, last.
    """
    main(
        [
            *(
                "fit",
                *(word for name in configs for word in ("--config", f"{CONFIGS / name}.yaml")),
            ),
            *("--run-dir", str(folder), "--synthetic.root", ""),
            *("--data.root", str(drawn / "imagenet"), "--data.num_workers", "0"),
            *("--probing.dense.voc2012.root", str(drawn / "VOCdevkit")),
            *("--probing.num_workers", "0"),
            *(() if configs[0].startswith("dino") else ("--validation.num_workers", "0")),
            *("--trainer.accelerator", "cpu", "--trainer.devices", "1"),
            *("--trainer.precision", "32-true", "--trainer.enable_progress_bar", "false"),
            *("--data.global_batch_size", "20", "--trainer.max_epochs", "2"),
            *("--model.optimizer.warmup_epochs", "1"),
            *options,
        ]
    )
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
    patch.setattr("vitlab.training.cli.ThroughputMonitor", by)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]


def assert_same_bits(first: Path, second: Path) -> None:
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the points of every curve."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(point.step, point.value) for point in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }
