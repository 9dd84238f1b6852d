"""JSON that others may have written, into a dataclass: every field there, every type right."""

import dataclasses
import math
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Made = TypeVar("Made")


def plain(value: Any) -> Any:
    """Return a value as JSON would give it back: lists for tuples, None for what is no number.

    Raises:
        ValueError: it holds what JSON cannot.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    raise ValueError(f"{value!r} is no text, number, list or mapping, which is all a result holds")


def decode(kind: type[Made], content: object, where: str = "") -> Made:
    """Make a dataclass of a JSON object.

    Args:
        kind: the dataclass; its fields may be str, int, float, None, literals, dataclasses, and
            lists, tuples and dicts of them.
        content: what `json.loads` returned.
        where: name of the object in the file, for messages.

    Raises:
        ValueError: a field is missing, unknown or of another type.
    """
    if not isinstance(content, dict):
        raise _wrong(where, "an object", content)
    hints = get_type_hints(kind)
    names = [each.name for each in dataclasses.fields(kind)]  # type: ignore[arg-type]
    missing = [name for name in names if name not in content]
    unknown = [str(key) for key in content if key not in names]
    if missing or unknown:
        what = f"lacks {', '.join(missing)}" if missing else f"has unknown {', '.join(unknown)}"
        raise ValueError(f"{where or 'it'} {what}")
    dots = f"{where}." if where else ""
    return kind(**{name: _value(hints[name], content[name], dots + name) for name in names})


def _value(kind: Any, content: Any, where: str) -> Any:
    """Return one value of a JSON file as a type."""
    origin, of = get_origin(kind), get_args(kind)
    if kind is Any:
        return content
    if dataclasses.is_dataclass(kind):
        return decode(kind, content, where)  # type: ignore[arg-type]
    if origin in (Union, UnionType):
        if content is None and NoneType in of:
            return None
        return _value(next(each for each in of if each is not NoneType), content, where)
    if origin is Literal:
        return _one_of(of, content, where)
    if origin is dict and isinstance(content, dict):
        return {key: _value(of[1], each, f"{where}.{key}") for key, each in content.items()}
    if origin is tuple and isinstance(content, list) and len(content) == len(of):
        return tuple(_value(each, value, where) for each, value in zip(of, content, strict=True))
    if kind is float and type(content) in (int, float):
        return _number(content, where)
    if kind in (int, str, dict) and type(content) is kind:
        return content
    raise _wrong(where, _name(kind), content)


def _number(content: int | float, where: str) -> float:
    try:
        number = float(content)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _wrong(where, "a finite number", content)
    return number


def _one_of(allowed: tuple, content: object, where: str) -> object:
    if content not in allowed:
        raise _wrong(where, f"one of {', '.join(map(repr, allowed))}", content)
    return content


def _wrong(where: str, wanted: str, content: object) -> ValueError:
    given = repr(content)
    given = given if len(given) <= 60 else given[:57] + "..."
    return ValueError(f"{where or 'it'} is {given}, not {wanted}")


def _name(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return f"a list of {len(get_args(kind))}"
    names = {float: "a number", int: "a whole number", str: "a text"}
    return names.get(kind, "an object")
