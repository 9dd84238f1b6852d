"""The pages of the documentation site: `python docs/site/pages.py FOLDER`, called by `make docs`.

Markdown of the repository is copied with its links turned to the site: notebooks, configs and other
files that are linked to become pages, and a link to a file that does not exist ends the build, as
the strict build does at an anchor that does not. reference.py adds what it reads from the code.
"""

import base64
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import reference

from vitlab.config_files import config_names

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CONFIGS = {path.relative_to(ROOT).as_posix(): name for name, path in config_names().items()}
PICTURES = (".png", ".svg")
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")
NAMED = re.compile(r"(?<!\[)`(configs/[\w/]+\.yaml)`")
CODE = re.compile(r"(?ms)^( *)(```+)[^\n]*\n.*?^\1\2 *$")


def main(place: Path) -> None:
    """Write the settings of the site into a folder, and all pages into one below it."""
    shutil.rmtree(place, ignore_errors=True)
    folder = place / "pages"
    folder.mkdir(parents=True)
    for name in ("iframe-worker.js", "extra.css"):
        shutil.copy(HERE / name, folder)
    patterns = ("*.md", "docs/**/*.md", "notebooks/*.ipynb")
    found = [file for pattern in patterns for file in ROOT.glob(pattern)]
    todo, written = [*CONFIGS, *(file.relative_to(ROOT).as_posix() for file in found)], set()
    while todo:
        if (source := todo.pop()) not in written:
            written.add(source)
            todo += write(source, folder / site_path(source))
    groups: dict[str, list[str]] = {}
    for source, name in CONFIGS.items():
        groups.setdefault(name.rpartition("/")[0].capitalize() or "Recipes", []).append(source)
    pages = {"fit": reference.fit_keys(), "commands": reference.commands()}
    pages |= {"classes": reference.classes(), "configs": listed(groups)}
    for name, text in pages.items():
        (folder / "reference" / f"{name}.md").write_text(text)
    nav = [f"      - {title}: [{', '.join(map(site_path, of))}]\n" for title, of in groups.items()]
    (place / "mkdocs.yml").write_text("".join([(HERE / "mkdocs.yml").read_text(), *nav]))


def site_path(source: str) -> str:
    """Return the page, or the picture, of a file of the repository."""
    path = PurePosixPath(source)
    if source in CONFIGS:
        return f"reference/configs/{CONFIGS[source]}.md"
    if path.suffix == ".md":
        path = (
            path.relative_to("docs") if path.parts[0] == "docs" else PurePosixPath(source.lower())
        )
        return "index.md" if source == "README.md" else str(path)
    if path.suffix in PICTURES:
        return path.relative_to("docs").as_posix()
    return f"{path.with_suffix('')}.md" if path.suffix == ".ipynb" else f"files/{source}.md"


def write(source: str, target: Path) -> list[str]:
    """Write the page of a file of the repository; return the files that it links to."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.endswith(PICTURES):
        shutil.copy(ROOT / source, target)
        return []
    text, linked = (ROOT / source).read_text(), []
    if source in CONFIGS:
        text = config_page(CONFIGS[source], text)
    elif source.endswith(".ipynb"):
        text = notebook_page(json.loads(text), target)
    elif not source.endswith(".md"):
        text = f"# {source}\n\n````{PurePosixPath(source).suffix[1:]}\n{text}\n````\n"
    if source.endswith((".md", ".ipynb")):
        text = outside_of_code(text, lambda line: with_links(line, PurePosixPath(source), linked))
    target.write_text(text)
    return linked


def with_links(line: str, source: PurePosixPath, linked: list[str]) -> str:
    """Return a line with the links of the site; the files that it links to are added to a list."""
    page = PurePosixPath(site_path(str(source)))

    def turned(path: str) -> str:
        if path == "configs":
            return os.path.relpath("reference/configs.md", page.parent)
        if not (ROOT / path).is_file():
            sys.exit(f"{source} links to {path}, which does not exist")
        linked.append(path)
        return os.path.relpath(site_path(path), page.parent)

    def link(found: re.Match) -> str:
        return f"]({turned(os.path.normpath(source.parent / found[1]))}{found[2] or ''})"

    def named(found: re.Match) -> str:
        return f"[{found[0]}]({turned(found[1])})" if found[1] in CONFIGS else found[0]

    line = LINK.sub(link, line)
    return line if line.startswith("#") else NAMED.sub(named, line)


def outside_of_code(text: str, change: Callable[[str], str]) -> str:
    """Return Markdown with its lines changed, but for those of code."""
    parts, place = [], 0
    for block in CODE.finditer(text):
        parts += [*map(change, text[place : block.start()].splitlines(True)), block[0]]
        place = block.end()
    return "".join([*parts, *map(change, text[place:].splitlines(True))])


def notebook_page(book: dict, target: Path) -> str:
    """Return a notebook as Markdown, and write its pictures beside the page."""
    parts = []
    for number, each in enumerate(book["cells"]):
        text = "".join(each["source"])
        parts.append(text if each["cell_type"] == "markdown" else f"```python\n{text}\n```")
        for place, output in enumerate(each.get("outputs", [])):
            data = output.get("data", {})
            if picture := data.get("image/png"):
                file = target.with_name(f"{target.stem}_{number}_{place}.png")
                file.write_bytes(base64.b64decode("".join(picture)))
                parts.append(f'<img src="{file.name}" alt="output of the cell above">')
            elif "text/markdown" in data:
                parts.append("".join(data["text/markdown"]))
            elif text := "".join(data.get("text/plain", output.get("text", ""))).rstrip():
                parts.append(f"```text\n{text}\n```")
    return "\n\n".join(parts) + "\n"


def config_page(name: str, text: str) -> str:
    """Return the page of a config: its header, whose indented lines are commands, then its YAML."""
    header, body = split_header(text)
    prose = "\n".join(re.sub(r"^  +", "    ", line) for line in header)
    # Markdown wants an empty line between text and code
    prose = re.sub(r"(?m)^(?!    )(.+)\n(?=    )", r"\1\n\n", prose)
    prose = re.sub(r"(?m)^(    .*)\n(?!    )", r"\1\n\n", prose)
    return f"# {name}\n\n{prose}\n\n```yaml\n{body}```\n"


def split_header(text: str) -> tuple[list[str], str]:
    """Return the lines of comment that a config begins with, and the rest."""
    lines = text.splitlines(True)
    count = next(place for place, line in enumerate(lines) if not line.startswith("#"))
    return [line[2:].rstrip() for line in lines[:count]], "".join(lines[count:])


def listed(groups: dict[str, list[str]]) -> str:
    """Return the page that lists all configs with the first line of each."""
    text = (
        "Each goes by its name, `--config dino --config hardware/gpu_1` or `--protocol knn`, and "
    )
    parts = ["# Configs", text + "`vitlab configs --copy NAME` gives one to edit."]
    for title, sources in groups.items():
        rows = ["| config | |", "|---|---|"]
        for source in sources:
            name, (header, _) = CONFIGS[source], split_header((ROOT / source).read_text())
            rows.append(f"| [`{name}`](configs/{name}.md) | {reference.cell(header[0])} |")
        parts += [f"## {title}", "\n".join(rows)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
