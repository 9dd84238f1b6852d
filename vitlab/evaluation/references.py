"""Published numbers of others; they are shown next to ours, never among them."""

from pathlib import Path

import pandas as pd
import yaml

from vitlab.config_files import REFERENCES


def read_references(path: Path = REFERENCES) -> pd.DataFrame:
    """Read published numbers.

    Returns:
        A row for each: our `protocol` that follows the one it was published under, `dataset`,
        number of test `images`, number of training images `learned` from (0 where the source does
        not say), `model`, `percent`, `conditions` that the source adds, and `source`.

    Raises:
        OSError: there is no such file.
    """
    rows = []
    for group in yaml.safe_load(path.read_text("utf-8")):
        common = {"learned": 0, "conditions": "", **group}
        rows += [
            {**common, "model": str(model), "percent": float(percent)}
            for model, percent in common.pop("models").items()
        ]
    return pd.DataFrame(rows)
