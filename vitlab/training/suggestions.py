"""Unknown keys of the command line and of configs, answered with the nearest known one."""

import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args

from jsonargparse import Namespace

from vitlab.config_files import config_names, resolve_configs
from vitlab.config_safety import check_command_line, flat, options_of, read_yaml
from vitlab.errors import InputError, did_you_mean, nearest
from vitlab.synonyms import keys_elsewhere, meant
from vitlab.usage_errors import parameters, subclasses

SECTIONS = (
    *("trainer", "model", "data", "probing", "validation", "checkpoint", "collapse_monitor"),
    "callbacks",
)
# options of fit without a section, and those that the parser adds
OPTIONS: tuple[str, ...] = ("config", "seed_everything", "synthetic", "ckpt_path")
OPTIONS += ("run-dir", "dry-run", "allow-changes")
SPELLED = {each.replace("-", "_"): each for each in (*SECTIONS, *OPTIONS)}  # by the config's key
OTHERS = tuple(each.replace("-", "_") for each in OPTIONS)
ADDED = ("c", "h", "help", "help_trainer", "print_config")
# a run has one of them
HELPS = ("-h", "--help", "--print_config")
BEGINNINGS = ("--config", "-c", *HELPS, "--model.objective")


def check_words(words: Sequence[str], others: Sequence[str] = OTHERS) -> list[str]:
    """Check what can be checked of the words behind `fit` before its classes are imported.

    Args:
        words: the command line.
        others: options without a section.

    Returns:
        The words, with a path for the name of each config.

    Raises:
        InputError: no such config, one that is no mapping or names classes from elsewhere, or keys
            of no section.
    """
    words = resolve_configs(words)
    check_command_line(words)
    known = (*SECTIONS, *others)
    problems: dict[str, str] = {}
    for top in (option[2:].partition(".")[0] for option, _ in options_of(words)):
        use = SPELLED.get(top.replace("-", "_"), top)
        problems |= {top: f"use {use}"} if use != top else {}
    keys = [key for _, key, _ in _settings(words)]
    for key in keys:
        top = key.partition(".")[0].replace("-", "_")
        if top not in (*known, *ADDED):
            use = meant(top, (*SPELLED.values(), *keys_elsewhere()))
            hint = f"{did_you_mean(top, known)}The sections are {', '.join(SECTIONS)}"
            problems[key] = f"use {use}" if use else hint
    _refuse(problems)
    if not any(word.startswith(BEGINNINGS) for word in words):
        bare = next((word for word in words if not word.startswith("-")), "dino_entmax")
        raise InputError(
            f"there is no config; give one, such as --config {bare}; `vitlab configs` lists those "
            "that come with vitlab",
            field="--config",
        )
    if not any(word.startswith(HELPS) for word in words):
        _check_recipe(words)
    return words


def _check_recipe(words: Sequence[str]) -> None:
    """Refuse what only overlays a recipe, which names the classes, without or before one."""
    settings = [(where, _short(key)) for where, key, _ in _settings(words)]
    for section in ("model.objective", "data"):
        named = {section, section.partition(".")[0]} | {f"{section}.class_path", f"{section}.help"}
        recipe = next((where for where, key in settings if key in named), "")
        early = next((where for where, key in settings if key.startswith(f"{section}.")), "")
        if not recipe and (early or section != "data"):
            raise InputError(
                f"no config names the class of {section}, so all given only overlay others; give "
                "a recipe before them, such as --config dino_entmax",
                field="--config",
            )
        order = list(dict.fromkeys(where for where, _ in settings))
        if early and order.index(early) < order.index(recipe):
            raise InputError(
                f"{early} overlays {section}, whose class only {recipe} behind it names; give "
                f"{recipe} before {early}",
                field="--config",
            )


def check_keys(words: Sequence[str], defaults: Namespace) -> None:
    """Refuse unknown keys of sections, all at once, naming the nearest of each.

    Args:
        words: the command line behind `fit`.
        defaults: of the parser; sections whose class is chosen by the config have none.

    Raises:
        InputError: an unknown key or class; the field is the key.
    """
    given = [(key, value) for _, key, value in _settings(words)]
    classes: dict[str, set[str]] = {}
    for key, value in given:
        section = _short(key.removesuffix(".class_path"))
        if _base(section) and isinstance(value, str):
            _check_class(section, value)
            classes.setdefault(section, set()).add(value)
    problems: dict[str, str] = {}
    for key, _ in given:
        parts = _short(key).split(".")
        for place in range(1, len(parts)):
            section, name = ".".join(parts[:place]), parts[place]
            names = _names(section, defaults, classes)
            if not names or name in (*names, "help", "class_path", "init_args", "dict_kwargs"):
                continue
            use = meant(name, names) or next(iter(nearest(name, names)), "")
            remedy = f"use {section}.{use}" if use else f"{section} has {', '.join(names)}"
            problems[f"{section}.{name}"] = remedy
            break
    _refuse(problems)


def _refuse(problems: dict[str, str]) -> None:
    if problems:
        text = "; ".join(f"there is no {key}; {remedy}" for key, remedy in problems.items())
        raise InputError(text, field=next(iter(problems)))


def _settings(words: Sequence[str]) -> Iterator[tuple[str, str, object]]:
    """Yield config or option, dotted key and value of each setting of a command line."""
    names = {file: name for name, file in config_names().items()}
    for option, value in options_of(words):
        if option in ("--config", "-c") and Path(value).is_file():
            content = read_yaml(Path(value))
            if not isinstance(content, dict):
                what = "is empty" if content is None else f"holds a {type(content).__name__}"
                raise InputError(
                    f"{value} {what}; a config is a mapping of sections: {', '.join(SECTIONS)}",
                    field=value,
                )
            where = f"--config {names.get(Path(value), value)}"
            yield from ((where, *each) for each in flat(content))
        elif option.startswith("--"):
            yield option, option[2:].rstrip("+"), value


def _short(key: str) -> str:
    """Return a key as the command line has it: without init_args."""
    return key.replace(".init_args", "")


def _base(section: str) -> type | None:
    """Return the base of the class that a section builds, if it is one of ours."""
    from vitlab.data import Transform, VisionDataModule
    from vitlab.encoders import Encoder
    from vitlab.objectives import Objective

    bases: dict[str, type] = {"model.objective": Objective, "data": VisionDataModule}
    inner = {"encoder": Encoder, "transform": Transform}
    return bases.get(section) or inner.get(section.rpartition(".")[2] if "." in section else "")


def _names(section: str, defaults: Namespace, classes: dict[str, set[str]]) -> list[str]:
    """Return the keys of a section; none where its class is not known here."""
    known = defaults.get(section)
    if isinstance(known, Namespace):
        return list(vars(known))
    if found := _arguments(section, classes):
        return list(found)
    outer, _, name = section.rpartition(".")
    argument = _arguments(outer, classes).get(name) if outer else None
    hints = (argument.annotation, *get_args(argument.annotation)) if argument else ()
    kinds = [each for each in hints if isinstance(each, type) and is_dataclass(each)]
    return [each.name for kind in kinds for each in fields(kind)]


def _arguments(section: str, classes: dict[str, set[str]]) -> dict[str, inspect.Parameter]:
    """Return the arguments of the classes that are named for a section, if all are ours."""
    base, names = _base(section), classes.get(section)
    if base is None:
        return {}
    known = {each.__name__: each for each in _concrete(base)}
    if names is None:  # by a config of another file, or the default
        return parameters(base) if section == "data" else {}
    short = {name.rpartition(".")[2] for name in names if name.startswith("vitlab.")}
    short |= {name for name in names if "." not in name}
    if len(short) < len(names) or not short <= {*known}:
        return {}
    return {name: each for kind in short for name, each in parameters(known[kind]).items()}


def _concrete(base: type) -> Iterable[Any]:
    found = [each for each in subclasses(base) if not inspect.isabstract(each)]
    return [each for each in found if ".analysis." not in each.__module__]


def _check_class(section: str, name: str) -> None:
    """Refuse the name of a class that does not exist; import paths are left to the parser."""
    base = _base(section)
    if base is None or not name.isidentifier():
        return
    known = {each.__name__ for each in _concrete(base)}
    if name not in known:
        raise InputError(
            f"{section}: there is no class {name}; {did_you_mean(name, known)}There are "
            f"{', '.join(sorted(known))}; name one of your own by its import path",
            field=section,
        )
