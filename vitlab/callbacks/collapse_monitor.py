"""Collapse monitor: measures a run every few steps and reports collapse or divergence."""

import json
import statistics
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor, nn
from typing_extensions import TypedDict

from vitlab.analysis.measures.tokens import gram_matrix, rankme
from vitlab.atomic_io import decode_json, plain, read_regular, write_bytes
from vitlab.callbacks.collapse_checks import (
    FEW,
    RECENT,
    Diagnosis,
    TeacherStats,
    TrainingStats,
    diagnose,
)
from vitlab.callbacks.loggers import log_warning
from vitlab.callbacks.pretraining_callback import PretrainingCallback
from vitlab.encoders.tokens import Tokens
from vitlab.errors import InputError, check_least
from vitlab.objectives.objective import SelfDistillation
from vitlab.precision import at_least_fp32
from vitlab.run.module import Pretraining
from vitlab.run.run_dir import resume_hint

FILE = "collapse_monitor.jsonl"  # the diagnoses of a run, a line each
# a diagnosis counts once it is made at 3 of 5 checks, and is over after 5 without it
CHECKS, CONFIRMED = 5, 3
MATRICES = 8  # of an encoder, evenly through its depth, stand for all of them
Number = Tensor | float  # on the device until a check, or from a checkpoint
# state of the monitor in a checkpoint
PLAIN = ("episode", "best_rank", "fastest", "largest")
NUMBERS = ("usual", "norms", "center_errors", "losses")


class Reported(TypedDict):
    """A diagnosis and its step, a line of RUN/collapse_monitor.jsonl."""

    step: int
    name: str
    sentence: str


class CollapseMonitor(PretrainingCallback):
    """Checks loss, gradients, weights and teacher every few steps; reports each problem once.

    It does not affect training: no random number is drawn and no weight changed.

    Args:
        every_n_steps: steps between two checks; 0 for none.
        stop: whether the run ends at a diagnosis; checkpoints stay as they are.
    """

    def __init__(self, every_n_steps: int = 10, stop: bool = False):
        self.every_n_steps, self.stop = every_n_steps, stop
        check_least(self, "collapse_monitor.", {"every_n_steps": 0})
        if stop and not every_n_steps:
            raise InputError(
                "collapse_monitor.stop true would be ignored, as collapse_monitor.every_n_steps 0 "
                "never checks; set that to 10, or leave collapse_monitor.stop out",
                field="collapse_monitor.stop",
            )
        self.found: deque[str] = deque(maxlen=CHECKS)
        self.episode = ""  # name of the diagnosis that was reported last, while it lasts
        self.usual: deque[float] = deque(maxlen=20)  # median gradient norms of checks
        self.best_rank = self.fastest = self.largest = 0.0
        self.losses: deque[Number] = deque(maxlen=RECENT)  # after the warm-up
        self.norms: deque[Number] = deque()  # since the last check
        # of a few images the mean logits jump: only the least error of several steps counts
        self.center_errors: deque[Number] = deque(maxlen=FEW + 1)
        self.matrices: dict[str, nn.Parameter] = {}
        self.before: list[Tensor] = []  # the matrices before a step that is checked
        self.features: list[Tensor] = []  # [CLS] in that step
        self.hook: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Choose the weight matrices to watch; drop what a lost attempt has reported."""
        objective = pl_module.objective
        pair = objective.distillation(pl_module.last)
        self.matrices = watched_weights(objective if pair is None else pair.student)
        folder = Path(trainer.default_root_dir)
        if trainer.is_global_zero and (rows := read_diagnoses(folder)):
            _write(folder, [row for row in rows if row["step"] <= trainer.global_step])

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: object, batch_idx: int
    ) -> None:
        """Before a step that is checked, keep the weights and record [CLS] features."""
        first = batch_idx % trainer.accumulate_grad_batches == 0
        if first and self.every_n_steps and (trainer.global_step + 1) % self.every_n_steps == 0:
            self.before = [matrix.detach().clone() for matrix in self.matrices.values()]
            self.features = []
            self.hook = pl_module.objective.encoder.register_forward_hook(self.keep_features)

    def keep_features(self, encoder: nn.Module, given: object, output: object) -> None:
        """Keep [CLS] of a forward pass of the encoder."""
        if isinstance(output, Tokens):
            self.features.append(output.cls.detach())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: object, batch_idx: int
    ) -> None:
        """After a step, keep its gradient norm, and check the run when due."""
        if not self.every_n_steps or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        objective, logs = pl_module.objective, pl_module.logs
        if "optimizer/gradient_norm" in logs:
            self.norms.append(logs["optimizer/gradient_norm"])
        if _warm(pl_module):
            self.losses.append(objective.task_loss(logs))
        if (pair := objective.distillation(pl_module.last)) is not None:
            self.center_errors.append(pair.center_error)
        if self.hook is None:
            return
        self.hook.remove()
        self.hook = None
        stats = self.stats(pl_module)
        self.usual.append(stats.gradient)
        self.norms.clear()
        self.before, self.features = [], []
        self.log_stats(trainer, stats)
        diagnosis = self.confirm(diagnose(stats))
        if diagnosis is not None:
            self.report(trainer, diagnosis)
        if self.stop:  # ranks see different images, and must end together
            text = trainer.strategy.broadcast(diagnosis.sentence if diagnosis else "")
            if text:
                raise FloatingPointError(
                    f"{text}. Stopped at step {trainer.global_step}, as --collapse_monitor.stop "
                    f"asks; {resume_hint(Path(trainer.default_root_dir))}"
                )

    def stats(self, module: Pretraining) -> TrainingStats:
        """Return the statistics after this step; the only place that waits for the device."""
        objective, progress, settings = module.objective, module.last, module.settings
        step = progress.step + 1
        norms = _floats(self.norms) or [0.0]
        pair = objective.distillation(progress)
        teacher = self.teacher_stats(pair, module) if pair is not None else None
        speed = teacher.speed(step) if teacher is not None else 0.0
        update = relative_change(self.before, list(self.matrices.values()))
        self.best_rank = max(self.best_rank, teacher.rank if teacher is not None else 0.0)
        self.fastest = max(self.fastest, speed if step > FEW else 0.0)
        self.largest = max(self.largest, update or 0.0)
        full = len(self.losses) == RECENT
        return TrainingStats(
            step=step,
            steps=progress.steps,
            warm=_warm(module),
            loss=float(module.logs["loss"]),
            constant_loss=objective.constant_loss,
            gradient=statistics.median(norms),
            spike=max(norms),
            usual=statistics.median(self.usual) if len(self.usual) >= CHECKS else 0.0,
            learning_rate=settings.lr_at(progress),
            peak=settings.peak_lr(progress.batch_size),
            update=update,
            largest=self.largest,
            mean=statistics.fmean(_floats(self.losses)) if full else None,
            teacher=teacher,
            speed=speed,
            fastest=self.fastest,
            best_rank=self.best_rank,
        )

    def teacher_stats(self, pair: SelfDistillation, module: Pretraining) -> TeacherStats:
        """Return the statistics of a teacher."""
        features = at_least_fp32(torch.cat(self.features))
        objective, logs, progress = module.objective, module.logs, module.last
        copies = [pair.teacher.get_parameter(name) for name in self.matrices]
        steps = range(0, progress.steps, max(1, progress.steps // 100))  # a sample of them
        pairs = [objective.distillation(replace(progress, step=step)) for step in steps]
        kept = [each.momentum for each in pairs if each is not None]
        return TeacherStats(
            out_dim=objective.out_dim,
            entropy=float(logs["teacher/entropy"]),
            divergence=float(logs["teacher/divergence"]),
            prototypes=float(logs["teacher/prototypes"]),
            center_error=min(_floats(self.center_errors)),
            temperature=pair.temperature,
            student_temperature=pair.student_temperature,
            momentum=pair.momentum,
            distance=relative_change(list(self.matrices.values()), copies) or 0.0,
            rank=rankme(gram_matrix(features), len(features)),
            taken=1.0 - statistics.geometric_mean(kept) ** progress.steps if all(kept) else 1.0,
        )

    def confirm(self, found: Diagnosis | None) -> Diagnosis | None:
        """Return a diagnosis when it has become certain, once for as long as it lasts."""
        self.found.append(found.name if found else "")
        if self.episode and self.episode not in self.found:
            self.episode = ""
        if found is None or self.found.count(found.name) < CONFIRMED or found.name == self.episode:
            return None
        self.episode = found.name
        return found

    def log_stats(self, trainer: Trainer, stats: TrainingStats) -> None:
        """Log the curves that only this callback has."""
        values = {"collapse_monitor/update": stats.update or 0.0}
        if stats.teacher is not None:
            values["collapse_monitor/center_error"] = stats.teacher.center_error
            values["collapse_monitor/teacher_distance"] = stats.teacher.distance
            values["collapse_monitor/feature_rank"] = stats.teacher.rank
        for logger in trainer.loggers:
            logger.log_metrics(values, step=stats.step - 1)

    def report(self, trainer: Trainer, diagnosis: Diagnosis) -> None:
        """Write a diagnosis to the terminal, TensorBoard and the run's folder.

        Raises:
            OSError: the disk is full, or fails; earlier diagnoses are still there.
        """
        log_warning(trainer, f"step {trainer.global_step}: {diagnosis.sentence}")
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir)
            row = Reported(
                step=trainer.global_step, name=diagnosis.name, sentence=diagnosis.sentence
            )
            _write(folder, [*read_diagnoses(folder), row])

    def state_dict(self) -> dict[str, Any]:
        """Return what later checks depend on."""
        plain = {name: getattr(self, name) for name in PLAIN}
        numbers = {name: _floats(getattr(self, name)) for name in NUMBERS}
        return {**plain, "found": list(self.found), **numbers}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the checks of an earlier part of the run."""
        for name in PLAIN:
            setattr(self, name, state_dict[name])
        for name in ("found", *NUMBERS):
            getattr(self, name).extend(state_dict[name])


def read_diagnoses(folder: Path) -> list[Reported]:
    """Return the diagnoses of a run: step, name and sentence of each."""
    try:
        lines = read_regular(folder / FILE).splitlines()
    except FileNotFoundError:
        return []
    try:
        return [decode_json(line, Reported) for line in lines]
    except (ValueError, RecursionError) as error:
        message = f"{folder / FILE} cannot be read: {error}; remove it, and its warnings are gone"
        raise InputError(message, field=FILE) from error


def _write(folder: Path, rows: Iterable[Reported]) -> None:
    write_bytes(folder / FILE, "".join(f"{json.dumps(plain(row))}\n" for row in rows).encode())


def watched_weights(module: nn.Module, count: int = MATRICES) -> dict[str, nn.Parameter]:
    """Return some of the matrices of linear maps that are trained, evenly through the module."""
    found = {
        f"{name}.weight": weight
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear)
        for weight in part.parameters(recurse=False)
        if weight.ndim == 2 and weight.requires_grad
    }
    names = list(found)[:: max(1, -(-len(found) // count))]
    return {name: found[name] for name in names}


@torch.no_grad()
def relative_change(before: Sequence[Tensor], now: Sequence[Tensor]) -> float | None:
    """Return ||now - before|| / ||before||, the median over matrices that are not 0."""
    shares = [(b - a).norm() / a.norm() for a, b in zip(before, now, strict=True) if bool(a.any())]
    return float(torch.stack(shares).median()) if shares else None


def _floats(found: Iterable[Number]) -> list[float]:
    return [float(number) for number in found]


def _warm(module: Pretraining) -> bool:
    """Return whether the warm-up of the learning rate is over."""
    return module.last.step >= module.last.steps_in(module.settings.warmup_epochs)
