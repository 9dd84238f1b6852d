"""Any folder of images, with class folders or with masks."""

import json
from functools import cached_property
from typing import Any

from vitlab.data.datamodule import VisionDataModule
from vitlab.data.errors import DataError
from vitlab.data.foreground import FOLDER
from vitlab.data.samples import Samples, paths
from vitlab.data.storage import (
    Layout,
    few,
    image_names,
    list_class_folders,
    require_all,
    subfolders,
)

CLASSES = "classes.json"


class Folder(VisionDataModule):
    """Images of one's own.

    With labels: `<split>/<class>/*`, maybe with masks of their objects, see `foreground.py`. With
    masks of classes: `images/<split>/*` and `masks/<split>/<same name>.png` of class indices, and
    `classes.json` with the list "classes" and, if one value is to be ignored, "ignore_index". The
    ignored class gets no index: those after it move down by one.
    """

    layout = Layout(marks=())  # any folder will do

    @property
    def splits(self) -> tuple[str, ...]:  # type: ignore[override]
        """Whatever folders there are, but for the masks beside class folders."""
        found = subfolders(self.files, "images" if self.dense else "")
        return tuple(name for name in found if self.dense or name != FOLDER)

    @property
    def ignore(self) -> int | None:  # type: ignore[override]
        """255 where masks may hold it."""
        return 255 if self.dense else None

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Sorted names of the training folders, or those of `classes.json`."""
        if not self.dense:
            return tuple(subfolders(self.files, self.train_split))
        names = self._facts["classes"]
        return tuple(name for value, name in enumerate(names) if value != self._ignored)

    @property
    def mask_values(self) -> dict[int, int]:
        """Values in order, without the ignored one; 255 is always ignored."""
        values = [v for v in range(len(self._facts["classes"])) if v != self._ignored]
        mapped = {value: index for index, value in enumerate(values)} | {255: 255}
        return mapped if self._ignored is None else mapped | {self._ignored: 255}

    def scan(self, split: str) -> Samples:
        """All images of a split."""
        if not self.dense:
            found = list_class_folders(self.files, split, self.classes)
            return Samples(self.files, paths(found.images), found.labels)
        names = image_names(self.files, f"images/{split}")
        masks = [f"masks/{split}/{name.rpartition('.')[0]}.png" for name in names]
        require_all(masks, self.files, "masks")
        images = [f"images/{split}/{name}" for name in names]
        return Samples(self.files, paths(images), masks=paths(masks))

    @cached_property
    def dense(self) -> bool:
        """Whether there are masks instead of class folders."""
        top = self.files.listing()
        return top is not None and {"images", "masks"} <= set(top.folders)

    @property
    def _ignored(self) -> int | None:
        return self._facts.get("ignore_index")

    @cached_property
    def _facts(self) -> dict[str, Any]:
        file = self.files.where(CLASSES)
        if not self.files.has(CLASSES):
            raise DataError(
                f"there is no {file}, which names the classes of the masks; write one such as "
                '{"classes": ["sky", "road", "void"], "ignore_index": 2}'
            )
        try:
            facts = json.loads(self.files.read(CLASSES))
        except ValueError as error:
            raise DataError(f"{file} is no JSON ({error}); correct it") from error
        known = {"classes", "ignore_index"}
        if "classes" not in facts or set(facts) - known:
            raise DataError(
                f"{file} holds {few(sorted(facts))}; allowed are classes (a list of names by "
                "value) and ignore_index (a value)"
            )
        return facts
