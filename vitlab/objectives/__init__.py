"""Batches to losses. Plain torch."""

from vitlab.objectives.dino import DINO
from vitlab.objectives.heads import Projection
from vitlab.objectives.objective import Loss, Objective

__all__ = ["DINO", "Loss", "Objective", "Projection"]
