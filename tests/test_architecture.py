"""Rules that keep the code base readable, checked on its source."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vitlab"
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {".".join(f.relative_to(PACKAGE.parent).with_suffix("").parts): f for f in FILES}

# what each part may import of vitlab besides itself
ARROWS = {
    "errors": set(),
    "optim": set(),
    "distributed": set(),
    "atomic_io": {"errors"},
    "memory": set(),
    "rng": set(),
    "config_safety": set(),
    "cluster": {"atomic_io"},
    "signals": set(),
    "data": {"rng", "signals", "atomic_io", "errors"},
    "encoders": {"optim", "distributed"},
    "objectives": {"optim", "distributed", "rng", "encoders", "data"},
    "probes": {"optim", "distributed", "encoders", "data"},
    "analysis": {"optim", "distributed", "atomic_io", "memory"}
    | {"encoders", "objectives", "probes", "data", "pictures"},
    "pictures": {"atomic_io", "encoders", "probes", "data"},
    "evaluation": {"optim", "distributed", "atomic_io", "config_safety"}
    | {"encoders", "probes", "data", "pictures"},
    "timm": {"encoders"},
    "callbacks": {
        "schedules",
        "distributed",
        "atomic_io",
        "config_safety",
        "errors",
        "signals",
        "cluster",
    }
    | {"encoders", "objectives", "probes", "data", "pictures", "analysis", "optim"}
    | {"training", "visualization"},
    "training": {
        "optim",
        "distributed",
        "atomic_io",
        "memory",
        "config_safety",
        "signals",
        "cluster",
    }
    | {"encoders", "objectives", "probes", "data", "evaluation", "pictures", "analysis"}
    | {"callbacks"},
}
LIGHTNING = {"lightning", "pytorch_lightning", "jsonargparse"}
AT_THE_RIM = {"data/module.py", "data/loader.py", "commands/functions.py", "commands/parser.py"}
AT_THE_RIM |= {"commands/analyze.py", "commands/replay.py"}
AT_THE_RIM |= {"evaluation/command.py", "evaluation/words.py", "config_safety.py"}
CITED = [
    "encoders/vit",
    "encoders/entmax/operator",
    "encoders/locality",
    "encoders/cls_specialization",
]
CITED += ["objectives/dino", "objectives/dino_head"]
CITED += ["encoders/prompts", "encoders/prompted_vit", "objectives/prompt_tuning"]


def name(file):
    return str(file.relative_to(PACKAGE))


def part(module):
    """Return the part of vitlab a module belongs to: vitlab.data.decode is of data."""
    package, own = [*module.split("."), "", ""][:2]
    return own if package == "vitlab" else ""


def imports(file):
    """Return the full names of what a file imports, of modules where it names them."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(file)} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def parts_imported(file):
    return {part(module) for module in imports(file) if module.startswith("vitlab.")}


@pytest.mark.parametrize("file", FILES, ids=name)
def test_imports_follow_the_arrows(file):
    own = file.relative_to(PACKAGE).with_suffix("").parts[0]
    if own in ARROWS:
        allowed = ARROWS[own] | {own, "errors"}
        assert parts_imported(file) <= allowed


@pytest.mark.parametrize("file", FILES, ids=name)
def test_nothing_imports_the_command(file):
    if file.stem != "__main__":
        assert "cli" not in parts_imported(file)
    if file.parent.name != "commands":
        assert "commands" not in parts_imported(file)


@pytest.mark.parametrize("file", sorted(PACKAGE.glob("objectives/*.py")), ids=name)
def test_objectives_see_nothing_of_the_data_but_the_batch(file):
    of_data = {module for module in imports(file) if module.startswith("vitlab.data.")}
    assert of_data <= {"vitlab.data.batch.Batch"}


@pytest.mark.parametrize("file", FILES, ids=name)
def test_lightning_stays_at_the_rim(file):
    at_the_rim = name(file) in AT_THE_RIM or file.parent.name in ("training", "callbacks")
    if not at_the_rim:
        assert not {module.split(".")[0] for module in imports(file)} & LIGHTNING


@pytest.mark.parametrize("file", FILES, ids=name)
def test_a_file_is_one_idea(file):
    assert len(file.read_text().splitlines()) <= 300


@pytest.mark.parametrize("file", FILES, ids=name)
def test_a_function_fits_on_a_screen(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name


@pytest.mark.parametrize("path", CITED)
def test_a_method_of_a_paper_cites_it(path):
    source = (PACKAGE / path).with_suffix(".py").read_text()
    documentation = [
        ast.get_docstring(node) or ""
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    ]
    assert "arXiv:" in " ".join(documentation)


@pytest.mark.parametrize("folder", ["encoders", "objectives"])
def test_files_with_shapes_can_be_checked(folder):
    """The shape checker cannot read annotations that are postponed to strings."""
    for file in PACKAGE.glob(f"{folder}/*.py"):
        assert "__future__.annotations" not in imports(file), name(file)
