"""Pages read from the code: the keys of `vitlab fit`, the verbs, the classes of configs."""

import inspect
import pydoc
import re
from collections.abc import Collection, Iterator

from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser

from vitlab.cli import VERBS, main
from vitlab.config_safety import ClassesOnly, ClassParser
from vitlab.run.trainer_checks import OPTIONS as REFUSED
from vitlab.training.suggestions import SECTIONS
from vitlab.usage_errors import subclasses

# what the configs of fit and of evaluate build
BASES = {
    "Objectives": "vitlab.objectives.Objective",
    "Encoders": "vitlab.encoders.Encoder",
    "Datasets": "vitlab.data.VisionDataModule",
    "Transforms": "vitlab.data.Transform",
    "Protocols": "vitlab.evaluation.protocols.Protocol",
    "Probes": "vitlab.probes.Probe",
}
HELPS = ("help", "print_config", "print_shtab")
PARAGRAPH = re.compile(r"\n\s*\n")


def commands() -> str:
    """Return the page of all verbs with their options."""
    parts = ["# Commands", "`vitlab --help` lists them, `vitlab VERB --help` shows one."]
    for verb, (_, summary) in VERBS.items():
        parts += [f"## vitlab {verb}"]
        if verb == "fit":
            text = "Its options are [the keys of a config](fit.md), with a dot between their parts"
            parts += [f"{summary[0].upper()}{summary[1:]}. {text}."]
            continue
        parser = parser_of(verb)
        parts += [prose(parser.description or ""), *table("option", parser)]
        if parser.epilog:
            parts += [f"```sh\n{parser.epilog.replace('examples:', '').strip(chr(10))}\n```"]
    return "\n\n".join(parts) + "\n"


def fit_keys() -> str:
    """Return the page of the keys of a config of `vitlab fit`, by section."""
    parser = parser_of("fit")
    text = """Keys of a config, which are options of the command line as well:
`trainer: {max_epochs: 100}` is `--trainer.max_epochs 100`. Where a class is chosen
(`class_path`), its arguments (`init_args`) are those of [its class](classes.md), and the command
line has them without `init_args`: `--model.objective.encoder.num_registers 4`. `run_dir`,
`dry_run` and `allow_changes` are `--run-dir`, `--dry-run` and `--allow-changes` there."""
    sections: dict[str, list[str]] = {"The run": []}
    for key in (action.dest for action in parser._actions):
        top = key.partition(".")[0]
        sections.setdefault(top if top in SECTIONS or "." in key else "The run", []).append(key)
    parts = ["# Keys of a config", text]
    for title, keys in sorted(sections.items(), key=lambda each: each[0] == "trainer"):
        parts += [f"## {title}", *table("key", parser, keys)]
    return "\n\n".join(parts) + "\n"


def classes() -> str:
    """Return the page of the classes that a config may name, with their arguments."""
    parts = ["# Classes", "What a `class_path` of a config can name, and its `init_args`."]
    for title, path in BASES.items():
        base = pydoc.locate(path)
        found = {kind.__name__: kind for kind in subclasses(base) if not inspect.isabstract(kind)}
        parts += [f"## {title}"]
        for name, kind in sorted(found.items()):
            if not kind.__module__.startswith("vitlab.") or ".analysis." in kind.__module__:
                continue
            parser = ClassParser(exit_on_error=False)
            parser.add_class_arguments(kind)
            page = parse_docstring(kind.__doc__ or "")
            text = "\n\n".join(filter(None, [page.short_description, page.long_description]))
            parts += [f"### {name}", prose(text), *table("argument", parser)]
    return "\n\n".join(parts) + "\n"


def parser_of(verb: str) -> ArgumentParser:
    """Return the parser whose help a verb prints."""
    found: list[ArgumentParser] = []
    ClassesOnly.print_help = lambda self, *args, **options: found.append(self)
    try:
        main([*verb.split(), "--help"])
    except SystemExit:
        pass
    finally:
        del ClassesOnly.print_help
    return found[0]


def table(title: str, parser: ArgumentParser, keys: Collection[str] = ()) -> Iterator[str]:
    """Yield the table of a parser's options, or of some of them, if there are any."""
    rows, defaults = [f"| {title} | |\n|---|---|"], parser.get_defaults(skip_validation=True)
    for action in parser._actions:
        name, kind = action.dest, getattr(action, "_typehint", action.type)
        # of no use here: help, files of sections, completion of shells
        known = kind is not None or action.nargs == 0 or type(action).__name__ == "_StoreAction"
        if not known or name in HELPS or name.endswith(".help") or (keys and name not in keys):
            continue
        text = cell(action.help or "")
        if name.startswith("trainer.") and (refused := REFUSED.get(name.partition(".")[2])):
            text = f"*Refused:* {cell(refused[1])}."
        value = defaults.get(name)
        default = "" if value is None else f" = `{shown(value)}`"
        default = ", required" if action.required and value is None else default
        option = (action.option_strings or [name])[0] if title == "option" else name
        rows.append(f"| `{option}`<br>{type_name(kind, action)}{default} | {text} |")
    if len(rows) > 1:
        yield "\n".join(rows)


def shown(value: object) -> str:
    """Return a default as a config has it."""
    plain = {True: "true", False: "false", "": '""'}
    if isinstance(value, bool | str):
        return plain.get(value, str(value))
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {shown(each)}' for key, each in value.items())}}}"
    return str(value)


def type_name(kind: object, action) -> str:
    """Return a type in code, without the modules of its classes."""
    if kind is None:
        return "switch" if action.nargs == 0 else f"`{action.metavar}`"
    text = kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
    text = re.sub(r"typing\.Optional\[([^\[\]]+)\]", r"\1 | None", text)
    text = re.sub(r"typing\.Union\[([^\[\]]+)\]", lambda found: found[1].replace(", ", " | "), text)
    text = re.sub(r"(?:\w+\.)+(\w+)", r"\1", text)
    text = re.sub(r"Literal\[(.*?)\]", lambda found: found[1].replace("'", ""), text)
    text = text.replace("NoneType", "null").replace("None", "null")
    for title, path in BASES.items():
        if path.endswith(f".{text.removesuffix(' | null')}"):
            return f"[`{text}`](classes.md#{title.lower()})"
    return f"`{text}`{' ...' if action.nargs in ('+', '*') else ''}"


def cell(text: str) -> str:
    """Return text for a cell of a table."""
    text = re.sub(r":\w+:`~?\.?([^`]+)`", r"`\1`", " ".join(text.split()))
    return text.replace("``", "`").replace("|", "\\|").replace("<", "&lt;")


def prose(text: str) -> str:
    """Return paragraphs of a docstring; those with columns or formulas as they are."""
    parts = PARAGRAPH.split(text.strip("\n"))
    return "\n\n".join(
        f"```text\n{part}\n```"
        if re.search(r"(?m)\S {2,}\S|^ ", part)
        else part.replace("<", "&lt;")
        for part in parts
    )
