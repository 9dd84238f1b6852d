"""The configs that come with vitlab, found by name in a clone and in an installed package."""

from collections.abc import Sequence
from pathlib import Path

from vitlab.errors import InputError, did_you_mean

_HERE = Path(__file__).parent
# an installed package has them inside, a clone beside the package
CONFIGS = next(each for each in (_HERE / "configs", _HERE.parent / "configs") if each.is_dir())
REFERENCES = CONFIGS / "protocols/references.yaml"  # published numbers, no config


def config_names() -> dict[str, Path]:
    """Return the file of each config by its name: dino_entmax, hardware/gpu_1, protocols/knn."""
    files = sorted(CONFIGS.rglob("*.yaml"), key=lambda file: (file.parent, file.stem))
    names = {file.relative_to(CONFIGS).with_suffix("").as_posix(): file for file in files}
    return {name: file for name, file in names.items() if file != REFERENCES}


def find_config(name: str) -> Path:
    """Return a file by its path, or a config that comes with vitlab by its name.

    Args:
        name: path of a YAML file; or dino_entmax, hardware/gpu_1, configs/dino_entmax.yaml.

    Raises:
        InputError: neither; the nearest names are shown.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    known = config_names()
    short = name.removeprefix("configs/").removesuffix(".yaml")
    if short in known:
        return known[short]
    raise InputError(
        f"there is no config {name}; {did_you_mean(short, known)}`vitlab configs` lists "
        "those that come with vitlab; for one of your own give the path of its YAML file",
        field="--config",
    )


def protocol_names() -> dict[str, Path]:
    """Return the file of each protocol of `vitlab evaluate` by its name."""
    files = sorted((CONFIGS / "protocols").glob("*.yaml"))
    return {file.stem: file for file in files if file != REFERENCES}


def find_protocol(name: str) -> Path:
    """Return the file of a protocol by its name, or by the path of a YAML file.

    Raises:
        InputError: an unknown name; the nearest ones are shown.
    """
    known = protocol_names()
    name = name.removeprefix("protocols/")
    if name in known or name.endswith((".yaml", ".yml")) or "/" in name:
        return known.get(name, Path(name))
    raise InputError(
        f"protocol {name!r} is unknown; {did_you_mean(name, known)}The protocols are "
        f"{', '.join(known)}",
        field="--protocol",
    )


def resolve_configs(words: Sequence[str]) -> list[str]:
    """Return a command line with a path for the name of each `--config`.

    Raises:
        InputError: there is no such config.
    """
    found = list(words)
    for place, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option in ("--config", "-c") and equals:
            found[place] = f"{option}={find_config(value)}"
        elif option in ("--config", "-c") and place + 1 < len(words):
            found[place + 1] = str(find_config(words[place + 1]))
    return found
