"""The words of `vitlab evaluate`: a protocol by name, and every setting of it by its own."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

import vitlab.evaluation.protocols  # noqa: F401, the parser finds classes once imported
from vitlab.config_safety import restrict_imports
from vitlab.data import VisionDataModule
from vitlab.evaluation.protocol import Protocol
from vitlab.evaluation.registry import ProtocolSettings, differences, find, names

DESCRIPTION = """\
Evaluate the frozen features of an encoder by a named protocol, and write a result that says how it
was made. Every setting of the protocol can be changed, which the result then says as well.

  vitlab evaluate --list
  vitlab evaluate --weights runs/dino/seed0/best.ckpt --which teacher --protocol knn \\
      --data.root /data/imagenet
  vitlab evaluate --weights dino_deitsmall16_pretrain.pth --family dino \\
      --protocol dinov2-linear --data.root /data/VOCdevkit --devices 4
  vitlab evaluate ... --protocol dinov2-linear --protocol.recipe.iterations 1000
  vitlab evaluate --protocol dinov2-linear --help       # the settings of one protocol as well
"""
# of a dataset, what only training uses, or what an evaluation decides
NOT_OURS = {
    "global_batch_size",
    "micro_batch_size",
    "transform",
    "num_workers",
    "max_unreadable",
    "seed",
}

LEAST = {
    "batch_size": 1,
    "num_workers": 0,
    "seed": 0,
    "devices": 1,
    "num_nodes": 1,
    "memory": 0.001,
}


@dataclass(frozen=True)
class EvaluationArguments:
    """What the command line asks for.

    Attributes:
        given: the parsed words.
        protocol: the object that runs.
        settings: what it stands for.
        data: the dataset.
    """

    given: Namespace
    protocol: Protocol
    settings: ProtocolSettings
    data: VisionDataModule


def parse(words: Sequence[str]) -> EvaluationArguments:
    """Read the command line; every file it names is found, no image is read.

    Raises:
        ValueError: a protocol or dataset that is unknown or missing.
        SystemExit: with code 2 for any other mistake, after one message.
    """
    restrict_imports()
    words = _one_word_each(words)
    if {"-h", "--help"} & set(words):
        _help(_value(words, "--protocol"))
    name, root = _value(words, "--protocol"), _value(words, "--data.root")
    if name is None:
        raise ValueError(f"--protocol is missing; choose one of {', '.join(names())}")
    if root is None:
        raise ValueError("--data.root is missing; give the folder of the dataset")
    if not Path(root).is_dir():
        raise ValueError(f"there is no folder {root}; set --data.root to the dataset")
    published = find(name)
    dataset = _value(words, "--data", "--data.class_path") or _recognize(Path(root))
    chosen = published.on(dataset.rpartition(".")[2])
    parser = _parser()
    rest = _without(words, "--protocol", "--data", "--data.class_path")
    base = ["--protocol", json.dumps(chosen), "--data", dataset]
    given = parser.parse_args([*base, *rest])
    as_published = parser.parse_args([*base, "--data.root", root, "--weights", str(given.weights)])
    values = _plain(parser, given)
    changed = differences(_plain(parser, as_published), values)
    for option, least in LEAST.items():
        if given[option] < least:
            raise ValueError(
                f"--{option.replace('_', '-')} {given[option]} is too small; use {least} or more"
            )
    built = parser.instantiate_classes(given)
    built.data.max_unreadable, built.data.seed = 0, given.seed
    built.data.num_workers = given.num_workers
    settings = ProtocolSettings(published.name, published.version, values, changed)
    return EvaluationArguments(given, built.protocol, settings, built.data)


def _help(name: str | None) -> NoReturn:
    """Print the options; with a protocol, its file and what its class takes as well."""
    print(DESCRIPTION)
    words = ["--help"]
    if name is not None:
        published = find(name)
        print(yaml.safe_dump(published.protocol["init_args"], sort_keys=False, width=100))
        words = ["--protocol.help", published.protocol["class_path"]]
    _parser().parse_args(words)
    raise AssertionError("help ends the program")


def show_names() -> None:
    """Print every protocol with the first line of its file."""
    table = Table("protocol", "what it is", box=None)
    for name, file in names().items():
        table.add_row(name, file.read_text().splitlines()[0].lstrip("# "))
    Console().print(table)


def _parser() -> ArgumentParser:
    parser = ArgumentParser("vitlab evaluate")
    parser.add_argument(
        "--weights",
        type=Path,
        required=True,
        help="A run's best.ckpt or last.ckpt, an exported folder, or a file of DINO, DINOv2, DeiT, "
        "timm or LocAtViT; see `vitlab import --help`.",
    )
    parser.add_argument("--family", type=str, default="auto", help="Whose weights they are.")
    parser.add_argument(
        "--which", type=str, default="", help="student, teacher ... of a file with several models."
    )
    parser.add_argument(
        "--backbone",
        type=str,
        default="",
        help="Of a run of prompts, the backbone's file, if it is no longer where the run had it.",
    )
    parser.add_argument(
        "--pixels",
        type=Literal["auto", "imagenet", "half"],
        default="auto",
        help="Mean and deviation of the pixels that the weights are trained with: ImageNet's, or "
        "0.5 and 0.5. auto knows it of every family but timm, which has both.",
    )
    parser.add_subclass_arguments(Protocol, "protocol", required=True)
    parser.add_subclass_arguments(VisionDataModule, "data", required=True, skip=NOT_OURS)
    options: list[tuple[str, type, Any, str]] = [
        ("out", str, "", "Folder for the result; by default evaluations/WEIGHTS/PROTOCOL-DATASET."),
        ("overwrite", bool, False, "Replace a result that is there."),
        ("seed", int, 0, "Of heads, order and augmentation."),
        ("batch-size", int, 64, "Images of one forward pass, on each device."),
        ("num-workers", int, 4, "Processes that load images, for each device."),
        ("accelerator", str, "auto", "cpu, cuda or auto."),
        ("devices", int, 1, "Processes, one for each device."),
        ("num-nodes", int, 1, "Machines."),
        ("memory", float, 2.0, "GiB that blocked computations may take, on each device."),
        ("cache", str, "", "Folder for features of protocols without augmentation; none if empty."),
        ("dry-run", bool, False, "Check everything, print the plan and stop."),
    ]
    for name, kind, default, text in options:
        if kind is bool:
            parser.add_argument(f"--{name}", action="store_true", help=text)
        else:
            parser.add_argument(f"--{name}", type=kind, default=default, help=text)
    return parser


def _plain(parser: ArgumentParser, given: Namespace) -> dict[str, Any]:
    """Return the protocol's settings as plain values, with short class names."""
    text = parser.dump(Namespace(protocol=given.protocol), skip_validation=True)
    return _short(yaml.safe_load(text)["protocol"])


def _short(value: Any) -> Any:
    """Drop the module in front of class names: where a class lies is no setting."""
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


def _recognize(root: Path) -> str:
    """Return the class of the dataset in a folder."""
    found = [
        kind.__name__
        for kind in VisionDataModule.__subclasses__()
        if kind.layout.marks and kind.layout.find(root)
    ]
    if len(found) != 1:
        what = f"could be {' or '.join(found)}" if found else "is no dataset that shows what it is"
        raise ValueError(
            f"{root} {what}; name its class with --data: ImageNet, VOC2012, ADE20K, Cityscapes or "
            "Folder. `vitlab data check --root DIR` says what is wrong with a folder"
        )
    return found[0]


def _one_word_each(words: Sequence[str]) -> list[str]:
    """Split --name=value, so that names and values alternate."""
    return [
        part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])
    ]


def _value(words: Sequence[str], *options: str) -> str | None:
    values = [after for word, after in pairwise(words) if word in options]
    return values[-1] if values else None


def _without(words: Sequence[str], *options: str) -> list[str]:
    places = {place for place, word in enumerate(words) if word in options}
    return [
        word for place, word in enumerate(words) if place not in places and place - 1 not in places
    ]
