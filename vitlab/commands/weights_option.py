"""Options of verbs that read several encoders, among them --weights, --which and --labels."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vitlab.errors import InputError
from vitlab.option_types import FamilyName
from vitlab.terminal import printable

if TYPE_CHECKING:
    from vitlab.analysis.analyze import NamedEncoder

UNTRAINED = "untrained:"
EACH = ("family", "which", "pixels", "backbone")  # one for all weights, or one for each


@dataclass(frozen=True, kw_only=True)
class WeightsOptions:
    """Options of a verb that reads several encoders: the base of its own.

    Args:
        weights: checkpoints of runs, exported folders, files of DINO, DINOv2, DeiT, timm or
            LocAtViT, or untrained:CONFIG for the encoder of a config at initialization (seed 0),
            untrained:CONFIG,OVERLAY of one with an overlay
        labels: names of the encoders, one for each; by default from the paths
        which: student, teacher ... of a file with several models; one for all, or one for each
        family: of the weights; one for all, or one for each
        pixels: auto, imagenet or half, see `vitlab evaluate --help`; one for all, or one for each
        backbone: of a run of prompts, if it moved; one for all, or one for each
        device: auto is a GPU where there is one
        overwrite: replace the output
    """

    weights: list[str]
    labels: list[str] = field(default_factory=list)
    which: list[str] = field(default_factory=lambda: [""])
    family: list[FamilyName] = field(default_factory=lambda: ["auto"])
    pixels: list[Literal["auto", "imagenet", "half"]] = field(default_factory=lambda: ["auto"])
    backbone: list[str] = field(default_factory=lambda: [""])
    device: Literal["auto", "cpu", "cuda"] = "auto"
    overwrite: bool = False

    def __post_init__(self) -> None:
        count = len(self.weights)
        for name in (*EACH, "labels"):
            many = len(getattr(self, name))
            if many not in ((0, count) if name == "labels" else (1, count)):
                raise InputError(
                    f"--{name} has {many} values for {count} weights; give one for each"
                    + ("" if name == "labels" else ", or one for all"),
                    field=f"--{name}",
                )

    def load_encoders(self) -> list["NamedEncoder"]:
        """Load all encoders, in evaluation mode.

        Raises:
            InputError: unreadable weights, or several of one label.
        """
        import torch

        from vitlab.analysis.analyze import name_encoder
        from vitlab.evaluation.fingerprint import fingerprint
        from vitlab.evaluation.frozen_encoder import load_frozen_encoder
        from vitlab.training.encoder_config import encoder_from_config, group_overlays

        count = len(self.weights)
        each = {name: list(getattr(self, name)) for name in EACH}
        each = {name: values * (count if len(values) == 1 else 1) for name, values in each.items()}
        labels = self.labels or default_labels(self.weights, each["which"])
        labels = [printable(label) for label in labels]
        if twice := [name for name, times in Counter(labels).items() if times > 1]:
            raise InputError(
                f"several weights would be called {', '.join(twice)}; name them with --labels",
                field="--labels",
            )
        found = []
        for index, (weights, label) in enumerate(zip(self.weights, labels, strict=True)):
            if weights.startswith(UNTRAINED):
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(0)
                    configs = weights.removeprefix(UNTRAINED).split(",")
                    encoder = encoder_from_config(group_overlays(configs)[0]).eval()
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
