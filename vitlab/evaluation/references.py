"""Published numbers of others; they are shown next to ours, never among them."""

from pathlib import Path

import pandas as pd
import yaml

import vitlab
from vitlab.errors import InputError

PUBLISHED = Path(vitlab.__file__).parents[1] / "configs/protocols/references.yaml"


def read_references(path: Path = PUBLISHED) -> pd.DataFrame:
    """Read published numbers.

    Returns:
        A row for each: our `protocol` that follows the one it was published under, `dataset`,
        number of test `images`, number of training images `learned` from (0 where the source does
        not say), `model`, `percent`, `conditions` that the source adds, and `source`.

    Raises:
        InputError: there is no such file.
    """
    if not path.is_file():
        raise InputError(
            f"there is no {path}: published numbers come with a clone of vitlab, not with the "
            "installed package; leave out --references, or install a clone with pip install -e",
            field="--references",
        )
    rows = []
    for group in yaml.safe_load(path.read_text("utf-8")):
        common = {"learned": 0, "conditions": "", **group}
        rows += [
            {**common, "model": str(model), "percent": float(percent)}
            for model, percent in common.pop("models").items()
        ]
    return pd.DataFrame(rows)
