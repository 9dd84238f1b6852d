"""A whole classifier, encoder and head, from a file."""

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitlab.encoders import ViT, load_pretrained
from vitlab.encoders.checkpoint_io.files import read
from vitlab.encoders.checkpoint_io.importer import FamilyName
from vitlab.objectives.classification import Classifier

_REMEDY = (
    "Give the last.ckpt of a `vitlab fit` with labels, or weights of DeiT or timm with their "
    "classifier (head.weight and head.bias)"
)


@dataclass(frozen=True)
class ClassifierCheckpoint:
    """The converged classifier to begin from.

    Args:
        path: last.ckpt of a run with labels, or a file of DeiT or timm with its classifier.
        which: the model to take where a file holds several: "model" for the one that a run
            trained, which is taken unless told, "average" for its moving average.
        family: whose weights they are; auto where the tensors show it.
        allow_uncalibrated: whether the second stage may begin from a model that the first has not
            calibrated.
    """

    path: str = ""
    which: str = ""
    family: FamilyName = "auto"
    allow_uncalibrated: bool = False


@dataclass(frozen=True)
class LoadedClassifier:
    """What a file holds.

    Attributes:
        model: the classifier.
        origin: the one that an earlier calibration began from, if the file is of one.
        calibrated: whether the file is of the first stage: its tokens are calibrated.
    """

    model: Classifier
    origin: Classifier | None = None
    calibrated: bool = False


def load_classifier(start: ClassifierCheckpoint, into: ViT | None = None) -> LoadedClassifier:
    """Read a classifier; nothing in the file is run, and no random number is drawn.

    Args:
        start: where it is.
        into: an encoder to fill, maybe with options that the weights lack, such as drop path.

    Raises:
        ValueError: the file cannot be read or holds no classifier.
    """
    path = Path(start.path)
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder, and an exported encoder has no classifier. {_REMEDY}"
        )
    content = read(path)
    run = "pytorch-lightning_version" in content
    objective = _settings(content) if run else {}
    if str(objective.get("class_path", "")).endswith("PromptTuning"):
        raise ValueError(
            f"{path} holds prompts and a head beside a frozen backbone, and calibration trains a "
            f"whole classifier. {_REMEDY}"
        )
    which = start.which or ("model" if run else "")
    # looked for before the encoder, for the better message
    if not any(re.search(r"(^|\.)head\.weight$", name) for name in _names(content)):
        raise ValueError(f"{path} holds no classifier. {_REMEDY}")
    twin = copy.deepcopy(into)  # the encoder is filled in place
    model = _read(start, which, content, into)
    if not str(objective.get("class_path", "")).endswith("Calibration"):
        return LoadedClassifier(model)
    tokens = objective.get("init_args", {}).get("tokens") or {}
    calibrated = bool(tokens.get("weight") or tokens.get("foreground_weight"))
    kept = any(".reference." in name for name in _names(content))
    return LoadedClassifier(
        model, _read(start, "reference", content, twin) if kept else None, calibrated
    )


def _read(
    start: ClassifierCheckpoint, which: str, content: dict[str, Any], into: ViT | None
) -> Classifier:
    found = load_pretrained(start.path, start.family, which, into=into)
    head = _head(start.path, found.branch, content)
    rows, width = head["weight"].shape
    if width != found.encoder.embed_dim or head["bias"].shape != (rows,):
        raise ValueError(
            f"the classifier in {start.path} maps {width} numbers to {rows} classes, and its "
            f"encoder is {found.encoder.embed_dim} wide. {_REMEDY}"
        )
    with torch.random.fork_rng(devices=[]):
        model = Classifier(found.vit.train(), rows)
    model.head.load_state_dict(head)
    return model


def _head(path: str, branch: str, content: dict[str, Any]) -> dict[str, Tensor]:
    """Return weight and bias of the linear map beside an encoder."""
    given = content.get(branch) if branch else None
    state = given if isinstance(given, Mapping) else content.get("state_dict", content)
    inside = rf"(?:objective\.(?:\w+\.)*?{branch}\.)?" if branch else ""
    pattern = re.compile(rf"{inside}(?:module\.|_orig_mod\.)*head\.(weight|bias)")
    found = {match[1]: state[name].float() for name in state if (match := pattern.fullmatch(name))}
    if set(found) != {"weight", "bias"} or found["weight"].ndim != 2:
        named = f"the model {branch!r} in {path}" if branch else path
        raise ValueError(f"{named} has no linear classifier. {_REMEDY}")
    return found


def _names(content: Mapping[str, Any]) -> list[str]:
    inner = [name for each in content.values() if isinstance(each, Mapping) for name in each]
    return [str(name) for name in [*content, *inner]]


def _settings(content: dict[str, Any]) -> dict[str, Any]:
    return content.get("hyper_parameters", {}).get("objective") or {}
