"""Options of verbs that read several encoders, among them --weights, --which and --labels."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vitlab.errors import InputError
from vitlab.option_types import FamilyName
from vitlab.visualization.labels import renamed, shortest_names, weights_names

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
        labels: names of the encoders, one for each, or NAME=LABEL for some; by default that of the
            arm, the folder above seed0, or of the run
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
        for name in EACH:
            many = len(getattr(self, name))
            if many not in (1, count):
                raise InputError(
                    f"--{name} has {many} values for {count} weights; give one for each, or one "
                    "for all",
                    field=f"--{name}",
                )
        self.names()

    def names(self) -> list[str]:
        """Return the name of each encoder, by which it is called everywhere."""
        which = self.which * (len(self.weights) if len(self.which) == 1 else 1)
        return renamed(default_labels(self.weights, which), self.labels)

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
        found = []
        for index, (weights, label) in enumerate(zip(self.weights, self.names(), strict=True)):
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
    """Return the name of the arm or run of each, as `vitlab compare` has it; longer where needed.

    Weights of one name are told apart by the model of the file, then by folders.
    """
    names = []
    for each, branch in zip(weights, which, strict=True):
        if each.startswith(UNTRAINED):
            config, *overlays = each.removeprefix(UNTRAINED).split(",")
            own = f"untrained {Path(config).stem}"
            names.append([own, ",".join([own, *overlays]), f"untrained {config}"])
        else:
            names.append(weights_names(str(Path(each).expanduser().absolute()), branch) or [each])
    return shortest_names(names)
