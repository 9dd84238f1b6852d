"""Errors of input that cannot be used."""

import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return at most three names, the nearest first: those that begin so, then those alike."""
    known = list(known)
    near = [each for each in known if name and each.startswith(name)]
    return list(dict.fromkeys(near + get_close_matches(name, known)))[:3]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "did you mean ...? " with the nearest names, or nothing."""
    near = nearest(name, known)
    return f"did you mean {' or '.join(near)}? " if near else ""


class InputError(ValueError):
    """A setting, argument or file of the user cannot be used as given.

    Args:
        message: the value given, the values allowed, and the remedy.
        field: option, config key, argument or file at fault, such as "optimizer.lr", "--weights" or
            "classes.json". Keyword only, so that a loading process can raise the error again from
            its message alone.
    """

    def __init__(self, message: str, *, field: str = ""):
        super().__init__(message)
        self.field = field


class UsageError(InputError):
    """A command line that does not parse; its field is the first option that the message names."""

    def __init__(self, message: str):
        found = re.search(r"[\w-]+(?:\.[\w-]+)+|--[\w-]+", message)
        name = found[0] if found else ""
        super().__init__(message, field=name.lstrip("-") if "." in name else name)


@contextmanager
def trying(thing: object, what: str, field: str) -> Iterator[None]:
    """Refuse an object of the user's own whose code fails at a try before the run.

    Args:
        thing: the object.
        what: of it is called, and with what, such as ".loss, tried on 2 images,".
        field: option that names its class.

    Raises:
        InputError: it fails; a refusal is passed on.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if not is_own(thing):  # an error of the code
            raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise InputError(
            f"{type(thing).__qualname__}{what} fails: {type(error).__name__}: {error} "
            f"({Path(frame.filename).name}, line {frame.lineno})",
            field=field,
        ) from error


def is_own(thing: object) -> bool:
    """Whether a class, of which this is an object, is the user's own and so may lack something."""
    return not type(thing).__module__.startswith("vitlab.")


def check_fields(options: object, prefix: str, problems: Mapping[str, tuple[bool, str]]) -> None:
    """Refuse the first field of a dataclass that has a problem.

    Args:
        options: the dataclass.
        prefix: of its fields in options and messages, such as "encoder.".
        problems: by field, whether there is one, and the message behind the field's value.

    Raises:
        InputError: a field has a problem.
    """
    for name, (wrong, message) in problems.items():
        if wrong:
            field = f"{prefix}{name}"
            raise InputError(f"{field} {getattr(options, name)} {message}", field=field)


def check_names(names: Iterable[str], field: str) -> None:
    """Refuse names that become parts of files and curves, and could lead to another folder.

    Args:
        names: such as the keys of `probing.dense`.
        field: option that has them.

    Raises:
        InputError: a name with other characters than letters, digits and . _ + -, or a long one.
    """
    for name in names:
        if not re.fullmatch(r"\w[\w.+-]{0,99}", name):
            raise InputError(
                f"{field} has the name {name!r}, which becomes part of a file's name; use letters, "
                "digits and . _ + -, beginning with a letter or digit, at most 100",
                field=field,
            )


def check_least(options: object, prefix: str, least: Mapping[str, float]) -> None:
    """Refuse the first field of an object below its least value.

    Args:
        options: the object.
        prefix: of its fields, see `check_fields`; "--" of a command line.
        least: allowed value, by field; None is allowed as well.

    Raises:
        InputError: a field is too small.
    """
    for name, smallest in least.items():
        value = getattr(options, name)
        if value is not None and value < smallest:
            field = f"{prefix}{name.replace('_', '-') if prefix == '--' else name}"
            raise InputError(f"{field} {value} is too small; use {smallest} or more", field=field)
