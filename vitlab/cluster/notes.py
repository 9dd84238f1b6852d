"""The small JSON files of a run, read as what they should hold; they may be from anyone."""

import json
import math
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin


@dataclass(frozen=True)
class Ticket:
    """What `vitlab submit` leaves in RUN/job/job.json.

    Attributes:
        job: number in SLURM.
        submitted: when, in seconds since 1970.
        command: of the submission.
    """

    job: str
    submitted: float = 0.0
    command: str = ""


@dataclass(frozen=True)
class Scored:
    """What `vitlab runs` shows of a row of RUN/measurements.json.

    Attributes:
        encoder: pixels, untrained or trained.
        epoch: epochs trained.
        scores: percent, by tag.
    """

    encoder: str
    epoch: int
    scores: dict[str, float] = field(default_factory=dict)


def read(path: Path, kind: Any) -> Any:
    """Return what a file holds, None if it is not there.

    Args:
        path: of the file.
        kind: str, int, float, or a list, dict or dataclass of them.

    Raises:
        ValueError: the file cannot be read, or holds something else.
    """
    try:
        return _as(kind, json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, OverflowError, RecursionError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__})") from error


def _as(kind: Any, value: Any) -> Any:
    """Return a value of JSON as one of a kind; what a dataclass does not know is left out."""
    if is_dataclass(kind):
        given = _as(dict, value)
        known = [part for part in fields(kind) if part.name in given]
        return kind(**{part.name: _as(part.type, given[part.name]) for part in known})  # type: ignore[operator]
    if get_origin(kind) is list:
        return [_as(get_args(kind)[0], item) for item in _as(list, value)]
    if get_origin(kind) is dict:
        return {key: _as(get_args(kind)[1], item) for key, item in _as(dict, value).items()}
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise TypeError(f"{type(value).__name__} instead of {kind.__name__}")
    if kind is float and not math.isfinite(value):
        raise ValueError("a number that is not finite")
    if kind is str:
        value.encode()  # half a character cannot be shown
    return value
