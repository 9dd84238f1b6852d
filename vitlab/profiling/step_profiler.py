"""Time of each training step by parts, as a profiler of Lightning."""

import time
from itertools import pairwise
from typing import Any

import psutil
import torch
from lightning.pytorch.profilers import Profiler

PARTS = {  # by the last part of Lightning's action names
    "train_dataloader_next": "data",
    "batch_to_device": "copy",
    "training_step": "forward",
    "backward": "backward",
    "optimizer_step": "optimizer",
}
OTHER = "other"


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
        self._marks: list[tuple[Any, str]] = []  # of this step: time, and the part that begins
        self._stack: list[str] = []

    def start(self, action_name: str) -> None:
        """Begin an action of Lightning."""
        if part := self._part(action_name):
            self._stack.append(part)
            self._mark()

    def stop(self, action_name: str) -> None:
        """End an action of Lightning."""
        if self._part(action_name):
            self._stack.pop()
            self._mark()
            if self.device.type == "cpu":
                self.peak_rss = max(self.peak_rss, psutil.Process().memory_info().rss)

    def begin_step(self) -> None:
        """Begin a step; the time before it does not count."""
        self._marks = []
        self._mark()

    def end_step(self) -> None:
        """End a step, and begin the next."""
        self._mark()
        self.steps.append(self._marks)
        self.begin_step()

    def seconds(self) -> list[dict[str, float]]:
        """Return the seconds of each part, for each step."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        found = []
        for marks in self.steps:
            parts = dict.fromkeys([*PARTS.values(), OTHER], 0.0)
            for (began, part), (ended, _) in pairwise(marks):
                on_cpu = isinstance(began, float)
                parts[part] += ended - began if on_cpu else began.elapsed_time(ended) / 1000
            found.append(parts)
        return found

    def _part(self, action: str) -> str | None:
        # "[Strategy]SingleDeviceStrategy.backward"; callbacks' hooks have other names
        owner, _, name = action.rpartition(".")
        return None if owner.startswith("[Callback]") else PARTS.get(name)

    def _mark(self) -> None:
        now: Any = time.perf_counter()
        if self.device.type == "cuda":
            now = torch.cuda.Event(enable_timing=True)
            now.record()
        self._marks.append((now, self._stack[-1] if self._stack else OTHER))
