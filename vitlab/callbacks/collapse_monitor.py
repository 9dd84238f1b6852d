"""Collapse monitor: measures a run every few steps and reports collapse or divergence."""

import statistics
from collections import deque
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from vitlab.analysis.measures.tokens import gram_matrix, rankme
from vitlab.callbacks import diagnosis_log
from vitlab.callbacks.collapse_checks import FEW, Diagnosis, diagnose
from vitlab.callbacks.measurements import log_warning
from vitlab.callbacks.training_stats import (
    RECENT,
    TeacherStats,
    TrainingStats,
    relative_change,
    speed_of,
    watched_weights,
)
from vitlab.encoders.tokens import Tokens
from vitlab.errors import InputError
from vitlab.objectives import DINO
from vitlab.optim.schedules import Progress
from vitlab.run.module import Pretraining
from vitlab.run.run_dir import resume_hint

# a diagnosis counts once it is made at 3 of 5 checks, and is over after 5 without it
CHECKS, CONFIRMED = 5, 3
# state of the monitor in a checkpoint
PLAIN, LISTS = ("episode", "best_rank", "fastest", "largest"), ("found", "usual")
TENSORS = ("norms", "center_errors", "losses")


class CollapseMonitor(Callback):
    """Checks loss, gradients, weights and teacher every few steps; reports each problem once.

    It does not affect training: no random number is drawn and no weight changed.

    Args:
        every_n_steps: steps between two checks; 0 for none.
        stop: whether the run ends at a diagnosis; checkpoints stay as they are.
    """

    def __init__(self, every_n_steps: int = 10, stop: bool = False):
        field = "collapse_monitor.every_n_steps"
        if every_n_steps < 0:
            raise InputError(
                f"{field} {every_n_steps} is negative; use 0 for no checks, or a count", field=field
            )
        if stop and not every_n_steps:
            raise InputError(
                f"collapse_monitor.stop true would be ignored, as {field} 0 never checks; set "
                f"{field} to 10, or leave collapse_monitor.stop out",
                field="collapse_monitor.stop",
            )
        self.every_n_steps, self.stop = every_n_steps, stop
        self.found: deque[str] = deque(maxlen=CHECKS)
        self.episode = ""  # name of the diagnosis that was reported last, while it lasts
        self.usual: deque[float] = deque(maxlen=20)  # median gradient norms of checks
        self.best_rank = self.fastest = self.largest = 0.0
        self.losses: deque[Tensor] = deque(maxlen=RECENT)  # after the warm-up
        self.norms: deque[Tensor] = deque()  # since the last check
        # of a few images the mean logits jump: only the least error of several steps counts
        self.center_errors: deque[Tensor] = deque(maxlen=FEW + 1)
        self.before: list[Tensor] = []
        self.matrices: list[tuple[str, nn.Parameter]] = []
        self.features: list[Tensor] = []
        self.hook: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the weight matrices to watch."""
        assert isinstance(pl_module, Pretraining)
        objective = pl_module.objective
        student = objective.student if isinstance(objective, DINO) else objective
        self.matrices = watched_weights(student)
        if trainer.is_global_zero:
            diagnosis_log.drop_after(Path(trainer.default_root_dir), trainer.global_step)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Before a step that is checked, keep the weights and record [CLS] features."""
        assert isinstance(pl_module, Pretraining)
        first = batch_idx % trainer.accumulate_grad_batches == 0
        if first and self.every_n_steps and (trainer.global_step + 1) % self.every_n_steps == 0:
            self.before = [matrix.detach().clone() for _, matrix in self.matrices]
            self.features = []
            self.hook = pl_module.objective.encoder.register_forward_hook(self.keep_features)

    def keep_features(self, encoder: nn.Module, given: object, output: object) -> None:
        """Keep [CLS] of a forward pass of the encoder."""
        if isinstance(output, Tokens):
            self.features.append(output.cls.detach())

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """After a step, keep its gradient norm, and check the run when due."""
        assert isinstance(pl_module, Pretraining)
        if not self.every_n_steps or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        objective, logs = pl_module.objective, pl_module.logs
        if "optimizer/gradient_norm" in logs:
            self.norms.append(logs["optimizer/gradient_norm"])
        if _warm(pl_module):
            self.losses.append(objective.task_loss(logs))
        if isinstance(objective, DINO):
            self.center_errors.append(objective.center_error)
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
        norms = _numbers(self.norms) or [0.0]
        teacher = self.teacher_stats(objective, module) if isinstance(objective, DINO) else None
        speed = speed_of(teacher, step) if teacher is not None else 0.0
        if teacher is not None:
            self.best_rank = max(self.best_rank, teacher.rank)
        if step > FEW:
            self.fastest = max(self.fastest, speed)
        update = relative_change(self.before, [matrix.detach() for _, matrix in self.matrices])
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
            mean=statistics.fmean(_numbers(self.losses)) if full else None,
            teacher=teacher,
            speed=speed,
            fastest=self.fastest,
            best_rank=self.best_rank,
        )

    def teacher_stats(self, objective: DINO, module: Pretraining) -> TeacherStats:
        """Return the statistics of DINO's teacher."""
        copies = dict(objective.teacher.named_parameters())
        student = [matrix.detach() for _, matrix in self.matrices]
        teacher = [copies[name].detach() for name, _ in self.matrices]
        features = torch.cat(self.features).float()
        logs, progress = module.logs, module.last
        return TeacherStats(
            out_dim=objective.out_dim,
            entropy=float(logs["teacher/entropy"]),
            divergence=float(logs["teacher/divergence"]),
            prototypes=float(logs["teacher/prototypes"]),
            center_norm=float(logs["teacher/center_norm"]),
            center_error=min(_numbers(self.center_errors)),
            temperature=objective.teacher_temperature(progress),
            student_temperature=objective.student_temperature,
            momentum=objective.teacher_momentum(progress),
            distance=relative_change(student, teacher) or 0.0,
            rank=rankme(gram_matrix(features), len(features)),
            taken=_taken(objective, progress),
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
            values |= {
                "collapse_monitor/center_error": stats.teacher.center_error,
                "collapse_monitor/teacher_distance": stats.teacher.distance,
                "collapse_monitor/feature_rank": stats.teacher.rank,
            }
        for logger in trainer.loggers:
            logger.log_metrics(values, step=stats.step - 1)

    def report(self, trainer: Trainer, diagnosis: Diagnosis) -> None:
        """Write a diagnosis to the terminal, TensorBoard and the run's folder."""
        text = f"step {trainer.global_step}: {diagnosis.sentence}"
        log_warning(trainer, text)
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir)
            diagnosis_log.append(folder, trainer.global_step, diagnosis)

    def state_dict(self) -> dict:
        """Return what later checks depend on."""
        return (
            {name: getattr(self, name) for name in PLAIN}
            | {name: list(getattr(self, name)) for name in LISTS}
            | {name: _numbers(getattr(self, name)) for name in TENSORS}
        )

    def load_state_dict(self, state_dict: dict) -> None:
        """Continue the checks of an earlier part of the run."""
        for name in PLAIN:
            setattr(self, name, state_dict[name])
        for name in LISTS:
            getattr(self, name).extend(state_dict[name])
        for name in TENSORS:
            getattr(self, name).extend(map(torch.tensor, state_dict[name]))


def _taken(objective: DINO, progress: Progress) -> float:
    """Return the share of the teacher that all steps of the run take from the student."""
    steps = range(0, progress.steps, max(1, progress.steps // 100))  # a sample of them
    kept = [objective.teacher_momentum(replace(progress, step=step)) for step in steps]
    return 1.0 - statistics.geometric_mean(kept) ** progress.steps if all(kept) else 1.0


def _numbers(found: Collection[Tensor]) -> list[float]:
    """Return numbers on a device, or from a checkpoint, with one wait for the device."""
    if not found:
        return []
    numbers = list(found)
    return torch.stack([number.to(numbers[-1].device) for number in numbers]).tolist()


def _warm(module: Pretraining) -> bool:
    """Return whether the warm-up of the learning rate is over."""
    return module.last.step >= module.last.steps_in(module.settings.warmup_epochs)
