"""Any folder of images, with class folders or with masks."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from vitlab.atomic_io import decode_json
from vitlab.data.datamodule import VisionDataModule
from vitlab.data.errors import DataError
from vitlab.data.foreground import FOLDER
from vitlab.data.samples import Samples, class_folder_samples, mask_folder_samples
from vitlab.data.storage import Layout

CLASSES = "classes.json"


@dataclass(frozen=True)
class ClassNames:
    """Content of `classes.json`.

    Attributes:
        classes: name of each value of a mask.
        ignore_index: the value that is ignored, or None.
    """

    classes: list[str]
    ignore_index: int | None = None
    __pydantic_config__: ClassVar = {"extra": "forbid"}


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
        """All folders but the masks beside class folders."""
        if self.dense:
            return tuple(self.files.folders("images"))
        return tuple(name for name in self.files.folders() if name != FOLDER)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Sorted names of the training folders, or those of `classes.json`."""
        if not self.dense:
            return tuple(self.files.require(self.train_split).folders)
        named = self._named
        return tuple(name for v, name in enumerate(named.classes) if v != named.ignore_index)

    @property
    def mask_values(self) -> dict[int, int]:
        """Values in order, without the ignored one; 255 is always ignored."""
        named = self._named
        values = [v for v in range(len(named.classes)) if v != named.ignore_index]
        mapped = {value: index for index, value in enumerate(values)} | {255: 255}
        return mapped if named.ignore_index is None else mapped | {named.ignore_index: 255}

    def scan(self, split: str) -> Samples:
        """All images of a split."""
        if not self.dense:
            return class_folder_samples(self.files, split, self.classes)
        return mask_folder_samples(self.files, f"images/{split}", f"masks/{split}")

    @cached_property
    def dense(self) -> bool:
        """Whether there are masks instead of class folders."""
        return {"images", "masks"} <= set(self.files.folders())

    @cached_property
    def _named(self) -> ClassNames:
        try:
            return decode_json(self.files.read(CLASSES), ClassNames)
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(
                f"{self.files.where(CLASSES)} cannot be used ({error}); it names the classes of "
                'the masks by their values, as {"classes": ["sky", "road", "void"], '
                '"ignore_index": 2}',
                field=CLASSES,
            ) from error
