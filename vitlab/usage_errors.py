"""Errors of command lines in our own words: what was given, what is allowed, the nearest name."""

import inspect
import pydoc
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from textwrap import shorten
from typing import Any

from vitlab.errors import did_you_mean, nearest
from vitlab.synonyms import meant

KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "Path": "a path"}
KINDS |= {
    "NoneType": "null",
    "str": "a text",
    "list": "a list",
    "dict": "a mapping",
    "tuple": "a list",
}


def nearest_option(name: str, known: Iterable[str]) -> str:
    """Return "did you mean ...? " for an unknown option, by its meaning or its spelling.

    Args:
        name: as given, with dashes.
        known: options of the verb, with dashes.
    """
    spelled = {each.lstrip("-").replace("_", "-"): each for each in known}
    use = meant(name, spelled.values())
    near = (
        [use]
        if use
        else [spelled[each] for each in nearest(name.lstrip("-").replace("_", "-"), spelled)]
    )
    return f"did you mean {' or '.join(near)}? " if near else ""


def explain(message: str, known: Iterable[str]) -> str:
    """Return a parser's message in our own words, in one line.

    Args:
        message: of argparse or jsonargparse.
        known: options of the verb, with dashes, and names of values without an option.
    """
    known = list(known)
    keys = list(dict.fromkeys(re.findall(r'Parser key "(.+?)"', message)))
    if found := re.search(r"but ([\w.]+) is abstract", message):
        return f"{'.'.join(keys[:1])}: {_abstract(found[1])}"
    if found := re.search(r"arguments are required: (.*)", message):
        names = [_spelled(".".join([*keys, each]), known) for each in found[1].split(", ")]
        return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} missing"
    if found := re.search(r"[Uu]nrecognized arguments: (.+)", message):
        return _unknown(found[1], message, known)
    if found := re.search(r"Option '(.+)' is not accepted", message):
        return _unknown_key(found[1], keys, message)
    if found := re.search(r"argument (?:.*/)?(\S+): expected (?:at least )?one argument", message):
        return f"{_spelled(found[1], known)} needs a value"
    if found := re.search(r"argument (\S+): ignored explicit argument '?(.*?)'?$", message):
        return f"{found[1]} is a switch without a value, but {found[2]} was given"
    if found := re.search(r"argument (\S+): invalid choice: '(.*?)' \(choose from (.*)\)", message):
        choices = found[3].replace("'", "").split(", ")
        return _choices(_spelled(found[1], known), found[2], choices)
    if found := re.search(r"[Ii]mporting '([\w.]+)' is not allowed", message):
        package = found[1].partition(".")[0]
        return (
            f"{found[1]} is of no package that a config may build classes of; if you trust it, "
            f"allow it with VITLAB_ALLOW={package}"
        )
    if keys:
        return _value(_spelled(".".join(keys), known), _innermost(message))
    return _plain(message)


def _abstract(name: str) -> str:
    kind: Any = pydoc.locate(name)
    if name.startswith("vitlab."):  # the base of those that are meant
        names = sorted(each.__name__ for each in subclasses(kind) if not inspect.isabstract(each))
        return f"give the class_path of one, such as {', '.join(names)}"
    return f"{name} lacks {', '.join(sorted(kind.__abstractmethods__))}; define it there"


def reasons(message: str) -> str:
    """Return what classes themselves said, of a parser's message that one cannot be built."""
    lines = re.findall(r"^ +- (.*)$", message, re.MULTILINE)
    parsers = ("Expected ", "Not a valid subclass", "a class path", "a dict ")
    return "; ".join(line for line in lines if not line.startswith(parsers))


def parameters(kind: type) -> dict[str, inspect.Parameter]:
    """Return the arguments of a class, those that it passes on to its bases as well."""
    found: dict[str, inspect.Parameter] = {}
    for base in inspect.getmro(kind):
        if "__init__" in vars(base):
            own = inspect.signature(base.__init__).parameters  # type: ignore[misc]
            named = {
                n: p for n, p in own.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
            }
            found = {**named, **found}
            if len(named) == len(own):  # it passes nothing on
                break
    found.pop("self", None)
    return found


def subclasses(kind: type[Any]) -> list[type[Any]]:
    """Return all subclasses of a class that are imported."""
    return [each for own in kind.__subclasses__() for each in (own, *subclasses(own))]


def _spelled(name: str, known: list[str]) -> str:
    """Return an option or a value as it is typed, from its key: --batch-size, --data.root, kind."""
    name = name.lstrip("-")
    spelled = (f"--{name.replace('_', '-')}", f"--{name.replace('_', '.')}")
    used = next((each for each in spelled if each in known), "")
    return used or (f"--{name}" if "." in name else name)


def _unknown(words: str, message: str, known: list[str]) -> str:
    given = words.split()
    names = [each.partition("=")[0] for each in given if each.startswith("-")]
    if not names:
        return f"{words} belongs to no option; put its option before it, if that is not a switch"
    keys = re.findall(r'Parser key "(.+?)"', message)
    if keys and "class_path '" in message:
        return _unknown_key(names[0].lstrip("-"), keys, message)
    hints = [f"there is no option {name}; {nearest_option(name, known)}" for name in names]
    return "; ".join(each.rstrip("; ") for each in hints)


def _unknown_key(name: str, keys: Sequence[str], message: str) -> str:
    path = re.findall(r"class_path '(.+?)'", message)[-1:]
    kind = pydoc.locate(path[0]) if path else None
    own = parameters(kind) if isinstance(kind, type) else {}
    if name in own:
        return f"--{'.'.join([*keys, name])} is no option here: the verb sets it"
    hint = did_you_mean(name, own) or (f"{path[0]} has {', '.join(own)}" if own else "")
    return f"there is no option --{'.'.join([*keys, name])}; {hint}".rstrip("; ")


def _innermost(message: str) -> str:
    """Return what a message says of its last key, without the alternatives to those around it."""
    first, *rest = message[message.rindex("Parser key") :].splitlines()
    before = message[: message.rindex("Parser key")].rpartition("\n")[2]
    depth = len(before)  # of the key's line
    rest = [line for line in rest if line]
    inside = takewhile(lambda line: len(line) - len(line.lstrip()) > depth, rest)
    return "\n".join([first, *inside])


def _choices(name: str, value: str, choices: list[str]) -> str:
    alike = value.lower() if value.lower() in choices else {"gpu": "cuda"}.get(value, value)
    hint = did_you_mean(alike, choices)
    return f"{name} {value}: {hint}allowed: {', '.join(choices)}"


def _value(name: str, message: str) -> str:
    """Return the message for a value of a wrong kind, or for a class that is not there."""
    given = re.search(r"(?:Got value|Given value): (.*)", message)
    value = given[1] if given else ""
    expected = re.findall(
        r"Expected an? (<class '[\w.]+'>|typing\.Literal\[.*?\](?=\.|\n|$))", message
    )
    kinds = [_kind(each) for each in expected]
    bases = list(_bases(message))
    if found := re.search(r'Unable to load config "(.*)"', message):
        return f"{name}: give a mapping of its keys, not {shorten(value or found[1], 100)}"
    if found := re.search(r"^ *Expected a dot import path string: (.*)", message, re.MULTILINE):
        return f"{name}: there is no class {found[1]}; give the name or import path of one"
    literals = [each for kind in expected if "Literal" in kind for each in _literals(kind)]
    if len(literals) > 1 and "." not in value:
        return _choices(name, value, list(dict.fromkeys(literals)))
    if bases and ("class_path" in value or value.replace(".", "").isalnum()):
        path = re.search(r"class_path['\"]?[=:] ?'?([\w.]+)", value)
        shown = path[1] if path else value
        name = f"--{name.lstrip('-')}"
        all_of_them = (each for base in bases for each in subclasses(base))
        names = sorted({each.__name__ for each in all_of_them if not inspect.isabstract(each)})
        why = re.search(r"Problem with given class_path.*?\n\s*(.+)", message)
        if "." in shown and why:
            return f"{name}: {shown} cannot be built: {shorten(why[1], 200)}"
        kind = pydoc.locate(shown) if "." in shown else None
        if isinstance(kind, type) and issubclass(kind, tuple(bases)):
            return f"{name}: {shown} cannot be built: {reasons(message) or _plain(message)}"
        if "." in shown:
            bases_named = " or ".join(dict.fromkeys(base.__name__ for base in bases))
            return f"{name}: {shown} is no {bases_named}"
        hint = did_you_mean(shown, names)
        hint += "" if len(names) > 12 else f"there are {', '.join(names)}"
        hint = hint or "name one by its import path"
        return f"{name}: there is no class {shown}; {hint}"
    if kinds:
        return f"{name} {shorten(value, 100)}: give {' or '.join(dict.fromkeys(kinds))}"
    return _plain(message)


def _kind(text: str) -> str:
    if "Literal" in text:
        return ", ".join(_literals(text))
    name = text.rpartition(".")[2].strip("<>'") if "." in text else text[8:-2]
    return KINDS.get(name, f"a {name}")


def _literals(text: str) -> list[str]:
    return re.findall(r"[\w.+-]+", text.partition("[")[2])


def _bases(message: str) -> Iterator[type]:
    """Yield the classes that a message expects a subclass of."""
    subtypes = re.search(r"Subtypes: (.*)", message)
    for path in re.findall(r"[\w.]+\.[A-Z]\w+", subtypes[1]) if subtypes else ():
        kind = pydoc.locate(path)
        if isinstance(kind, type) and not path.startswith(("typing.", "collections.")):
            yield kind


def _plain(message: str) -> str:
    lines = [line.strip(" -") for line in message.splitlines()]
    lines = [line for line in lines if not line.startswith(("Subtypes:", "Given value type:"))]
    return shorten("; ".join(filter(None, lines)), 400)
