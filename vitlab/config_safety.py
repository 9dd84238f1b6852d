"""Configs are data: they may build classes of a few packages, and name nothing else.

A config says which classes a run is made of, and a parser that imports whatever is named would run
a stranger's program. Two gates stand before that. `check_config` reads a config as plain values and says
which key of which file names a class from elsewhere. `restrict` lets the parser itself import
nothing else, by whatever way a name comes to it: another file, a word of the command line, a
checkpoint's settings. What it imports must be a class: many functions of torch and lightning, given
a config's arguments, run a command or a pickle, and no list of them would be complete.
"""

import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import wraps
from pathlib import Path

import yaml

PACKAGES = ("vitlab", "torch", "timm", "lightning", "torchmetrics", "albumentations")
# of these packages, what runs, compiles or unpickles what it is given
NEVER = (
    *("torch.hub", "torch.load", "torch.serialization", "torch.storage", "torch.package"),
    *("torch.utils.cpp_extension", "torch.ops", "torch.classes", "torch.jit", "torch.fx"),
    *("torch.distributed.run", "torch.distributed.launch", "torch.distributed.elastic"),
    *("torch.distributed.rpc", "torch.distributed.launcher", "torch.multiprocessing"),
    *("torch.cuda.memory", "torch._inductor", "torch._dynamo", "torch.testing"),
)
VARIABLE = "VITLAB_ALLOW"
MOST = 100_000  # values of a config, those that it repeats by reference counted each time


def restrict_imports() -> None:
    """Let parsers of this process import the allowed packages only, and of these only classes.

    Raises:
        ValueError: the variable VITLAB_ALLOW holds no names of packages.
    """
    # only now: `vitlab submit --help` is immediate
    from jsonargparse import _util, set_parsing_settings

    set_parsing_settings(
        import_path_denylist=["*", *NEVER],
        import_path_allowlist=[*PACKAGES, *_allowed_by_user()],
        # else an argument of any type would be built from what names a class
        instantiate_subclass_spec_in_any=False,
    )
    # the one place where the parser has what a name stands for, and has not used it yet
    known = _util.canonical_import_paths
    checked = _of_classes(getattr(known, "__wrapped__", known))
    _util.canonical_import_paths = checked  # type: ignore[assignment]


def _of_classes(paths_of: Callable[[object], set[str]]) -> Callable[[object], set[str]]:
    """Let a function of the parser, which says where an object is defined, refuse functions."""

    @wraps(paths_of)
    def checked(found: object) -> set[str]:
        paths = paths_of(found)
        allowed = tuple(f"{name}." for name in _allowed_by_user())
        if not inspect.isclass(found) and not all(f"{path}.".startswith(allowed) for path in paths):
            name = min(paths, default=repr(found))
            # not a ValueError, whose words the parser leaves out; nor the name between spaces
            raise ImportError(
                f"{name}, which is no class, was not called: a config may only build classes. If "
                f"you trust both the config and {name}, allow it with {VARIABLE}={name}"
            )
        return paths

    return checked


def check_config(content: object, where: object) -> None:
    """Refuse a class from elsewhere, before anything is imported.

    Args:
        content: of a config: mappings, lists and plain values.
        where: the file it is from, for the message.

    Raises:
        ValueError: the file, the key, the class, and what to do.
    """
    try:
        for count, _ in enumerate(_values(content)):
            if count > MOST:
                raise ValueError(f"{where} holds more than {MOST:,} values; no config does")
        named = list(_classes(content))
    except RecursionError as error:
        raise ValueError(f"{where} is nested too deep, or in itself; no config is") from error
    for key, name in named:
        if "." not in name or _is_allowed(name):
            continue  # without a dot, one of the classes that the parser knows already
        package = name.partition(".")[0]
        if package in PACKAGES:
            package = name  # of an allowed package, one of the few names that are not
        raise ValueError(
            f"{where}: {key} names {name}, but a config may only build classes of "
            f"{', '.join((*PACKAGES, *_allowed_by_user()))}. Nothing of it was run. If you trust "
            f"both the config and {package}, allow it with {VARIABLE}={package}"
        )


def check_command_line(words: Sequence[str]) -> None:
    """Check the configs and classes that a command line names, and restrict its parser.

    Raises:
        ValueError: one of them names a class from elsewhere.
    """
    restrict_imports()
    for place, word in enumerate(words):
        option, equals, value = word.partition("=")
        value = value if equals else "".join(words[place + 1 : place + 2])
        if (
            option in ("--config", "-c") and Path(value).is_file()
        ):  # else the parser says what is wrong
            check_config(read_yaml(Path(value)), value)
        elif option.endswith(".class_path"):
            check_config({option: value}, "the command line")
        elif option.startswith("--") and value.startswith(("{", "[")):
            check_config({option: _plain(value)}, "the command line")


def read_yaml(path: Path) -> object:
    """Return what a YAML file holds: plain values, as tags for objects of Python are refused.

    Raises:
        ValueError: the file is not YAML, or asks for objects.
        OSError: it cannot be read.
    """
    try:
        return yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not a YAML file of plain values: {error}") from error


def _plain(text: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None  # the parser, which reads it the same way, says what is wrong


def _allowed_by_user() -> list[str]:
    names = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(
                f"{VARIABLE} has {name!r}, which is no package; give names such as "
                "my_package,other_package.models"
            )
    return names


def _is_allowed(name: str) -> bool:
    """Whether the longest entry that covers a dotted name is one that allows it."""
    verdicts = dict.fromkeys(PACKAGES, True) | dict.fromkeys(NEVER, False)
    verdicts |= dict.fromkeys(_allowed_by_user(), True)
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        verdict = verdicts.get(".".join(parts[:count]))
        if verdict is not None:
            return verdict
    return False


def _values(content: object) -> Iterator[object]:
    yield content
    inner = content.values() if isinstance(content, Mapping) else content
    if isinstance(inner, Iterable) and not isinstance(inner, str | bytes):
        for value in inner:
            yield from _values(value)


def _classes(content: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted key and the value of each class_path."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            inner = f"{key}.{name}" if key else str(name)
            if name == "class_path" or str(name).endswith(".class_path"):
                yield inner, str(value)
            else:
                yield from _classes(value, inner)
    elif isinstance(content, list):
        for place, value in enumerate(content):
            yield from _classes(value, f"{key}[{place}]")
