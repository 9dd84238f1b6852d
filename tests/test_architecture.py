"""Rules that keep the package readable, checked on its source."""

import ast
import re
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import torch
from lightning.pytorch.cli import LightningCLI

PACKAGE = Path(__file__).parents[1] / "vitlab"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {file: ast.parse(file.read_text()) for file in FILES}

# modules of the package that any part may import
BASE = {"errors", "signals", "rng", "atomic_io", "distributed", "activation_memory"}
BASE |= {"config_files", "launch", "option_types", "precision", "progress", "usage_errors"}
BASE |= {"code_version", "synonyms", "terminal"}
# what each part may import besides the base and itself
ARROWS: dict[str, set[str]] = {
    **{name: set() for name in BASE},
    "config_safety": set(),
    "optim": set(),
    "data": set(),
    "encoders": {"config_safety"},
    "timm": {"encoders"},
    "objectives": {"optim", "encoders", "data"},
    "probes": {"optim", "encoders", "data"},
    "visualization": {"encoders", "data", "probes"},
    "analysis": {"optim", "encoders", "data", "objectives", "probes", "visualization"},
    "evaluation": {"config_safety", "encoders", "data", "probes", "visualization"},
    "cluster": set(),
    "run": {"config_safety", "optim", "encoders", "data", "objectives", "cluster"},
    "callbacks": {"optim", "encoders", "data", "objectives", "probes"}
    | {"visualization", "analysis", "cluster", "run"},
    "training": {"config_safety", "optim", "encoders", "data", "objectives", "probes"}
    | {"evaluation", "cluster", "run", "callbacks"},
}
ARROWS["profiling"] = ARROWS["training"] | {"training"}
ARROWS["commands"] = set(ARROWS)
ARROWS["api"] = set(ARROWS)
ARROWS["cli"] = {"commands"}

LIGHTNING = {"lightning", "pytorch_lightning", "jsonargparse"}
AT_THE_RIM = {"run", "callbacks", "training", "profiling", "commands", "config_safety.py"}
AT_THE_RIM |= {"data/datamodule.py", "data/loader.py", "api.py"}
# private names of dependencies without a public way; each has a test beside it
PRIVATE = {
    "_launch_process_observer": "run/lightning_compat.py",
    "_on_queue_feeder_error": "data/loader.py",  # of multiprocessing
    "_common": "config_safety.py",  # the settings of jsonargparse, to restore them
}
PUBLIC = {"_exit", "_replace", "_fields", "_asdict"}  # of os and of named tuples
HOOKS = {*dir(torch.nn.Module()), *dir(torch.optim.Optimizer), *dir(LightningCLI)}
CITED = ["vit", "entmax/operator", "locality", "cls_specialization", "prompts", "prompted_vit"]
CITED = [f"encoders/{name}" for name in CITED]
CITED += [f"objectives/{name}" for name in ("dino", "dino_head", "prompt_tuning")]


def name(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def part(module: str) -> str:
    """The part of vitlab that a module belongs to: vitlab.data.decode is of data."""
    package, own = [*module.split("."), "", ""][:2]
    return own if package == "vitlab" else ""


def imports(tree: ast.AST) -> set[str]:
    """Full names of all that is imported, of objects where they are imported by name."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def of_vitlab(file: Path) -> set[str]:
    return {module for module in imports(TREES[file]) if module.startswith("vitlab.")}


def test_imports_follow_the_arrows():
    wrong = []
    for file in FILES:
        own = Path(name(file)).with_suffix("").parts[0]
        if own in ("__init__", "__main__"):
            continue
        allowed = ARROWS[own] | BASE | {own}
        wrong += [f"{name(file)}: {each}" for each in of_vitlab(file) if part(each) not in allowed]
    assert not wrong, "\n".join(wrong)


def test_the_arrows_form_no_circle():
    arrows = {own: others - {own} for own, others in ARROWS.items()}
    arrows["commands"] -= {"cli"}
    tuple(TopologicalSorter(arrows).static_order())


def test_modules_that_are_imported_at_the_top_form_no_circle():
    modules = {
        ".".join(("vitlab", *Path(name(file)).with_suffix("").parts)).removesuffix(".__init__"): (
            file
        )
        for file in FILES
    }
    graph = defaultdict(set)
    for module, file in modules.items():
        for node in TREES[file].body:  # neither in functions nor under TYPE_CHECKING
            for found in imports(node) if isinstance(node, ast.Import | ast.ImportFrom) else ():
                target = found if found in modules else found.rpartition(".")[0]
                if target in modules and not module.startswith(f"{target}."):
                    graph[module].add(target)
    tuple(TopologicalSorter(graph).static_order())


def test_nothing_imports_the_command():
    for file in FILES:
        found = {part(module) for module in of_vitlab(file)}
        assert "cli" not in found or file.stem == "__main__", name(file)
        allowed = file.parent.name == "commands" or file.stem == "api"
        assert "commands" not in found or allowed, name(file)


def test_objectives_see_nothing_of_the_data_but_the_batch():
    for file in PACKAGE.glob("objectives/*.py"):
        of_data = {module for module in of_vitlab(file) if module.startswith("vitlab.data.")}
        assert of_data <= {"vitlab.data.batch.Batch"}, name(file)


def test_lightning_stays_at_the_rim():
    wrong = []
    for file in FILES:
        found = {module.split(".")[0] for module in imports(TREES[file])} & LIGHTNING
        if found and not {name(file), name(file).split("/")[0]} & AT_THE_RIM:
            wrong.append(f"{name(file)}: {', '.join(found)}")
    assert not wrong, "\n".join(wrong)


def test_files_and_functions_are_short():
    wrong = []
    for file in FILES:
        lines = len(file.read_text().splitlines())
        wrong += [f"{name(file)}: {lines} lines"] * (lines > 300)
        for node in ast.walk(TREES[file]):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno
                wrong += [f"{name(file)}: {node.name} has {length} lines"] * (length >= 60)
    assert not wrong, "\n".join(wrong)


def test_docstrings_of_modules_name_the_thing():
    opening = re.compile(r"(What|How|Which|Where|Why|Whether|When)\b")
    texts = {name(file): ast.get_docstring(TREES[file]) or "" for file in FILES}
    wrong = [file for file, text in texts.items() if not text or opening.match(text)]
    assert not wrong, "\n".join(wrong)


def test_names_of_classes_are_unique():
    places = defaultdict(list)
    for file in FILES:
        for node in TREES[file].body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(name(file))
    wrong = [f"{found}: {', '.join(files)}" for found, files in places.items() if len(files) > 1]
    assert not wrong, "\n".join(wrong)


def own_privates(tree: ast.AST) -> set[str]:
    """Private names that a file defines: functions, classes, variables, attributes, fields."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                found.add(node.name)
            case ast.Name(ctx=ast.Store()):
                found.add(node.id)
            case ast.Attribute(value=ast.Name(id="self"), ctx=ast.Store()):
                found.add(node.attr)
    return found


def test_private_names_of_dependencies_are_listed():
    wrong = set()
    for file in FILES:
        own = own_privates(TREES[file])
        for node in ast.walk(TREES[file]):
            names = []
            if isinstance(node, ast.Attribute) and node.attr not in own:
                names = [node.attr] if node.attr not in PUBLIC else []
            elif isinstance(node, ast.ImportFrom) and not node.module.startswith("vitlab"):
                names = [*node.module.split("."), *(alias.name for alias in node.names)]
            elif isinstance(node, ast.ClassDef):
                methods = (each for each in node.body if isinstance(each, ast.FunctionDef))
                names = [each.name for each in methods if each.name in HOOKS]
            private = [each for each in names if re.match(r"_[a-z]", each)]
            wrong |= {
                f"{name(file)}: {each}" for each in private if PRIVATE.get(each) != name(file)
            }
    assert not wrong, "\n".join(sorted(wrong))


def test_a_method_of_a_paper_cites_it():
    for path in CITED:
        kinds = ast.Module | ast.ClassDef | ast.FunctionDef
        nodes = [
            node for node in ast.walk(TREES[PACKAGE / f"{path}.py"]) if isinstance(node, kinds)
        ]
        text = " ".join(ast.get_docstring(node) or "" for node in nodes)
        assert "arXiv:" in text, path


def test_files_with_shapes_can_be_checked():
    """The shape checker cannot read annotations that are postponed to strings."""
    for folder in ("encoders", "objectives"):
        for file in PACKAGE.glob(f"{folder}/**/*.py"):
            assert "__future__.annotations" not in imports(TREES[file]), name(file)
