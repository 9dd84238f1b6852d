"""Base class of protocols: all that decides a number, and a way to get it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import torch
from jaxtyping import UInt8
from torch import Tensor

from vitlab.data import VisionDataModule
from vitlab.encoders import Encoder
from vitlab.probes import InferenceConfig
from vitlab.probes.logistic import Convergence
from vitlab.probes.metrics import PerImageCounts

Item = TypeVar("Item")
Precision = Literal["fp32", "bf16"]
PICTURES = 4  # test images whose predictions are kept


@dataclass(frozen=True)
class EvaluationContext:
    """Where an evaluation runs: nothing here changes a number by more than rounding.

    Attributes:
        loading: device, images of one forward pass, workers, precision.
        folder: for what must survive an interruption, and nothing else; None keeps nothing.
        cache: folder of cached features; None recomputes them.
        memory: bytes that a blocked computation may take.
        seed: of everything random, which a result names.
    """

    loading: InferenceConfig
    folder: Path | None = None
    cache: Path | None = None
    memory: int = 2**30
    seed: int = 0

    @property
    def device(self) -> torch.device:
        """Where the encoder is."""
        return self.loading.device


@dataclass(frozen=True)
class Outcome:
    """The numbers of a protocol.

    Attributes:
        headline: the score that the protocol is quoted by, a key of scores.
        scores: percent, by name.
        counts: per image, behind the headline, whose value it is.
        tried: score of every head, layer or k that was tried, in percent, by name.
        chosen: the one behind the headline, a key of tried; "" where there was one only.
        chosen_on: the images that decided it: "" none, "held out" images of the training split, or
            "val", the reported ones.
        predictions: class of each pixel for the first test images, for pictures.
        train: split that was learned from; "" for the dataset's own choice.
        fits: how each fit to convergence has ended, by name; the headline's is the last.
    """

    headline: str
    scores: dict[str, float]
    counts: PerImageCounts
    tried: dict[str, float] = field(default_factory=dict)
    chosen: str = ""
    chosen_on: Literal["", "held out", "val"] = ""
    predictions: list[UInt8[Tensor, "_ _"]] = field(default_factory=list)
    train: str = ""
    fits: dict[str, Convergence] = field(default_factory=dict)


class Protocol(ABC):
    """A way to evaluate frozen features. Its arguments are all that decides the number.

    Attributes:
        task: what the data must have: "classification" labels, "segmentation" masks.
        precision: of the encoder's forward pass.
        train_split: split to learn from; "" for the dataset's own choice.
        learns_void: whether pixels that are ignored elsewhere are learned from.
    """

    task: Literal["classification", "segmentation"]
    learns_void: bool = False
    precision: Precision = "fp32"
    train_split = ""

    @abstractmethod
    def check(self, encoder: Encoder, data: VisionDataModule) -> None:
        """Refuse settings that do not fit to an encoder and data, see `evaluate.check`.

        Raises:
            InputError: which setting, and what fits.
        """

    @abstractmethod
    def run(self, encoder: Encoder, data: VisionDataModule, context: EvaluationContext) -> Outcome:
        """Evaluate an encoder in evaluation mode, without gradients.

        The outcome is that of a single process on all ranks.
        """
