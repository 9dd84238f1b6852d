"""Encoders from `class_path` and `init_args`, as checkpoints and exported folders keep them."""

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch

from vitlab.config_safety import check_config
from vitlab.encoders.encoder import Encoder
from vitlab.errors import InputError


def build(spec: Mapping[str, Any], path: Path) -> Encoder:
    """Make an encoder, of vitlab or of the user's own class; leave the random stream as it is.

    Raises:
        InputError: the class is not allowed or missing, or an argument is unknown.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            encoder = _value(spec, None, path)
        except (TypeError, KeyError, ImportError, AttributeError) as error:
            raise InputError(
                f"{path} describes an encoder that this version of vitlab cannot make: {error}; "
                "read it with the version that wrote it",
                field=path.name,
            ) from error
    if not isinstance(encoder, Encoder):
        raise InputError(
            f"{path} names {spec['class_path']}, which is no Encoder of vitlab", field=path.name
        )
    if not hasattr(encoder, "config"):
        encoder.config = dict(spec.get("init_args") or {})
    return encoder


def import_class(name: str, path: Path) -> type:
    """Import a class by its dotted name; a bare name is one of `vitlab.encoders`.

    Raises:
        InputError: the class is of a package that is not allowed.
        TypeError: it is no class.
    """
    check_config({"class_path": name}, path)
    module, _, name = name.rpartition(".")
    found = getattr(importlib.import_module(module or "vitlab.encoders"), name)
    if not inspect.isclass(found):
        raise TypeError(f"{name} is no class")
    return found


def _value(value: Any, hint: Any, path: Path) -> Any:
    """Return a value of a spec as its annotation has it: dictionaries become dataclasses."""
    if not isinstance(value, Mapping):
        return value
    if "class_path" in value:
        kind = import_class(value["class_path"], path)
        arguments = value.get("init_args") or {}
        hints = get_type_hints(inspect.getattr_static(kind, "__init__"))
    else:
        kinds = [each for each in (hint, *get_args(hint)) if inspect.isclass(each)]
        kind = next(filter(is_dataclass, kinds), dict)
        arguments, hints = value, {} if kind is dict else get_type_hints(kind)
    return kind(**{name: _value(each, hints.get(name), path) for name, each in arguments.items()})
