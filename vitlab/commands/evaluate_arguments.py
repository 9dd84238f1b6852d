"""Command line of `vitlab evaluate`: a protocol by name, and every setting of it as an option."""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

import vitlab.evaluation.protocols  # noqa: F401, the parser finds classes once imported
from vitlab.commands.parser import SUBCLASS, build_parser
from vitlab.config_safety import check_command_line
from vitlab.data import VisionDataModule
from vitlab.data.check import recognize
from vitlab.encoders.checkpoint_io import FamilyName
from vitlab.errors import InputError, check_least
from vitlab.evaluation.protocol import Protocol
from vitlab.evaluation.registry import differences, find, names, protocol_hash
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
    """Read the command line; every file it names is found, no image is read.

    Raises:
        InputError: a protocol or dataset that is unknown or missing.
        SystemExit: with code 2 for any other mistake, after one message.
    """
    check_command_line(words)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--protocol")
    first.add_argument("--data", "--data.class_path")
    first.add_argument("--data.root", dest="root")
    found, rest = first.parse_known_args(words)
    if {"-h", "--help"} & set(rest):
        _help(found.protocol)
    if found.protocol is None:
        known = ", ".join(names())
        raise InputError(f"--protocol is missing; choose one of {known}", field="--protocol")
    if found.root is None:
        raise InputError("--data.root is missing; give the dataset's folder", field="--data.root")
    if not Path(found.root).is_dir():
        raise InputError(
            f"there is no folder {found.root}; set --data.root to the dataset", field="--data.root"
        )
    published = find(found.protocol)
    dataset = found.data or type(recognize(Path(found.root))).__name__
    chosen = published.on(dataset.rpartition(".")[2])
    parser = build_parser(EvaluateArguments, "vitlab evaluate", EXAMPLES)
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


def _help(name: str | None) -> NoReturn:
    """Print the options; with a protocol, its file and what its class takes as well."""
    words = ["--help"]
    if name is not None:
        published = find(name)
        print(yaml.safe_dump(published.protocol["init_args"], sort_keys=False, width=100))
        words = ["--protocol.help", published.protocol["class_path"]]
    build_parser(EvaluateArguments, "vitlab evaluate", EXAMPLES).parse_args(words)
    raise AssertionError("help ends the program")


def show_names() -> None:
    """Print every protocol with the first line of its file."""
    table = Table("protocol", "what it is", box=None)
    for name, file in names().items():
        table.add_row(name, file.read_text().splitlines()[0].lstrip("# "))
    Console().print(table)


def _values(parser: ArgumentParser, args: Namespace) -> dict[str, Any]:
    """Return the protocol's settings as plain values, with short class names."""
    text = parser.dump(Namespace(protocol=args.protocol), skip_validation=True)
    return _short(yaml.safe_load(text)["protocol"])


def _short(value: Any) -> Any:
    """Drop the module in front of class names: where a class is defined is no setting."""
    if isinstance(value, list):
        return [_short(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no infinity
    if not isinstance(value, dict):
        return value
    return {
        key: each.rpartition(".")[2] if key == "class_path" else _short(each)
        for key, each in value.items()
    }
