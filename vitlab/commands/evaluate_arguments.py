"""Command line of `vitlab evaluate`: a protocol by name, and every setting of it as an option."""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentParser, Namespace

import vitlab.evaluation.protocols  # noqa: F401, the parser finds classes once imported
from vitlab.commands.parser import SUBCLASS, build_parser
from vitlab.config_safety import check_command_line
from vitlab.data import VisionDataModule
from vitlab.data.check import recognize
from vitlab.encoders.checkpoint_io import FamilyName
from vitlab.errors import check_least
from vitlab.evaluation.protocol import Protocol
from vitlab.evaluation.registry import differences, find, protocol_hash
from vitlab.evaluation.result import ProtocolInfo

EXAMPLES = """\
  vitlab evaluate --list
  vitlab evaluate --weights runs/dino/seed0/best.ckpt --which teacher --protocol knn \\
      --data.root /data/imagenet
  vitlab evaluate --weights dino_deitsmall16_pretrain.pth --family dino \\
      --protocol dinov2-linear --data.root /data/VOCdevkit --devices 4
  vitlab evaluate ... --protocol dinov2-linear --protocol.recipe.iterations 1000
  vitlab evaluate --protocol dinov2-linear --help       # the settings of one protocol as well
"""
# options of a dataset that only training uses, or that an evaluation decides
FIXED = {
    *("global_batch_size", "micro_batch_size", "transform", "num_workers"),
    *("max_unreadable", "seed"),
}
MINIMA = {"batch_size": 1, "num_workers": 0, "seed": 0, "devices": 1, "num_nodes": 1}


@dataclass(frozen=True)
class EvaluateArguments:
    """Evaluate the frozen features of an encoder by a named protocol.

    The result names every setting of the protocol, and those that were changed.

    Args:
        weights: A run's best.ckpt or last.ckpt, an exported folder, or a file of DINO, DINOv2,
            DeiT, timm or LocAtViT; see `vitlab import --help`.
        protocol: Name or YAML file of a protocol.
        data: Class of the dataset; may be left out where its folder is recognized.
        family: Format of the weights.
        which: Model of a file with several: student, teacher ...
        backbone: Of a run of prompts, the backbone's file, if it is no longer where the run had it.
        pixels: Normalization that the weights are trained with: ImageNet's mean and deviation, or
            0.5 and 0.5. auto knows it of every family but timm, which has both.
        out: Folder for the result; by default evaluations/WEIGHTS/PROTOCOL-DATASET.
        overwrite: Replace a result that is there.
        seed: Seed of heads, order and augmentation.
        batch_size: Images per forward pass and device.
        num_workers: Processes that load images, per device.
        accelerator: cpu, cuda or auto.
        devices: Processes per machine, one for each device.
        num_nodes: Machines.
        memory: GiB that blocked computations may take, on each device.
        cache: Folder for features of protocols without augmentation; none if empty.
        dry_run: Check everything, print the plan and stop.
    """

    weights: Path
    protocol: Protocol = field(metadata=SUBCLASS)
    data: VisionDataModule = field(metadata={**SUBCLASS, "skip": FIXED})
    family: FamilyName = "auto"
    which: str = ""
    backbone: str = ""
    pixels: Literal["auto", "imagenet", "half"] = "auto"
    out: str = ""
    overwrite: bool = False
    seed: int = 0
    batch_size: int = 64
    num_workers: int = 4
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    memory: float = 2.0
    cache: str = ""
    dry_run: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        check_least(self, "--", {**MINIMA, "memory": 0.001})


def parse(words: Sequence[str]) -> tuple[EvaluateArguments, ProtocolInfo]:
    """Read the command line: arguments, and the protocol with what is changed in it.

    Raises:
        InputError: an unknown protocol or dataset.
        SystemExit: with code 2 after a message for words that do not parse; 0 after the help.
    """
    check_command_line(words)
    parser = build_parser(EvaluateArguments, "vitlab evaluate", EXAMPLES)
    asks_help = bool({"-h", "--help"} & {*words})
    first = argparse.ArgumentParser("vitlab evaluate", add_help=False, allow_abbrev=False)
    first.add_argument("--protocol", required=not asks_help, metavar="NAME, see --list")
    first.add_argument("--data", "--data.class_path")
    first.add_argument("--data.root", required=not asks_help, dest="root", metavar="DIR")
    found, rest = first.parse_known_args(words)
    if asks_help and not found.protocol:
        parser.parse_args(["--help"])
    published = find(found.protocol)
    if asks_help:  # the protocol's file, and what its class takes
        print(yaml.safe_dump(published.protocol["init_args"], sort_keys=False, width=100))
        parser.parse_args(["--protocol.help", published.protocol["class_path"]])
    dataset = found.data or type(recognize(Path(found.root))).__name__
    chosen = published.on(dataset.rpartition(".")[2])
    base = ["--protocol", json.dumps(chosen), "--data", dataset, "--data.root", found.root]
    args = parser.parse_args([*base, *rest])
    values = _values(parser, args)
    published_values = _values(parser, parser.parse_args([*base, "--weights", str(args.weights)]))
    name, version = published.name, published.version
    changed = differences(published_values, values)
    info = ProtocolInfo(name, version, values, protocol_hash(name, version, values), changed)
    built = EvaluateArguments(**vars(parser.instantiate_classes(args)))
    built.data.max_unreadable, built.data.seed = 0, built.seed
    built.data.num_workers = built.num_workers
    return built, info


def _values(parser: ArgumentParser, args: Namespace) -> dict[str, Any]:
    """Return the protocol's settings as plain values."""
    text = parser.dump(Namespace(protocol=args.protocol), skip_validation=True)
    # where a class is defined is no setting; JSON has no infinity
    text = re.sub(r"(?<=class_path: )[\w.]+\.", "", text)
    return yaml.safe_load(re.sub(r"(?m)(?<=[ -])\.(inf|nan)$", r"\1", text))["protocol"]
