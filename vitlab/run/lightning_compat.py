"""Everything that depends on internals or messages of Lightning; each function has a test."""

import logging
import subprocess
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.strategies.launchers import subprocess_script


def set_position_in_epoch(checkpoint: dict[str, Any], mid_epoch: bool) -> None:
    """Have a resumed trainer stand between two micro-batches, or behind the end of an epoch.

    Lightning itself knows checkpoints only within a batch, or after all callbacks of an epoch.

    Args:
        checkpoint: as Lightning makes it; its loop state is changed.
        mid_epoch: whether the epoch goes on, or its measurements are still to come.
    """
    loops = checkpoint["loops"]["fit_loop"]
    batches, epochs = loops["epoch_loop.batch_progress"], loops["epoch_progress"]
    batches["is_last_batch"] = not mid_epoch
    if mid_epoch:
        for count in (batches["total"], batches["current"]):
            count["ready"] = count["started"] = count["processed"] = count["completed"]
        for count in (epochs["total"], epochs["current"]):
            count["processed"] = count["completed"]


@contextmanager
def observe_local_ranks(observe: Callable[[list[subprocess.Popen]], None]) -> Iterator[None]:
    """Have a function watch the ranks that Lightning starts from this process in this block.

    Lightning's own watch kills the first rank without a message.
    """
    before = subprocess_script._launch_process_observer
    subprocess_script._launch_process_observer = observe  # type: ignore[assignment]
    try:
        yield
    finally:
        subprocess_script._launch_process_observer = before


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the messages of Lightning on devices, seeds, plugins and its own products."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def ignore_known_warnings() -> None:
    """Hide warnings that are no fault of a run, until the filters are reset."""
    # `check_launch` knows when it is needed
    warnings.filterwarnings("ignore", "The `srun` command is available on your system")
    # which is for `Trainer.validate` alone
    warnings.filterwarnings("ignore", "You defined a `validation_step` but have no `val_data")
    # curves have a point every so many steps of the run, not of an epoch
    warnings.filterwarnings("ignore", "The number of training batches .* is smaller than the logg")
    # Lightning 2.6 itself calls what newer torch calls deprecated
    warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)")
    # frozen encoders and references are meant to be in eval mode
    warnings.filterwarnings("ignore", r"Found .* module\(s\) in eval mode")
