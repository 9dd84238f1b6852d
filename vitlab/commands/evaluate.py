"""Command line of `vitlab evaluate`: a protocol by name, and every setting of it as an option."""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from jsonargparse import ArgumentParser, Namespace

from vitlab.commands.parser import DATASET, class_parser, parse_plain
from vitlab.config_files import find_protocol, protocol_names
from vitlab.errors import check_least
from vitlab.option_types import FamilyName

if TYPE_CHECKING:
    from vitlab.data import VisionDataModule
    from vitlab.evaluation import Protocol
    from vitlab.evaluation.result import ProtocolInfo

PROG = "vitlab evaluate"
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
PROTOCOL = {"subclass": "vitlab.evaluation.protocols.Protocol", "metavar": "NAME"}
MINIMA = {"batch_size": 1, "num_workers": 0, "seed": 0, "devices": 1, "num_nodes": 1}


@dataclass(frozen=True)
class EvaluateArguments:
    """Evaluate the frozen features of an encoder by a named protocol.

    The result names every setting of the protocol, and those that were changed.

    Args:
        weights: A run's best.ckpt or last.ckpt, an exported folder, or a file of DINO, DINOv2,
            DeiT, timm or LocAtViT; see `vitlab import --help`.
        protocol: Name or YAML file of a protocol; --list shows them, and --protocol NAME --help
            the settings of one.
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
        accelerator: auto is a GPU where there is one.
        devices: Processes per machine, one for each device.
        num_nodes: Machines.
        memory: GiB that blocked computations may take, on each device.
        cache: Folder for features of protocols without augmentation; none if empty.
        dry_run: Check everything, print the plan and stop.
    """

    weights: Path
    protocol: "Protocol" = field(metadata=PROTOCOL)
    data: "VisionDataModule" = field(metadata={**DATASET, "skip": FIXED})
    family: FamilyName = "auto"
    which: str = ""
    backbone: str = ""
    pixels: Literal["auto", "imagenet", "half"] = "auto"
    out: str = ""
    overwrite: bool = False
    seed: int = 0
    batch_size: int = 64
    num_workers: int = 4
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    devices: int = 1
    num_nodes: int = 1
    memory: float = 2.0
    cache: str = ""
    dry_run: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        check_least(self, "--", {**MINIMA, "memory": 0.001})


def run(words: Sequence[str]) -> None:
    """Evaluate, or list the protocols or the settings of one.

    Raises:
        InputError: weights, protocol and data that do not fit.
    """
    if "--list" in words:
        for name, file in protocol_names().items():
            print(f"{name:20} {file.read_text('utf-8').splitlines()[0].lstrip('# ')}")
        return
    args, protocol = parse(words)
    from vitlab.commands.run_evaluate import evaluate_and_write

    evaluate_and_write(args, protocol)


def parse(words: Sequence[str]) -> tuple[EvaluateArguments, "ProtocolInfo"]:
    """Read the command line: arguments, and the protocol with what is changed in it.

    Raises:
        InputError: an unknown protocol or dataset.
        SystemExit: with code 0 after the help.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--protocol", nargs="?")
    first.add_argument("--data", "--data.class_path", nargs="?")
    first.add_argument("--data.root", dest="root", nargs="?")
    asks_help = bool({"-h", "--help"} & {*words})
    if asks_help and (name := first.parse_known_args(words)[0].protocol):
        show_settings(find_protocol(name))
    plain, class_words = parse_plain(EvaluateArguments, words, PROG, EXAMPLES)
    found, rest = first.parse_known_args(class_words)
    path = find_protocol(found.protocol)

    from vitlab.data.check import recognize
    from vitlab.evaluation.registry import differences, protocol_hash, read_protocol
    from vitlab.evaluation.result import ProtocolInfo

    published = read_protocol(path)
    parser = class_parser(EvaluateArguments, PROG)
    dataset = found.data or type(recognize(Path(found.root))).__name__
    chosen = published.on(dataset.rpartition(".")[2])
    base = ["--protocol", json.dumps(chosen), "--data", dataset, "--data.root", found.root]
    args = parser.parse_args([*base, *rest])
    values = _values(parser, args)
    changed = differences(_values(parser, parser.parse_args(base)), values)
    name, version = published.name, published.version
    info = ProtocolInfo(name, version, values, protocol_hash(name, version, values), changed)
    built = EvaluateArguments(**{**plain, **vars(parser.instantiate_classes(args))})
    built.data.max_unreadable, built.data.seed = 0, built.seed
    built.data.num_workers = built.num_workers
    return built, info


def show_settings(path: Path) -> None:
    """Print the settings of a protocol's file, and the options that its class takes."""
    from vitlab.evaluation.registry import read_protocol

    protocol = read_protocol(path).protocol
    print(yaml.safe_dump(protocol["init_args"], sort_keys=False, width=100))
    class_parser(EvaluateArguments, PROG).parse_args(["--protocol.help", protocol["class_path"]])


def _values(parser: ArgumentParser, args: Namespace) -> dict[str, Any]:
    """Return the protocol's settings as plain values."""
    text = parser.dump(Namespace(protocol=args.protocol), skip_validation=True)
    # where a class is defined is no setting; JSON has no infinity
    text = re.sub(r"(?<=class_path: )[\w.]+\.", "", text)
    return yaml.safe_load(re.sub(r"(?m)(?<=[ -])\.(inf|nan)$", r"\1", text))["protocol"]
