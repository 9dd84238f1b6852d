"""Where the time of a training step goes."""

import time
from itertools import pairwise
from typing import Any

import psutil
import torch
from lightning.pytorch.profilers import Profiler

PARTS = {  # by the names under which Lightning announces them
    "train_dataloader_next": "data",
    "batch_to_device": "copy",
    "training_step": "forward",
    "backward": "backward",
    "optimizer_step": "optimizer",
}
OTHER = "other"


class Parts(Profiler):
    """Divides the time of each step among its parts; a part within another is not its time.

    On a GPU the marks are events in its queue, read when all is done: they do not slow it down,
    and a part's time is the GPU's own, with waiting where it had nothing to do.
    """

    def __init__(self, device: torch.device):
        super().__init__()
        self.device = device
        self.within: list[str] = []
        self.turns: list[tuple[Any, str]] = []  # of this step: from when on, which part
        self.steps: list[list[tuple[Any, str]]] = []
        self.resident = 0  # bytes of this process at most, on a CPU

    def start(self, action_name: str) -> None:
        """Enter a part."""
        part = self._part(action_name)
        if part:
            self.within.append(part)
            self._turn()

    def stop(self, action_name: str) -> None:
        """Leave it."""
        if self._part(action_name):
            self.within.pop()
            self._turn()
            if self.device.type == "cpu":
                self.resident = max(self.resident, psutil.Process().memory_info().rss)

    def begin(self) -> None:
        """Begin a step; what was before it does not count."""
        self.turns = []
        self._turn()

    def end(self) -> None:
        """End a step, where the next one begins."""
        self._turn()
        self.steps.append(self.turns)
        self.begin()

    def seconds(self) -> list[dict[str, float]]:
        """Return the seconds of each part, for each step."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        found = []
        for turns in self.steps:
            parts = dict.fromkeys([*PARTS.values(), OTHER], 0.0)
            for (began, part), (ended, _) in pairwise(turns):
                parts[part] += _between(began, ended)
            found.append(parts)
        return found

    def _part(self, action: str) -> str | None:
        # "[Strategy]SingleDeviceStrategy.backward"; callbacks' hooks have other names
        kind, _, name = action.rpartition(".")
        return None if kind.startswith("[Callback]") else PARTS.get(name)

    def _turn(self) -> None:
        now: Any = time.perf_counter()
        if self.device.type == "cuda":
            now = torch.cuda.Event(enable_timing=True)
            now.record()
        self.turns.append((now, self.within[-1] if self.within else OTHER))


def _between(began: Any, ended: Any) -> float:
    if isinstance(began, float):
        return ended - began
    return began.elapsed_time(ended) / 1000
