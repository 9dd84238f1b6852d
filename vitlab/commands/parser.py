"""Command lines from dataclasses: a field is an option, its line in `Args:` the option's help."""

import argparse
import dataclasses
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser, DefaultHelpFormatter

from vitlab.config_safety import ClassParser, check_command_line

Arguments = TypeVar("Arguments")
Returned = TypeVar("Returned")
# metadata of a field that is given without an option's name
POSITIONAL = {"positional": True}
# of one whose value is built from a class_path; `skip` names arguments left out
SUBCLASS = {"subclass": True}
# the same, for a dataset: its class is recognized where only --NAME.root is given
DATASET = {"subclass": True, "dataset": True}


class _Help(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Types and defaults beside each option; description and examples with their own lines."""


def parse(kind: type[Arguments], words: Sequence[str], prog: str, examples: str = "") -> Arguments:
    """Read a command line into a dataclass.

    A field `num_nodes: int = 1` is the option `--num-nodes N`, a boolean field that is false by
    default is a flag, a field without default is required, a list or tuple takes several values,
    at once or by repeating the option. Fields of base classes are options too.

    Args:
        kind: the dataclass; its docstring is the help, `__post_init__` checks values.
        words: the command line behind the verb.
        prog: name of the command, such as "vitlab cost".
        examples: text at the end of the help.

    Raises:
        InputError: by `__post_init__`, and for classes that a config may not build.
        SystemExit: with code 2 after a message for words that do not parse; 0 for --help.
    """
    check_command_line(words)
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    for each in fields:
        if each.metadata.get("dataset"):
            words = _with_class(words, f"--{each.name}")
    parser = build_parser(kind, prog, examples)
    found = parser.instantiate_classes(parser.parse_args(list(words)))
    values = {each.name: found.get(each.name) for each in fields}
    hints = get_type_hints(kind)
    for each in fields:
        if get_origin(hints[each.name]) is tuple:
            values[each.name] = tuple(values[each.name])
        if each.metadata.get("positional") and values[each.name] is None:
            del values[each.name]  # the field has a default: jsonargparse allows none here
    return kind(**values)


def call(
    function: Callable[..., Returned], words: Sequence[str], prog: str, examples: str = ""
) -> Returned:
    """Call a function with a command line: its parameters are the options, its docstring the help.

    Raises:
        InputError: by the function.
        SystemExit: as in `parse`.
    """
    hints = get_type_hints(function)
    fields: list[Any] = []
    for name, each in inspect.signature(function).parameters.items():
        required = each.default is each.empty
        more = () if required else (dataclasses.field(default=each.default),)
        fields.append((name, hints[name], *more))
    kind = dataclasses.make_dataclass("Options", fields)
    kind.__doc__ = function.__doc__
    return function(**vars(parse(kind, words, prog, examples)))


def build_parser(kind: type, prog: str, examples: str = "") -> ArgumentParser:
    """Return the parser of a dataclass, see `parse`."""
    pages = [parse_docstring(base.__doc__ or "") for base in reversed(kind.__mro__)]
    texts = {each.arg_name: each.description for page in pages for each in page.params}
    parser = ClassParser(
        prog=prog,
        description="\n\n".join(
            filter(None, [pages[-1].short_description, pages[-1].long_description])
        ),
        epilog=examples,
        formatter_class=_Help,
        allow_abbrev=False,
    )
    hints = get_type_hints(kind)
    for each in dataclasses.fields(kind):
        _add(parser, each, hints[each.name], texts.get(each.name) or "")
    return parser


def _with_class(words: Sequence[str], option: str) -> Sequence[str]:
    """Return a command line that begins with the class of a dataset, recognized if absent."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(option, f"{option}.class_path", dest="name")
    parser.add_argument(f"{option}.root", dest="root")
    found, rest = parser.parse_known_args(words)
    if found.root is None:
        return words
    from vitlab.data.check import recognize

    name = found.name or type(recognize(Path(found.root))).__name__
    return [option, name, f"{option}.root", found.root, *rest]


def _add(parser: ArgumentParser, field: dataclasses.Field, hint: Any, text: str) -> None:
    made = field.default_factory
    default = field.default if made is dataclasses.MISSING else made()
    required = default is dataclasses.MISSING
    if field.metadata.get("subclass"):
        kinds = tuple(each for each in get_args(hint) if each is not NoneType) or hint
        skip = field.metadata.get("skip")
        parser.add_subclass_arguments(kinds, field.name, required=required, help=text, skip=skip)
        return
    more: dict[str, Any] = {"type": hint, "help": text}
    if get_origin(hint) in (list, tuple) and get_args(hint)[-1:] != ():
        default = default if required else list(default)  # type: ignore[arg-type]
        more |= {"type": get_args(hint)[0], "nargs": "+" if required else "*"}
        if required or not default:  # given again, an option adds to its values
            more["action"] = "extend"
            if get_origin(more["type"]) is Literal:  # which this action does not check
                more |= {"type": str, "choices": get_args(get_args(hint)[0])}
    if field.metadata.get("positional"):
        more |= {} if required else {"nargs": "?"}
        parser.add_argument(field.name, **more)
        return
    option = f"--{field.name.replace('_', '-')}"
    if hint is bool and default is False:
        parser.add_argument(option, action="store_true", help=text)
    else:
        more |= {"required": True} if required else {"default": default}
        parser.add_argument(option, **more)
