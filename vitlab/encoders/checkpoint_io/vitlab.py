"""Our own: checkpoints of `vitlab fit`, and folders that `export` wrote. Both name every option."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitlab.encoders.checkpoint_io.family import Family, Weights
from vitlab.encoders.checkpoint_io.files import is_folder
from vitlab.encoders.checkpoint_io.source import Source
from vitlab.encoders.cls_specialization import CLSSpecialization
from vitlab.encoders.entmax.normalizer import Normalizer
from vitlab.encoders.locality import Locality
from vitlab.encoders.prompts import Pool, Prompts
from vitlab.encoders.vit import ViT


def _prompts(**plain: Any) -> Prompts:
    pools = {name: Pool(**plain[name]) for name in ("cls", "patches") if plain.get(name)}
    return Prompts(**{**plain, **pools})


_NESTED: dict[str, Callable[..., object]] = {
    "normalizer": Normalizer,
    "cls_specialization": CLSSpecialization,
    "locality": Locality,
    "prompts": _prompts,
}


def _fits(source: Source) -> bool:
    return source.config is not None


def _convert(source: Source) -> Weights:
    return Weights(dict(source.state), arguments(source.config or {}), {})


def arguments(config: dict) -> dict[str, Any]:
    """Return the arguments of ViT from plain values, as JSON and Lightning keep them.

    Where the encoder has prompts, they are among them.

    Raises:
        ValueError: an option has fields that this version does not know.
    """
    try:
        return {
            name: _NESTED[name](**value) if name in _NESTED and isinstance(value, dict) else value
            for name, value in config.items()
        }
    except TypeError as error:
        raise ValueError(
            f"the config of the encoder does not fit this version of vitlab: {error}; read it "
            "with the version that wrote it"
        ) from error


def backbone_settings(source: Source, moved: str | Path = "") -> dict[str, Any]:
    """Return how `load_pretrained` reads the backbone of a run of prompts.

    Args:
        source: the run.
        moved: where the backbone is now; "" for where the run had it.

    Raises:
        ValueError: the run names no file, or there is none.
    """
    given = {name: value for name, value in (source.backbone or {}).items() if value is not None}
    named = given.get("path")
    if not named:
        raise ValueError(
            f"{source.path} holds prompts, and names no file of the backbone that they were "
            "learned beside; train with backbone Pretrained"
        )
    path = Path(moved or named)
    if not path.exists():
        where = "" if path.is_absolute() else f" below {Path.cwd()}"
        raise ValueError(
            f"{source.path} holds prompts without their backbone, which the run read from {named}; "
            f"there is no {path}{where}. Say where it is now with backbone, on the command line "
            "--backbone FILE"
        )
    if isinstance(into := given.get("into"), dict):
        given["into"] = ViT(**arguments(into.get("init_args", {})))
    if moved and is_folder(path):  # which says itself what the file had to be told
        given = {name: given[name] for name in given if name not in ("family", "which")}
    return {**given, "path": path}


VITLAB = Family("vitlab", _fits, _convert)
