"""Optimizers and learning-rate schedules. Plain torch."""

from vitlab.optim.lr_schedule import LRSchedule
from vitlab.optim.optimizer import OptimizerConfig, ParamGroups
from vitlab.optim.schedules import Cosine, Progress, Ramp

__all__ = ["Cosine", "LRSchedule", "OptimizerConfig", "ParamGroups", "Progress", "Ramp"]
