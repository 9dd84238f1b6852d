"""Protocols by name: a YAML file each, whose settings a hash stands for."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from vitlab.atomic_io import decode_json, plain
from vitlab.config_files import REFERENCES
from vitlab.config_safety import check_config, read_yaml
from vitlab.errors import InputError, check_names

KEYS = {"name", "version", "protocol", "datasets"}


@dataclass(frozen=True)
class PublishedProtocol:
    """A protocol as its file states it.

    Attributes:
        name: what it is asked for by.
        version: raised whenever a change of the file changes numbers.
        protocol: class_path and init_args.
        datasets: what differs in init_args, by the dataset's class.
    """

    name: str
    version: int
    protocol: dict[str, Any]
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)

    def on(self, dataset: str) -> dict[str, Any]:
        """Return class_path and init_args for a dataset's class."""
        own = self.datasets.get(dataset, {})
        return {**self.protocol, "init_args": merge(self.protocol.get("init_args", {}), own)}


def protocol_hash(name: str, version: int, settings: Mapping[str, Any]) -> str:
    """Return twelve hexadecimal digits that stand for a protocol and all its settings."""
    text = json.dumps([name, version, plain(settings)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_protocol(path: Path) -> PublishedProtocol:
    """Read the YAML file of a protocol.

    Raises:
        InputError: no such file, or one of another kind.
    """
    try:
        content = read_yaml(path)
    except (OSError, InputError) as error:
        raise InputError(str(error), field="--protocol") from error
    if not isinstance(content, dict) or not {"name", "version", "protocol"} <= set(content) <= KEYS:
        raise InputError(
            f"{path} is not a protocol; it needs name, version and protocol (class_path and "
            "init_args), and may have datasets",
            field="--protocol",
        )
    check_config(content, path)
    check_names([str(content["name"])], "--protocol")
    if content["name"] != path.stem:
        raise InputError(
            f"{path} is named {content['name']!r} inside; name and file must agree",
            field="--protocol",
        )
    try:
        return decode_json(json.dumps(content).encode(), PublishedProtocol, finite=False)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is not a protocol: {error}", field="--protocol") from error


def read_references() -> pd.DataFrame:
    """Read published numbers of others.

    Returns:
        A row for each: our `protocol` that follows the one it was published under, `dataset`,
        number of test `images`, number of training images `learned` from (0 where the source does
        not say), `model`, `percent`, `conditions` that the source adds, and `source`.
    """
    rows = [
        {"learned": 0, "conditions": "", **group, "model": str(model), "percent": float(percent)}
        for group in yaml.safe_load(REFERENCES.read_text("utf-8"))
        for model, percent in group["models"].items()
    ]
    return pd.DataFrame(rows).drop(columns="models")


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return base with the values of over, mapping by mapping; lists are replaced."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def differences(published: object, used: object, name: str = "") -> dict[str, tuple[Any, Any]]:
    """Return (published, used) of every setting in which two trees differ.

    By dotted name, as the command line takes it: without `init_args`.
    """
    if isinstance(published, Mapping) and isinstance(used, Mapping):
        found: dict[str, tuple[Any, Any]] = {}
        for key in sorted({*published, *used}):
            dotted = ".".join(part for part in (name, key) if part and part != "init_args")
            found |= differences(published.get(key), used.get(key), dotted)
        return found
    return {} if published == used else {name: (published, used)}
