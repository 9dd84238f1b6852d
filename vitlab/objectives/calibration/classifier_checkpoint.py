"""Loading of a whole classifier, encoder and head, from a file."""

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitlab.encoders import ViT, load_pretrained
from vitlab.encoders.checkpoint_io import read_checkpoint
from vitlab.errors import InputError
from vitlab.objectives.classification import Classifier
from vitlab.option_types import FamilyName

PATH = "model.objective.classifier.path"
_REMEDY = (
    "Give the last.ckpt of a `vitlab fit` with labels, or weights of DeiT or timm with their "
    "classifier (head.weight and head.bias)"
)


@dataclass(frozen=True)
class ClassifierCheckpoint:
    """The converged classifier to begin from.

    Args:
        path: last.ckpt of a run with labels, or a file of DeiT or timm with its classifier.
        which: the model to take from a file of several: "model" for the one that a run trained,
            the default for runs, "ema" for its moving average.
        family: whose weights they are; auto where the tensors show it.
        allow_uncalibrated: whether the second stage may begin from a model without the first.
    """

    path: str = ""
    which: str = ""
    family: FamilyName = "auto"
    allow_uncalibrated: bool = False


@dataclass(frozen=True)
class LoadedClassifier:
    """Content of a file.

    Attributes:
        model: the classifier.
        origin: the classifier before its calibration, if the file is of one.
        calibrated: whether the file is of the first stage: its tokens are calibrated.
    """

    model: Classifier
    origin: Classifier | None = None
    calibrated: bool = False


def load_classifier(source: ClassifierCheckpoint, into: ViT | None = None) -> LoadedClassifier:
    """Load a classifier; nothing in the file is run, and no random number is drawn.

    `into` is an encoder to fill, with options that the weights may lack, such as drop path.

    Raises:
        InputError: the file cannot be read or holds no classifier.
    """
    path = Path(source.path)
    if path.is_dir():
        _refuse(f"{path} is a folder, and an exported encoder has no classifier")
    content = read_checkpoint(path)
    run = "pytorch-lightning_version" in content
    # checked before the encoder is read, for the better message
    if not any(re.search(r"(^|\.)head\.weight$", name) for name in _names(content)):
        _refuse(f"{path} holds no classifier")
    twin = copy.deepcopy(into)  # the encoder is filled in place
    model = _load(source, source.which or ("model" if run else ""), content, into)
    settings = (content.get("hyper_parameters", {}).get("objective") or {}) if run else {}
    tokens, origin = settings.get("init_args", {}).get("tokens"), None
    calibrated = isinstance(tokens, Mapping) and bool(
        tokens.get("weight") or tokens.get("foreground_weight")
    )
    if run and any(".reference." in name for name in _names(content)):
        origin = _load(source, "reference", content, twin)
    return LoadedClassifier(model, origin, calibrated)


def _load(
    source: ClassifierCheckpoint, which: str, content: dict[str, Any], into: ViT | None
) -> Classifier:
    found = load_pretrained(source.path, source.family, which, into=into)
    head = _head(source.path, found.branch, content)
    classes, embed_dim = head["weight"].shape
    if embed_dim != found.encoder.embed_dim or head["bias"].shape != (classes,):
        _refuse(
            f"the classifier in {source.path} maps {embed_dim} numbers to {classes} classes, and "
            f"its encoder is {found.encoder.embed_dim} wide"
        )
    with torch.random.fork_rng(devices=[]):
        model = Classifier(found.vit.train(), classes)
    model.head.load_state_dict(head)
    return model


def _head(path: str, branch: str, content: dict[str, Any]) -> dict[str, Tensor]:
    """Return weight and bias of the linear layer beside an encoder."""
    given = content.get(branch) if branch else None
    state = given if isinstance(given, Mapping) else content.get("state_dict", content)
    inside = rf"(?:objective\.(?:\w+\.)*?{branch}\.)?" if branch else ""
    pattern = re.compile(rf"{inside}(?:module\.|_orig_mod\.)*head\.(weight|bias)")
    found = {match[1]: state[name].float() for name in state if (match := pattern.fullmatch(name))}
    if set(found) != {"weight", "bias"} or found["weight"].ndim != 2:
        _refuse(f"the model {branch!r} in {path} has no linear classifier")
    return found


def _names(content: Mapping[str, Any]) -> list[str]:
    inner = [name for each in content.values() if isinstance(each, Mapping) for name in each]
    return [str(name) for name in [*content, *inner]]


def _refuse(message: str) -> None:
    raise InputError(f"{message}. {_REMEDY}", field=PATH)
