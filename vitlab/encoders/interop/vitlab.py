"""Our own: checkpoints of `vitlab fit`, and folders that `export` wrote. Both name every option."""

from typing import Any

from vitlab.encoders.interop.family import Family, Weights
from vitlab.encoders.interop.source import Source
from vitlab.encoders.locality import Locality
from vitlab.encoders.normalizer import Normalizer
from vitlab.encoders.roles import Specialize

_NESTED = {"normalizer": Normalizer, "specialize": Specialize, "locality": Locality}


def _fits(source: Source) -> bool:
    return source.config is not None


def _convert(source: Source) -> Weights:
    return Weights(dict(source.state), arguments(source.config or {}), {})


def arguments(config: dict) -> dict[str, Any]:
    """Return the arguments of ViT from plain values, as JSON and Lightning keep them.

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


VITLAB = Family("vitlab", _fits, _convert)
