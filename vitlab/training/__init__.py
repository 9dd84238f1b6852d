"""The only Lightning besides the data modules."""

from vitlab.optim.optimizer import OptimizerConfig
from vitlab.training.module import Pretraining
from vitlab.training.probing import Probing
from vitlab.training.scoring import Scoring

__all__ = ["OptimizerConfig", "Pretraining", "Probing", "Scoring"]
