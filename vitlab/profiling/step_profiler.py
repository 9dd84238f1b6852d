"""Marks of the steps of a trial: time by parts, memory, size of a checkpoint."""

import time
from itertools import pairwise
from typing import Any

import pandas as pd
import psutil
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.profilers import Profiler

OTHER = "other"
PARTS = {  # by the last part of Lightning's action names
    "train_dataloader_next": "data",
    "batch_to_device": "copy",
    "training_step": "forward",
    "backward": "backward",
    "optimizer_step": "optimizer",
}


class StepProfiler(Profiler):
    """Divides the time of each step among its parts; nested parts are not counted twice.

    On a GPU the marks are CUDA events, read at the end: they do not slow the step down, and a
    part's time is the GPU's own, including its idle time.
    """

    def __init__(self, device: torch.device):
        super().__init__()
        self.device = device
        self.peak_rss = 0  # bytes of this process, on a CPU
        self.steps: list[list[tuple[Any, str]]] = []
        self.marks: list[tuple[Any, str]] = []  # of this step: time, and the part that begins
        self.stack = [OTHER]

    def start(self, action_name: str) -> None:
        """Begin an action of Lightning."""
        if part := _part(action_name):
            self.stack.append(part)
            self.mark()

    def stop(self, action_name: str) -> None:
        """End an action of Lightning."""
        if _part(action_name):
            self.stack.pop()
            self.mark()
            self.peak_rss = max(self.peak_rss, psutil.Process().memory_info().rss)

    def mark(self) -> None:
        """Note the time."""
        now: Any = time.perf_counter()
        if self.device.type == "cuda":
            now = torch.cuda.Event(enable_timing=True)
            now.record()
        self.marks.append((now, self.stack[-1]))

    def end_step(self) -> None:
        """End a step, and begin the next."""
        self.mark()
        self.steps.append(self.marks)
        self.marks = self.marks[-1:]

    def seconds(self) -> pd.DataFrame:
        """Return the seconds of each step (row) by part (column)."""
        found = [dict.fromkeys([*PARTS.values(), OTHER], 0.0) for _ in self.steps]
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        for marks, parts in zip(self.steps, found, strict=True):
            for (began, part), (ended, _) in pairwise(marks):
                on_cpu = isinstance(began, float)
                parts[part] += ended - began if on_cpu else began.elapsed_time(ended) / 1000
        return pd.DataFrame(found)


def _part(action: str) -> str | None:
    # "[Strategy]SingleDeviceStrategy.backward"; callbacks' hooks have other names
    owner, _, name = action.rpartition(".")
    return None if owner.startswith("[Callback]") else PARTS.get(name)


class TrialSteps(Callback):
    """Marks the steps for the profiler, stops after so many, and measures memory."""

    def __init__(self, profiler: StepProfiler, steps: int):
        self.profiler, self.steps = profiler, steps
        self.rss_before = self.peak = self.num_metrics = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure memory before the first step."""
        self.rss_before = self.profiler.peak_rss = psutil.Process().memory_info().rss
        if self.profiler.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.profiler.device)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a step; the time before it does not count."""
        self.profiler.marks = []
        self.profiler.mark()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """End a step with its last micro-batch."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.profiler.end_step()
            trainer.should_stop = len(self.profiler.steps) >= self.steps

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure memory, and the size of a checkpoint while the optimizer exists."""
        if self.profiler.device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self.profiler.device)
        else:  # the weights were there before
            weights = sum(p.numel() * p.element_size() for p in pl_module.parameters())
            self.peak = weights + self.profiler.peak_rss - self.rss_before
        self.num_metrics = len(trainer.callback_metrics)
        trainer.save_checkpoint("not written", weights_only=False)


class CheckpointSize(TorchCheckpointIO):
    """Counts the bytes of a checkpoint instead of writing it."""

    bytes = 0

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options=None) -> None:
        """Serialize a checkpoint into this object, which is like a file without content."""
        torch.save(checkpoint, self)  # type: ignore[arg-type]

    def write(self, content: Any) -> int:
        """Count bytes."""
        self.bytes += memoryview(content).nbytes
        return memoryview(content).nbytes

    def flush(self) -> None:
        """Do nothing."""
