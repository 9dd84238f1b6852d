"""`vitlab configs`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vitlab.atomic_io import write_bytes
from vitlab.commands.parser import parse
from vitlab.config_files import CONFIGS, config_names, find_config
from vitlab.errors import InputError
from vitlab.terminal import say

EXAMPLES = """\
examples:
  vitlab configs
  vitlab configs --copy dino_entmax        # writes dino_entmax.yaml, to be edited
"""


@dataclass(frozen=True)
class ConfigsOptions:
    """List the configs that come with vitlab: recipes, overlays, protocols.

    Each is found by its name: `vitlab fit --config dino_entmax --config hardware/gpu_1`,
    `vitlab evaluate --protocol knn`. A later --config overlays an earlier one.

    Args:
        copy: name of one to copy into the current folder
    """

    copy: str = ""


def run(words: Sequence[str]) -> None:
    """List all configs, or copy one.

    Raises:
        InputError: an unknown name, or a file that is already there.
    """
    options = parse(ConfigsOptions, words, "vitlab configs", EXAMPLES)
    if options.copy:
        source = find_config(options.copy)
        copy = Path(source.name)
        if copy.exists():
            raise InputError(
                f"{copy} is already there; rename it, or copy in another folder", field="--copy"
            )
        write_bytes(copy, source.read_bytes())
        say(f"{copy} written; use it as --config {copy}")
        return
    for name, file in config_names().items():
        say(f"{name:32} {file.read_text('utf-8').partition(chr(10))[0].lstrip('# ')}")
    say(f"in {CONFIGS}; --copy NAME gives one to edit")
