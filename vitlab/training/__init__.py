"""The only Lightning besides the data modules."""

from vitlab.optim.optimizer import OptimizerConfig
from vitlab.training.module import Pretraining

__all__ = ["OptimizerConfig", "Pretraining", "Probing", "Scoring"]
