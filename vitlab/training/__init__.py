"""The only Lightning besides the data modules."""

from vitlab.training.module import Pretraining
from vitlab.training.optimizer import Optimizer
from vitlab.training.probing import Probing
from vitlab.training.scoring import Scoring

__all__ = ["Optimizer", "Pretraining", "Probing", "Scoring"]
