"""Batches to losses. Plain torch."""

from vitlab.objectives.calibration import Calibration
from vitlab.objectives.calibration_terms import DimensionTerm, TokenTerm
from vitlab.objectives.classification import Classification, Classifier
from vitlab.objectives.converged import Start
from vitlab.objectives.dino import DINO
from vitlab.objectives.heads import Projection
from vitlab.objectives.mixing import Erasing, Mixing
from vitlab.objectives.objective import Loss, Objective, Read
from vitlab.objectives.prompting import Matching, Prompting
from vitlab.objectives.starting import Pretrained

__all__ = [
    "DINO",
    "Calibration",
    "Classification",
    "Classifier",
    "DimensionTerm",
    "Erasing",
    "Loss",
    "Matching",
    "Mixing",
    "Objective",
    "Pretrained",
    "Projection",
    "Prompting",
    "Read",
    "Start",
    "TokenTerm",
]
