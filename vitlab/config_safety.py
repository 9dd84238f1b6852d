"""Config safety: a config may build classes of a few packages, and name nothing else.

A config names the classes of a run, and a parser that imports whatever is named would run
a stranger's program. Three gates prevent that. `check_config` reads a config as plain values and
names the key and file of a class from elsewhere. `restrict_imports` lets jsonargparse import only
the allowed packages, wherever a name comes from: another file, the command line, the settings in a
checkpoint. `ClassesOnly.instantiate_classes` refuses functions before anything is built: many
functions of torch and lightning run a command or a pickle, and no list of them would be complete.
"""

import inspect
import os
import pydoc
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partialmethod
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings
from jsonargparse._common import parsing_settings

from vitlab.atomic_io import read_regular
from vitlab.errors import InputError, UsageError
from vitlab.usage_errors import explain

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
MAX_VALUES = 100_000  # of a config, with those repeated by reference counted each time


def restrict_imports() -> None:
    """Let parsers of this process import the allowed packages only.

    Raises:
        InputError: the variable VITLAB_ALLOW holds no names of packages.
    """
    set_parsing_settings(
        import_path_denylist=["*", *NEVER],
        import_path_allowlist=[*PACKAGES, *_allowed_by_user()],
        # else an argument of any type would be built from a mapping that names a class
        instantiate_subclass_spec_in_any=False,
    )


@contextmanager
def imports_as_before() -> Iterator[None]:
    """Undo, in the end, what `restrict_imports` does to other parsers of this process."""
    before = dict(parsing_settings)
    try:
        yield
    finally:
        parsing_settings.update(before)


class ClassesOnly:
    """Mix-in of a parser of jsonargparse that builds classes and calls no function."""

    def build(
        self,
        settings: Mapping[str, Any],
        where: object,
        problem: str,
        field: str,
        *overlays: Mapping[str, Any],
    ) -> Namespace:
        """Build the classes of plain values, as of a checkpoint.

        Args:
            settings: values of the parser's arguments.
            where: file they are from, for the message.
            problem: start of the message where the parser refuses them.
            field: of that error.
            *overlays: more settings, the later ones over the earlier.

        Raises:
            InputError: they name a class from elsewhere, or are not what the parser expects.
        """
        restrict_imports()
        parsed: Any = None
        try:
            for each in (settings, *overlays):
                check_config(each, where)
                parsed = self.parse_object(dict(each), parsed)  # type: ignore[attr-defined]
        except ArgumentError as error:
            raise InputError(f"{problem}: {error}", field=field) from error
        return self.instantiate_classes(parsed)

    def instantiate_classes(self, cfg: Namespace, **options: Any) -> Namespace:
        """Build the classes of a parsed config.

        Raises:
            InputError: the config names a function.
        """
        refuse_functions(cfg)
        return super().instantiate_classes(cfg, **options)  # type: ignore[misc]

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Refuse a command line in one line, with the nearest option.

        Raises:
            UsageError: the line; without `exit_on_error`, jsonargparse's own error.
        """
        if not self.exit_on_error:  # type: ignore[attr-defined]
            super().error(message, ex)  # type: ignore[misc]
        known = re.findall(r"--[\w.-]+", self.format_usage())  # type: ignore[attr-defined]
        raise UsageError(explain(message, known)) from ex


class ClassParser(ClassesOnly, ArgumentParser):
    """A parser of command lines and settings that builds classes and calls no function."""

    # as in Lightning's, arguments of the user's own classes may be without types
    add_class_arguments = partialmethod(ArgumentParser.add_class_arguments, fail_untyped=False)
    add_subclass_arguments = partialmethod(
        ArgumentParser.add_subclass_arguments, fail_untyped=False
    )


def refuse_functions(content: object) -> None:
    """Refuse anything but classes in a parsed config.

    Args:
        content: as a parser makes it: names of classes, imported functions, plain values.

    Raises:
        InputError: a class_path or a value that is a function, and not allowed by VITLAB_ALLOW.
    """
    for key, value in _walk(content):
        if _names_class(key) and isinstance(value, str):
            name, wrong = value, "." in value and not inspect.isclass(pydoc.locate(value))
        elif callable(value) and not inspect.isclass(value) and not isinstance(value, os.PathLike):
            name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
            kind = type(value)  # defaults of ours may be callable objects
            ours = _is_allowed(f"{kind.__module__}.{kind.__qualname__}")
            wrong = inspect.isroutine(value) or not ours
        else:
            continue
        if wrong and not any(_covers(allowed, name) for allowed in _allowed_by_user()):
            raise InputError(
                f"{key}: {name}, which is no class, was not called: a config may only build "
                f"classes. If you trust both the config and {name}, allow it with "
                f"{VARIABLE}={name}",
                field=key,
            )


def check_config(content: object, where: object) -> None:
    """Refuse a class from elsewhere, before anything is imported.

    Args:
        content: of a config: mappings, lists and plain values.
        where: the file it is from, for the message.

    Raises:
        InputError: a key names a class from elsewhere, or the config is nested without end.
    """
    try:
        values = list(islice(_walk(content), MAX_VALUES + 1))
    except RecursionError as error:
        raise InputError(
            f"{where} is nested too deep, or in itself; no config is", field=str(where)
        ) from error
    if len(values) > MAX_VALUES:
        raise InputError(
            f"{where} holds more than {MAX_VALUES:,} values; no config does", field=str(where)
        )
    named = [(key, str(value)) for key, value in values if _names_class(key)]
    # without a dot, one of the classes that the parser knows already
    wrong = {name: key for key, name in named if "." in name and not _is_allowed(name)}
    if wrong:
        allowed, packages = _allowed_by_user(), [name.partition(".")[0] for name in wrong]
        # of an allowed package, one of the few names that are not
        more = [n if each in PACKAGES else each for n, each in zip(wrong, packages, strict=True)]
        more = list(dict.fromkeys(more))
        raise InputError(
            f"{where}: {', '.join(f'{key} names {name}' for name, key in wrong.items())}, but a "
            f"config may only build classes of {', '.join((*PACKAGES, *allowed))}. Nothing of it "
            f"was run. If you trust both the config and {', '.join(more)}, allow them with "
            f"{VARIABLE}={','.join([*allowed, *more])}",
            field=next(iter(wrong.values())),
        )


def check_command_line(words: Sequence[str]) -> None:
    """Check the configs and classes that a command line names, and restrict its parser.

    Raises:
        InputError: one of them names a class from elsewhere.
    """
    restrict_imports()
    for option, value in options_of(words):
        if option in ("--config", "-c") and Path(value).is_file():  # else the parser refuses it
            check_config(read_yaml(Path(value)), value)
        elif option.endswith(".class_path"):
            check_config({option: value}, "the command line")
        elif option.startswith("--") and value.startswith(("{", "[")):
            with suppress(yaml.YAMLError):  # the parser refuses it
                check_config({option: yaml.safe_load(value)}, "the command line")


def options_of(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each word of a command line up to "=", with what follows it: behind "=", or next."""
    for place, word in enumerate(words):
        option, equals, value = word.partition("=")
        yield option, value if equals else "".join(words[place + 1 : place + 2])


def read_yaml(path: Path) -> object:
    """Return what a YAML file holds: plain values, as tags for objects of Python are refused.

    Raises:
        InputError: the file is not YAML, or asks for objects.
        OSError: it cannot be read.
    """
    content = read_regular(path)
    try:
        return yaml.load(content.decode("utf-8-sig"), UniqueKeys)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise InputError(
            f"{path} is not a YAML file of plain values: {place}{problem}", field=str(path)
        ) from error


class UniqueKeys(yaml.SafeLoader):
    """A loader of plain values that refuses a key which is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Return a mapping; its keys are compared before merge keys (<<) add theirs."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [key for key in keys if keys.count(key) > 1 and key != "<<"]:
            raise yaml.MarkedYAMLError(
                problem=f"{twice[0]} is given twice; leave one out", problem_mark=node.start_mark
            )
        return super().construct_mapping(node, deep)


def flat(content: object, key: str = "") -> Iterator[tuple[str, object]]:
    """Yield the dotted key and the value of each setting."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            yield from flat(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, content


def _allowed_by_user() -> list[str]:
    names = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise InputError(
                f"{VARIABLE} has {name!r}, which is no package; give names such as "
                "my_package,other_package.models",
                field=VARIABLE,
            )
    return names


def _covers(entry: str, name: str) -> bool:
    return f"{name}.".startswith(f"{entry}.")


def _is_allowed(name: str) -> bool:
    """Whether the longest entry that covers a dotted name is one that allows it."""
    verdicts = dict.fromkeys(PACKAGES, True) | dict.fromkeys(NEVER, False)
    verdicts |= dict.fromkeys(_allowed_by_user(), True)
    covering = [entry for entry in verdicts if _covers(entry, name)]
    return bool(covering) and verdicts[max(covering, key=len)]


def _names_class(key: str) -> bool:
    return f".{key}".endswith(".class_path")


def _walk(content: object, key: str = "") -> Iterator[tuple[str, object]]:
    """Yield every value in a config, from the whole to the parts, with its dotted key."""
    yield key, content
    if isinstance(content, Namespace):
        content = vars(content)
    if isinstance(content, Mapping):
        for name, value in content.items():
            yield from _walk(value, f"{key}.{name}" if key else str(name))
    elif isinstance(content, list | tuple):
        for place, value in enumerate(content):
            yield from _walk(value, f"{key}[{place}]")
