"""Numbers that others published. They are shown beside ours, never among them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import yaml

import vitlab
from vitlab.evaluation.result import Result

PUBLISHED = Path(vitlab.__file__).parents[1] / "configs/protocols/references.yaml"
LABEL = "published (not ours)"


@dataclass(frozen=True)
class Reference:
    """One published number.

    Attributes:
        protocol: ours that follows the one it was published under.
        dataset: class of its data.
        images: that it is scored on.
        learned: images that its head was learned from; 0 where the source does not say.
        model: as published.
        percent: its value.
        conditions: what else the source says of the protocol.
        source: where it was published.
    """

    protocol: str
    dataset: str
    images: int
    learned: int
    model: str
    percent: float
    conditions: str
    source: str

    def fits(self, result: Result) -> bool:
        """Whether a result was made as published: same protocol, unchanged, on as many images."""
        data = result.data
        return (
            (self.protocol, self.dataset) == (result.protocol.name, data.dataset)
            and not result.protocol.changed
            and data.counts.get(data.val) == self.images
            and self.learned in (0, data.counts.get(data.train))
        )


def read_references(path: Path = PUBLISHED) -> list[Reference]:
    """Read published numbers.

    Raises:
        ValueError: there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise ValueError(
            f"there is no {path}: published numbers come with a clone of vitlab, not with the "
            "installed package; leave out --references, or install a clone with pip install -e"
        )
    try:
        groups = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(groups, list):
        raise ValueError(f"{path} is no list of published numbers")
    return [each for group in groups for each in _references(group, path)]


def _references(group: object, path: Path) -> list[Reference]:
    """Return the numbers of a group that share everything but model and value."""
    shared = {each.name for each in fields(Reference)} - {"model", "percent"}
    optional = {"learned": 0, "conditions": ""}
    if isinstance(group, Mapping):
        given = {**optional, **group}
        models = given.pop("models", None)
        if set(given) == shared and isinstance(models, Mapping):
            try:
                return [
                    Reference(**given, model=str(m), percent=float(v)) for m, v in models.items()
                ]
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}: {error} among {dict(models)}") from error
    raise ValueError(
        f"{path}: a group of published numbers has {', '.join(sorted(shared))} and models (percent "
        f"by model), not {group}"
    )
