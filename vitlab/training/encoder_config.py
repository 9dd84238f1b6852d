"""The encoder that configs of `vitlab fit` describe, without the rest of a run."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vitlab.config_files import find_config
from vitlab.config_safety import ClassParser, read_yaml
from vitlab.encoders import Encoder
from vitlab.errors import InputError

KEYS = ("model", "objective", "init_args", "encoder")


def group_overlays(names: Iterable[str]) -> list[list[Path]]:
    """Return the files of each arm: a config that names an encoder's class begins one.

    Args:
        names: of configs, or their paths; one without a class overlays all arms before it.

    Raises:
        InputError: there is no such config, or an overlay comes first.
    """
    arms: list[list[Path]] = []
    for path in map(find_config, names):
        encoder = _encoder(path)
        if isinstance(encoder, str) or "class_path" in encoder:
            arms.append([path])
            continue
        if not arms:
            raise InputError(
                f"{path} has no class_path in {'.'.join(KEYS)}; give a config such as dino, and "
                "those that only overlay others behind it",
                field=str(path),
            )
        for arm in arms:
            arm.append(path)
    return arms


def encoder_from_config(paths: Sequence[Path]) -> Encoder:
    """Return the encoder of a config, with others that overlay it.

    Raises:
        InputError: they describe one that cannot be made.
        OSError: a file cannot be read.
    """
    where = " and ".join(map(str, paths))
    parser = ClassParser(exit_on_error=False)
    parser.add_subclass_arguments(Encoder, "encoder")
    first, *overlays = ({"encoder": found} for path in paths if (found := _encoder(path)))
    problem = f"the encoder in {where}"
    return parser.build(first, where, problem, where, *overlays).encoder


def _encoder(path: Path) -> Any:
    """Return what a config says of the encoder: a class, settings, or nothing."""
    found: Any = read_yaml(path)
    for key in KEYS:
        found = found.get(key) if isinstance(found, dict) else None
    return found or {}
