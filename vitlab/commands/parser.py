"""Command lines from dataclasses: a field is an option, its line in `Args:` the option's help.

Options that build a class, such as `--data CLASS --data.root DIR`, are parsed apart from the
others: importing their classes takes seconds, for which neither the help nor the refusal of
another option waits.
"""

import argparse
import dataclasses
import inspect
import pydoc
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser, DefaultHelpFormatter

from vitlab.config_safety import ClassParser, check_command_line
from vitlab.errors import UsageError, nearest
from vitlab.synonyms import meant

Arguments = TypeVar("Arguments")
Returned = TypeVar("Returned")
# metadata of a field that is given without an option's name
POSITIONAL = {"positional": True}
# of a field that is built from a class_path: `subclass` is the import path of its base, which the
# annotation can leave to type checkers; `skip` names arguments left out; the class of a dataset is
# recognized where only --NAME.root is given
DATASET = {"subclass": "vitlab.data.VisionDataModule", "dataset": True}


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
        InputError: by `__post_init__`, for classes that a config may not build, and for words
            that do not parse.
        SystemExit: with code 0 for --help.
    """
    values, rest = parse_plain(kind, words, prog, examples)
    if rest:
        for each in class_fields(kind):
            if each.metadata.get("dataset"):
                rest = _with_class(rest, f"--{each.name}")
        parser = class_parser(kind, prog)
        values |= vars(parser.instantiate_classes(parser.parse_args(rest)))
    return kind(**values)


def parse_plain(
    kind: type, words: Sequence[str], prog: str, examples: str = ""
) -> tuple[dict[str, Any], list[str]]:
    """Read the options that build no class, and check that the others are there.

    Args:
        kind: see `parse`.
        words: see `parse`.
        prog: see `parse`.
        examples: see `parse`.

    Returns:
        Values by field, None for options that build a class, and the words of those.

    Raises:
        InputError: classes that a config may not build, or words that do not parse.
        SystemExit: see `parse`.
    """
    check_command_line(words)
    rest, plain = split_words(words, [each.name for each in class_fields(kind)])
    parser = build_parser(kind, prog, examples)
    # stand-ins of the options that build a class only say that there is one
    known = parser.format_usage().replace("[", " ").split()
    names = {word.partition("=")[0].replace(".class_path", "") for word in rest}
    stand_ins = [name for name in names if name.startswith("--") and name in known]
    for option, _, key in (name.partition(".") for name in sorted(names - {*known})):
        root = f"{option}.root"
        if root in known and root not in names and (meant(key, ["root"]) or nearest(key, ["root"])):
            raise UsageError(f"there is no option {option}.{key}; did you mean {root}?")
    given = parser.parse_args([*plain, *(f"{name}=given" for name in stand_ins)])
    found = parser.instantiate_classes(given)
    values = {}
    for each in dataclasses.fields(kind):
        value = found[each.name]
        if each.metadata.get("subclass"):
            value = None
        elif get_origin(each.type) is tuple:
            value = tuple(value)
        if not (each.metadata.get("positional") and value is None):
            values[each.name] = value  # else the field has a default: jsonargparse allows none here
    return values, rest


def call(
    function: Callable[..., Returned], words: Sequence[str], prog: str, examples: str = ""
) -> Returned:
    """Call a function with a command line: its parameters are the options, its docstring the help.

    Raises:
        InputError: by the function.
        SystemExit: as in `parse`.
    """
    fields: list[Any] = []
    for name, each in inspect.signature(function).parameters.items():
        required = each.default is each.empty
        more = () if required else (dataclasses.field(default=each.default),)
        fields.append((name, each.annotation, *more))
    kind = dataclasses.make_dataclass("Options", fields)
    kind.__doc__ = function.__doc__
    return function(**vars(parse(kind, words, prog, examples)))


def build_parser(kind: type, prog: str, examples: str = "") -> ArgumentParser:
    """Return the parser of a dataclass, with stand-ins for options that build a class."""
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
    for each in dataclasses.fields(kind):
        _add(parser, each, texts.get(each.name) or "")
    return parser


def class_fields(kind: type) -> list[dataclasses.Field]:
    """Return the fields of a dataclass that are built from a class_path."""
    return [each for each in dataclasses.fields(kind) if each.metadata.get("subclass")]


def class_parser(kind: type, prog: str) -> ArgumentParser:
    """Return the parser of the options that build a class; imports the classes."""
    parser = ClassParser(prog=prog, allow_abbrev=False)
    for each in class_fields(kind):
        base: Any = pydoc.locate(each.metadata["subclass"])
        skip = each.metadata.get("skip")
        parser.add_subclass_arguments(base, each.name, required=False, skip=skip)
    return parser


def split_words(words: Sequence[str], names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the words of some options, `--NAME` and `--NAME.KEY`, and all others, in their order.

    Each of the options takes one value.
    """
    chosen: list[str] = []
    others: list[str] = []
    names, words = set(names), list(words)
    while words:
        word = words.pop(0)
        option, equals, _ = word.partition("=")
        if option.startswith("--") and option[2:].partition(".")[0] in names:
            chosen.append(word)
            if not equals and words and not words[0].startswith("--"):
                chosen.append(words.pop(0))
        else:
            others.append(word)
    return chosen, others


def _with_class(words: list[str], option: str) -> list[str]:
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


def _add(parser: ArgumentParser, field: dataclasses.Field, text: str) -> None:
    hint, made, option = field.type, field.default_factory, f"--{field.name.replace('_', '-')}"
    default = field.default if made is dataclasses.MISSING else made()
    required = default is dataclasses.MISSING
    if field.metadata.get("subclass"):
        dataset = field.metadata.get("dataset", False)
        metavar = field.metadata.get("metavar", "CLASS")
        more: dict[str, Any] = {"help": text, "metavar": metavar}
        parser.add_argument(option, required=required and not dataset, **more)
        if dataset:
            text = f"its folder; {option}.help CLASS shows the other options of a dataset"
            more = {"help": text, "metavar": "DIR", "required": required}
            parser.add_argument(f"{option}.root", dest=f"{field.name}_root", **more)
        return
    more = {"type": hint, "help": text}
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
    if hint is bool and default is False:
        parser.add_argument(option, action="store_true", help=text)
    else:
        more |= {"required": True} if required else {"default": default}
        parser.add_argument(option, **more)
