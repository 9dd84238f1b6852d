"""Watches over a run and says in a sentence when it goes wrong."""

import math
import statistics
from collections import deque
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from vitlab.analysis.measures.rank import gram_matrix, rankme
from vitlab.callbacks import diagnosis_log
from vitlab.callbacks.collapse_checks import FEW, Diagnosis, diagnose
from vitlab.callbacks.training_stats import (
    RECENT,
    TeacherStats,
    TrainingStats,
    relative_change,
    speed_of,
    watched,
)
from vitlab.encoders.tokens import Tokens
from vitlab.objectives import DINO, Classification, Objective, PromptTuning
from vitlab.optim.schedules import Progress
from vitlab.training.exit_codes import resume_hint
from vitlab.training.module import Pretraining

LOOKS, OFTEN = (
    5,
    3,
)  # a diagnosis counts once it is made in 3 of 5 looks, and is over after 5 without


class CollapseMonitor(Callback):
    """Looks at loss, gradients, weights and teacher now and then, and says what goes wrong, once.

    Training does not notice: no random number is drawn and no weight touched.

    Args:
        every_n_steps: steps between two looks; 0 for none.
        stop: whether the run ends when something goes wrong; checkpoints stay as they are.
    """

    def __init__(self, every_n_steps: int = 10, stop: bool = False):
        if every_n_steps < 0:
            raise ValueError(
                f"collapse_monitor.every_n_steps {every_n_steps} is negative; use 0 for no looks, or a count"
            )
        if stop and not every_n_steps:
            raise ValueError(
                "collapse_monitor.stop true would be ignored, as collapse_monitor.every_n_steps 0 never looks; set "
                "collapse_monitor.every_n_steps to 10, or leave collapse_monitor.stop out"
            )
        self.every_n_steps, self.stop = every_n_steps, stop
        self.found: deque[str] = deque(maxlen=LOOKS)
        self.episode = ""  # name of the diagnosis that was said last, while it lasts
        self.usual: deque[float] = deque(maxlen=20)  # median gradient norms of looks
        self.best_rank = self.fastest = self.largest = 0.0
        self.losses: deque[Tensor] = deque(maxlen=RECENT)  # behind the warm-up
        self.norms: list[Tensor] = []  # since the last look
        # of the last steps: of few images the mean logits jump, and the center is far from each
        self.center_errors: deque[Tensor] = deque(maxlen=FEW + 1)
        self.before: list[Tensor] = []
        self.matrices: list[tuple[str, nn.Parameter]] = []
        self.features: list[Tensor] = []
        self.listening: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the matrices to look at."""
        objective = _objective(pl_module)
        self.matrices = watched(objective.student if isinstance(objective, DINO) else objective)
        if trainer.is_global_zero:
            diagnosis_log.forget(Path(trainer.default_root_dir), trainer.global_step)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Before a step that is looked at, keep what it changes."""
        first = batch_idx % trainer.accumulate_grad_batches == 0
        if first and self.every_n_steps and (trainer.global_step + 1) % self.every_n_steps == 0:
            self.before = [matrix.detach().clone() for _, matrix in self.matrices]
            encoder = _objective(pl_module).encoder
            self.features = []
            self.listening = encoder.register_forward_hook(self.hear)

    def hear(self, encoder: nn.Module, given: object, output: object) -> None:
        """Keep [CLS] of a pass of the encoder."""
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
        """Behind a step, note its gradient, and look if it is time."""
        assert isinstance(pl_module, Pretraining)
        if not self.every_n_steps or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        norm = pl_module.logs.get("optimizer/gradient_norm")
        if norm is not None:
            self.norms.append(norm)
        if _warm(pl_module):
            self.losses.append(_task_loss(pl_module.objective, pl_module.logs))
        objective = pl_module.objective
        if isinstance(objective, DINO):
            self.center_errors.append(objective.center_error)
        if self.listening is None:
            return
        self.listening.remove()
        self.listening = None
        signs = self.signs(trainer, pl_module)
        self.usual.append(signs.gradient)
        self.norms, self.before, self.features = [], [], []
        self.draw(trainer, signs)
        diagnosis = self.settle(diagnose(signs))
        if diagnosis is not None:
            self.say(trainer, diagnosis)
        if self.stop:  # ranks see different images, and must end together
            text = diagnosis.sentence if diagnosis else ""
            if text := trainer.strategy.broadcast(text):
                raise FloatingPointError(
                    f"{text}. Stopped at step {trainer.global_step}, as --collapse_monitor.stop asks; "
                    f"{resume_hint(Path(trainer.default_root_dir))}"
                )

    def signs(self, trainer: Trainer, module: Pretraining) -> TrainingStats:
        """Return what is known after this step; the only place that waits for the device."""
        objective, logs = module.objective, module.logs
        progress = module.last
        norms = _numbers(self.norms) or [0.0]
        settings = module.settings
        teacher = self.teacher(objective, logs, module) if isinstance(objective, DINO) else None
        step = progress.step + 1
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
            loss=float(logs["loss"]),
            chance=_chance(objective),
            gradient=statistics.median(norms),
            spike=max(norms),
            usual=statistics.median(self.usual) if len(self.usual) >= LOOKS else 0.0,
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

    def teacher(
        self, objective: DINO, logs: dict[str, Tensor], module: Pretraining
    ) -> TeacherStats:
        """Return what is known of DINO's teacher."""
        copies = dict(objective.teacher.named_parameters())
        features = torch.cat(self.features).float()
        return TeacherStats(
            outputs=objective.out_dim,
            entropy=float(logs["teacher/entropy"]),
            divergence=float(logs["teacher/divergence"]),
            prototypes=float(logs["teacher/prototypes"]),
            center_norm=float(logs["teacher/center_norm"]),
            center_error=min(_numbers(self.center_errors)),
            temperature=objective.teacher_temperature(module.last),
            student_temperature=objective.student_temperature,
            momentum=objective.teacher_momentum(module.last),
            distance=relative_change(
                [matrix.detach() for _, matrix in self.matrices],
                [copies[name].detach() for name, _ in self.matrices],
            )
            or 0.0,
            rank=rankme(gram_matrix(features), len(features)),
            taken=_taken(objective, module.last),
        )

    def settle(self, found: Diagnosis | None) -> Diagnosis | None:
        """Return a diagnosis when it has become certain, once for as long as it lasts."""
        self.found.append(found.name if found else "")
        if self.episode and self.episode not in self.found:
            self.episode = ""
        if found is None or self.found.count(found.name) < OFTEN or found.name == self.episode:
            return None
        self.episode = found.name
        return found

    def draw(self, trainer: Trainer, signs: TrainingStats) -> None:
        """Draw the curves that are of this callback alone."""
        values = {"collapse_monitor/update": signs.update or 0.0}
        if signs.teacher is not None:
            values |= {
                "collapse_monitor/center_error": signs.teacher.center_error,
                "collapse_monitor/teacher_distance": signs.teacher.distance,
                "collapse_monitor/feature_rank": signs.teacher.rank,
            }
        for logger in trainer.loggers:
            logger.log_metrics(values, step=signs.step - 1)

    def say(self, trainer: Trainer, diagnosis: Diagnosis) -> None:
        """Tell the user, TensorBoard and the run's folder."""
        text = f"step {trainer.global_step}: {diagnosis.sentence}"
        rank_zero_info(f"vitlab: {text}")
        if not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("warning", text, trainer.global_step)
        diagnosis_log.note(Path(trainer.default_root_dir), trainer.global_step, diagnosis)

    def state_dict(self) -> dict:
        """Return what was seen so far."""
        return {
            "found": list(self.found),
            "usual": list(self.usual),
            "norms": _numbers(self.norms),
            "center_errors": _numbers(self.center_errors),
            "episode": self.episode,
            "best_rank": self.best_rank,
            "fastest": self.fastest,
            "largest": self.largest,
            "losses": _numbers(self.losses),
        }

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on with what an earlier part of the run has seen."""
        self.found.extend(state_dict["found"])
        self.usual.extend(state_dict["usual"])
        self.norms = [torch.tensor(norm) for norm in state_dict["norms"]]
        self.center_errors.extend(torch.tensor(error) for error in state_dict["center_errors"])
        self.episode, self.best_rank = state_dict["episode"], state_dict["best_rank"]
        self.fastest, self.largest = state_dict["fastest"], state_dict["largest"]
        self.losses.extend(torch.tensor(loss) for loss in state_dict["losses"])


def _objective(module: LightningModule) -> Objective:
    assert isinstance(module, Pretraining)
    return module.objective


def _taken(objective: DINO, progress: Progress) -> float:
    """Return the share of the teacher that all steps of the run take from the student."""
    steps = range(0, progress.steps, max(1, progress.steps // 100))  # a sample of them
    kept = [objective.teacher_momentum(replace(progress, step=step)) for step in steps]
    return 1.0 - statistics.geometric_mean(kept) ** progress.steps if all(kept) else 1.0


def _numbers(found: Collection[Tensor]) -> list[float]:
    """Return numbers of a device, and of a checkpoint before them, with one wait for the device."""
    if not found:
        return []
    numbers = list(found)
    return torch.stack([number.to(numbers[-1].device) for number in numbers]).tolist()


def _warm(module: Pretraining) -> bool:
    """Return whether the warm-up of the learning rate is over."""
    return module.last.step >= module.last.steps_in(module.settings.warmup_epochs)


def _task_loss(objective: Objective, logs: dict[str, Tensor]) -> Tensor:
    """Return the newest loss without what the keys of prompts add."""
    if isinstance(objective, PromptTuning) and "prompts/mismatch" in logs:
        return logs["loss"] - objective.matching.weight * logs["prompts/mismatch"]
    return logs["loss"]


def _chance(objective: Objective) -> float | None:
    """Return the least loss of saying the same of every image, where all are as likely."""
    if isinstance(objective, Classification) and objective.kind == "binary_cross_entropy":
        share = 1 / objective.num_classes
        mixed = objective.mixup.prob if objective.mixup.active else 0.0
        present = share + mixed * share * (1 - share)  # the other image of a pair has it alone
        return -present * math.log(present) - (1 - present) * math.log(1 - present)
    if isinstance(objective, Classification | PromptTuning | DINO):
        return math.log(objective.out_dim or objective.num_classes)
    return None
