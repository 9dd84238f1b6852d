"""Options of several encoders: --weights, --family, --which, --pixels, --backbone, --labels."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from vitlab.analysis.analyze import NamedEncoder, name_encoder
from vitlab.errors import InputError
from vitlab.evaluation.fingerprint import fingerprint
from vitlab.evaluation.frozen_encoder import load_frozen_encoder
from vitlab.training.encoder_config import encoder_from_config

UNTRAINED = "untrained:"
EACH = ("family", "which", "pixels", "backbone")  # one for all weights, or one for each


@runtime_checkable
class WeightsOptions(Protocol):
    """Options of a verb that reads several encoders, among them those of `EACH`."""

    @property
    def weights(self) -> list[str]:
        """Files, folders or untrained configs."""

    @property
    def labels(self) -> list[str]:
        """Names of the encoders; empty for those of the weights."""


def check_weights_options(options: WeightsOptions) -> None:
    """Refuse options that do not fit the number of weights.

    Raises:
        InputError: an option has neither one value nor one for each.
    """
    count = len(options.weights)
    for name in EACH:
        if (many := len(getattr(options, name))) not in (1, count):
            raise InputError(
                f"--{name} has {many} values for {count} weights; give one for all, or "
                "one for each",
                field=f"--{name}",
            )
    if options.labels and len(options.labels) != count:
        raise InputError(
            f"--labels has {len(options.labels)} names for {count} weights; give one for each",
            field="--labels",
        )


def load_encoders(options: WeightsOptions) -> list[NamedEncoder]:
    """Load all encoders, in evaluation mode.

    Raises:
        InputError: unreadable weights, or several of one label.
    """
    count = len(options.weights)
    each = {name: list(getattr(options, name)) for name in EACH}
    each = {name: values * (count if len(values) == 1 else 1) for name, values in each.items()}
    labels = options.labels or default_labels(options.weights, each["which"])
    if twice := [name for name, times in Counter(labels).items() if times > 1]:
        raise InputError(
            f"several weights would be called {', '.join(twice)}; tell them apart with --labels",
            field="--labels",
        )
    found = []
    for index, (weights, label) in enumerate(zip(options.weights, labels, strict=True)):
        if weights.startswith(UNTRAINED):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                config = Path(weights.removeprefix(UNTRAINED))
                encoder = encoder_from_config(config).eval()
            found.append(name_encoder(encoder, label, weights, fingerprint(encoder)))
            continue
        own = {name: values[index] for name, values in each.items()}
        frozen = load_frozen_encoder(Path(weights), **own)
        info = frozen.info
        where = f"{info.path} ({info.branch})" if info.branch else info.path
        found.append(name_encoder(frozen.encoder, label, where, info.hash, info.encoder))
    return found


def default_labels(weights: Sequence[str], which: Sequence[str]) -> list[str]:
    """Return the shortest ends of the paths that differ, with the branch where needed."""
    parts = [Path(each.removeprefix(UNTRAINED)).with_suffix("").parts for each in weights]
    start = ["untrained " if each.startswith(UNTRAINED) else "" for each in weights]
    found: list[str] = []
    for length in range(1, max(map(len, parts)) + 1):
        found = [first + "/".join(own[-length:]) for first, own in zip(start, parts, strict=True)]
        if len(set(found)) == len(found):
            return found
    if len(set(parts)) == 1:
        found = [first + own[-1] for first, own in zip(start, parts, strict=True)]
    return [f"{name} {branch}".strip() for name, branch in zip(found, which, strict=True)]
