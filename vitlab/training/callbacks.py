"""The callbacks of `vitlab fit`: which ones a run has, in which order, and which can be removed."""

from collections.abc import Sequence
from dataclasses import dataclass

from jsonargparse import Namespace
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar

from vitlab.callbacks.measurements import EvaluationCallback, Measurement
from vitlab.callbacks.nan_guard import NaNGuard
from vitlab.callbacks.preemption import Preemption
from vitlab.callbacks.progress import RunProgress
from vitlab.callbacks.rank_watchdog import RankWatchdog
from vitlab.callbacks.status import StatusWriter
from vitlab.callbacks.throughput import ThroughputMonitor
from vitlab.errors import InputError


@dataclass(frozen=True)
class RunCallbacks:
    """Callbacks of a run; false removes one. Those with options have a section of the same name.

    Args:
        preemption: stops between two steps when asked to, with a checkpoint; cannot be removed.
        nan_guard: stops before NaN or infinity reaches the weights, and keeps the step.
        collapse_monitor: reports collapse and divergence.
        probing: scores of the frozen encoder, before, while and after it trains.
        validation: scores of an objective's classifiers.
        throughput: images per second, and seconds that steps wait for data.
        rank_watchdog: ends all ranks, with the reason, when one is gone.
        status: RUN/status.json, which `vitlab runs` reads.
        checkpoint: RUN/last.ckpt, from which a run continues; cannot be removed.
    """

    preemption: bool = True
    nan_guard: bool = True
    collapse_monitor: bool = True
    probing: bool = True
    validation: bool = True
    throughput: bool = True
    rank_watchdog: bool = True
    status: bool = True
    checkpoint: bool = True

    def __post_init__(self) -> None:
        remedies = {
            "preemption": "Ctrl-C would lose all steps since the last checkpoint",
            "checkpoint": "a run that ends early could not be continued; for fewer checkpoints set "
            "checkpoint.minutes 0, which leaves those at the end of epochs",
        }
        for name, why in remedies.items():
            if not getattr(self, name):
                field = f"callbacks.{name}"
                raise InputError(f"{field} false: {why}; leave it out", field=field)


def run_callbacks(built: Namespace, others: Sequence[Callback]) -> list[Callback]:
    """Return the callbacks of a run in the order in which they are called.

    Args:
        built: sections of the config, each with its callback.
        others: of the user; they may monitor the scores of ours.

    Raises:
        InputError: one of the user's is one that the run has.
    """
    throughput = ThroughputMonitor()
    ours: dict[str, Callback] = {
        "preemption": Preemption(built.checkpoint),  # first, as an epoch's end takes long
        "nan_guard": NaNGuard(),
        "collapse_monitor": built.collapse_monitor,
        "probing": built.probing,
        "validation": built.validation,
        "throughput": throughput,
        "rank_watchdog": RankWatchdog(),
        "status": StatusWriter(),
        "checkpoint": built.checkpoint,  # last, with the state of all others
    }
    found: list[Callback] = []
    for name, each in ours.items():
        if name == "throughput":
            found += others
        if not getattr(built.callbacks, name):
            continue
        if type(each) in map(type, others):
            raise InputError(
                f"trainer.callbacks has {type(each).__name__}, which the run has as well; leave it "
                f"out, or the run's with callbacks.{name} false",
                field="trainer.callbacks",
            )
        found.append(each)
    measuring = [each for each in found if isinstance(each, EvaluationCallback)]
    for callback in measuring:
        callback.rows = measuring[0].rows  # one row for each epoch, in one file
    own_bar = any(isinstance(each, ProgressBar) for each in others)
    if built.trainer.enable_progress_bar is not False and not own_bar:
        found.append(RunProgress(measuring, throughput if throughput in found else None))
    return found


def measurements(trainer: Trainer) -> list[Measurement]:
    """Return the scores of a run so far."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    found = (each.rows for each in callbacks if isinstance(each, EvaluationCallback))
    return next(found, [])
