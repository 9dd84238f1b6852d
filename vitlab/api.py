"""`fit`, `evaluate` and `analyze` from Python: the code of the commands, for notebooks and sweeps.

Options are those of the commands, as a mapping with dotted or nested keys. Input that cannot be
used raises `InputError`. Nothing global is left behind: random streams, environment, signal
handlers, warning filters and settings of torch are as before.
"""

import json
import os
import signal
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning import Callback, Trainer

from vitlab import signals
from vitlab.callbacks.measurements import Measurement, read_measurements
from vitlab.callbacks.preemption import Preempted
from vitlab.commands.analyze import AnalyzeOptions
from vitlab.commands.evaluate import parse as parse_evaluate
from vitlab.commands.parser import parse
from vitlab.commands.run_analyze import write_analysis
from vitlab.commands.run_evaluate import evaluate_and_write
from vitlab.config_safety import imports_as_before
from vitlab.encoders.checkpoint_io import load
from vitlab.errors import InputError
from vitlab.evaluation.result import Result
from vitlab.launch import clear_variables
from vitlab.rng import seeded_rng
from vitlab.run import run_dir
from vitlab.training.callbacks import measurements
from vitlab.training.cli import FitCLI
from vitlab.training.fit import begin, leave_group, train

__all__ = ["FitResult", "analyze", "evaluate", "fit", "load"]


@dataclass(frozen=True)
class FitResult:
    """A run that is finished.

    Attributes:
        folder: of the run.
        measurements: all scores, see `Measurement`.
        logged: the last value of everything that was logged, such as "loss"; empty for a run that
            had been finished before.
    """

    folder: Path
    measurements: list[Measurement]
    logged: dict[str, float]

    @property
    def checkpoint(self) -> Path:
        """The weights at the end of the run."""
        return self.folder / run_dir.LAST

    @property
    def scores(self) -> dict[str, float]:
        """Scores after the last epoch by name, such as "knn/top1" and "miou/mean"."""
        trained = [row["scores"] for row in self.measurements if row["encoder"] == "trained"]
        return dict(trained[-1]) if trained else {}


def fit(
    config: str | Path | Sequence[str | Path],
    overrides: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
) -> FitResult:
    """Train, as `vitlab fit` does.

    Args:
        config: name or path, such as "dino"; or several, which overlay each other.
        overrides: options of `vitlab fit`: {"model.optimizer.lr": 1e-3, "run_dir": "runs/a"}.
        callbacks: of Lightning, beside those of the config. An exception of theirs, such as
            `optuna.TrialPruned`, ends the run and reaches the caller.

    Returns:
        Scores and folder of the run; neither for `dry_run`.

    Raises:
        InputError: something given cannot be used.
        Preempted: SIGTERM or SIGUSR1 asked the run to stop; its checkpoint is written.
        KeyboardInterrupt: the same, by Ctrl-C.
        FloatingPointError: the loss or a weight is not finite.
    """
    files = [config] if isinstance(config, str | Path) else config
    words = [f"--config={file}" for file in files] + _words(overrides)
    with _isolated(), imports_as_before(), signals.listening(), ExitStack() as held:
        cli = FitCLI(words, callbacks=callbacks, prog="vitlab.fit")
        _refuse_launch(cli.trainer)
        try:
            if begin(cli, held):
                train(cli)
        except (Preempted, SystemExit) as error:  # Lightning makes the latter of a second Ctrl-C
            if isinstance(error, Preempted) and error.signal != signal.SIGINT:
                raise
            hint = run_dir.resume_hint(cli.folder)
            raise KeyboardInterrupt(f"{error}; {hint}") from error
        finally:
            leave_group()
        rows, logged = measurements(cli.trainer), cli.trainer.callback_metrics
        if cli.start.finished:
            rows = read_measurements(cli.folder)
        return FitResult(cli.folder, rows, {name: float(value) for name, value in logged.items()})


def evaluate(
    weights: str | Path, protocol: str | Path, overrides: Mapping[str, Any] | None = None
) -> Result | None:
    """Evaluate frozen features, as `vitlab evaluate` does.

    Args:
        weights: a run's checkpoint, an exported folder, or a file of weights.
        protocol: name or YAML file.
        overrides: options of `vitlab evaluate`: {"data.root": "/data/VOCdevkit", "out": "a"}.

    Returns:
        The result as it is on disk: `value` is the headline in percent, `scores` has all numbers.
        None for `dry_run`.

    Raises:
        InputError: something given cannot be used.
    """
    words = [f"--weights={weights}", f"--protocol={protocol}", *_words(overrides)]
    with _isolated(), imports_as_before():
        arguments, info = parse_evaluate(words)
        if arguments.devices * arguments.num_nodes > 1:
            raise InputError(
                "vitlab.evaluate runs in this process; for several devices use `vitlab evaluate`",
                field="--devices",
            )
        return evaluate_and_write(arguments, info)


def analyze(
    weights: str | Path | Sequence[str | Path], overrides: Mapping[str, Any] | None = None
) -> pd.DataFrame | None:
    """Measure tokens and attention of encoders, as `vitlab analyze` does.

    Args:
        weights: of one encoder, or of several.
        overrides: options of `vitlab analyze`: {"data.root": "/data/VOCdevkit", "images": 100}.
            Without "out", no report is kept.

    Returns:
        A row for each number, see `vitlab.analysis.results.Row`; None for `dry_run`.

    Raises:
        InputError: something given cannot be used.
    """
    given = [weights] if isinstance(weights, str | Path) else weights
    words = ["--weights", *map(str, given), *_words(overrides)]
    with _isolated(), imports_as_before(), tempfile.TemporaryDirectory() as folder:
        out = [] if "out" in (overrides or {}) else [f"--out={folder}/analysis"]
        options = parse(AnalyzeOptions, [*words, *out], "vitlab.analyze")
        results = write_analysis(options)
    return None if results is None else results.rows


def _words(overrides: Mapping[str, Any] | None) -> list[str]:
    """Return options as words of a command line."""
    return [word for key, value in (overrides or {}).items() for word in _option(key, value)]


def _option(key: str, value: Any) -> Iterator[str]:
    """Yield the words of an option, or of all that a mapping holds below it."""
    option = f"--{key}"
    if "." not in key:  # in configs run_dir and num_workers, on command lines --run-dir
        option = f"--{key if key in ('ckpt_path', 'seed_everything') else key.replace('_', '-')}"
    if isinstance(value, Mapping) and "class_path" in value:
        yield f"{option}={value['class_path']}"
        for name, each in (value.get("init_args") or {}).items():
            yield from _option(f"{key}.{name}", each)
    elif isinstance(value, Mapping) and value:
        for name, each in value.items():
            yield from _option(f"{key}.{name}", each)
    elif isinstance(value, bool) and "." not in key:  # a flag
        yield from [option] if value else []
    elif isinstance(value, str | Path):
        yield f"{option}={value}"
    elif isinstance(value, list | tuple) and "." not in key:  # as in --weights A B
        yield from [option, *map(str, value)]
    else:
        try:
            text = json.dumps(value, default=_plain)
        except (TypeError, AttributeError, ValueError) as error:
            remedy = "; give callbacks as callbacks=[...]" if "callbacks" in key else ""
            raise InputError(
                f"{key} is given as {value!r}, but options take plain values, and classes as a "
                f"mapping with class_path and init_args{remedy}",
                field=key,
            ) from error
        yield f"{option}={text}"


def _plain(value: Any) -> Any:
    """Return a number of numpy or torch, or a path, as JSON holds it."""
    return str(value) if isinstance(value, Path) else value.item()


def _refuse_launch(trainer: Trainer) -> None:
    """Refuse a run that would start the program of the caller again for each device."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if trainer.world_size > 1 and not getattr(environment, "creates_processes_externally", True):
        raise InputError(
            f"the run has {trainer.world_size} processes, and vitlab.fit starts none; set "
            "trainer.devices to 1, or start the program with torchrun",
            field="trainer.devices",
        )


@contextmanager
def _isolated() -> Iterator[None]:
    """Leave, in the end, the process as it was."""
    environment, threads = dict(os.environ), torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    precision, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn
    benchmark, deterministic_cudnn = cudnn.benchmark, cudnn.deterministic
    with torch.random.fork_rng(), seeded_rng(0), warnings.catch_warnings():
        try:
            clear_variables()
            yield
        finally:
            os.environ.clear()
            os.environ.update(environment)
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
            torch.set_float32_matmul_precision(precision)
            cudnn.benchmark, cudnn.deterministic = benchmark, deterministic_cudnn
