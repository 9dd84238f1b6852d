"""Batches to losses. Plain torch."""

from vitlab.objectives.calibration.calibration import Calibration
from vitlab.objectives.calibration.classifier_checkpoint import ClassifierCheckpoint
from vitlab.objectives.calibration.terms import DimensionTerm, TokenTerm
from vitlab.objectives.classification import Classification, Classifier
from vitlab.objectives.dino import DINO
from vitlab.objectives.dino_head import DINOHeadConfig
from vitlab.objectives.mixup import Mixup, RandomErasing
from vitlab.objectives.objective import ImageReader, Loss, Objective, SelfDistillation
from vitlab.objectives.pretrained import Pretrained
from vitlab.objectives.prompt_tuning import KeyMatching, PromptTuning

__all__ = [
    "DINO",
    "Calibration",
    "Classification",
    "Classifier",
    "ClassifierCheckpoint",
    "DINOHeadConfig",
    "DimensionTerm",
    "ImageReader",
    "KeyMatching",
    "Loss",
    "Mixup",
    "Objective",
    "Pretrained",
    "PromptTuning",
    "RandomErasing",
    "SelfDistillation",
    "TokenTerm",
]
