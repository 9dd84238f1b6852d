"""Any folder of images, with class folders or with masks."""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar

from pydantic import Field

from vitlab.atomic_io import decode_json
from vitlab.data.datamodule import VisionDataModule, subclasses
from vitlab.data.errors import DataError
from vitlab.data.foreground import FOLDER
from vitlab.data.samples import Samples, class_folder_samples, mask_folder_samples
from vitlab.data.storage import Layout, few
from vitlab.data.transforms import IGNORE_INDEX
from vitlab.terminal import printable

CLASSES = "classes.json"
SPELLINGS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "dev")}

Name = Annotated[str, Field(min_length=1, max_length=200)]
MaskValue = Annotated[int, Field(ge=0, le=255)]


@dataclass(frozen=True)
class ClassNames:
    """Content of `classes.json`.

    Attributes:
        classes: name of each class, each once.
        ignore_index: the value that is ignored besides 255, or None.
        values: the value of each class in a mask; by default 0, 1, 2 and so on. 255 in it is a
            class.
    """

    classes: Annotated[list[Name], Field(min_length=1, max_length=255)]
    ignore_index: MaskValue | None = None
    values: Annotated[list[MaskValue], Field(max_length=255)] | None = None
    __pydantic_config__: ClassVar = {"extra": "forbid"}

    def __post_init__(self) -> None:
        for name in ("classes", "values"):
            each = getattr(self, name) or []
            if twice := [str(one) for one in each if each.count(one) > 1]:
                raise ValueError(f"{name} holds {few(sorted({*twice}))} more than once")
        if self.values is not None and len(self.values) != len(self.classes):
            raise ValueError(f"{len(self.values)} values for {len(self.classes)} classes")

    @property
    def by_value(self) -> dict[int, str]:
        """Name of each value that is a class, in order, without the ignored one."""
        values = range(len(self.classes)) if self.values is None else self.values
        named = zip(values, self.classes, strict=True)
        return {value: name for value, name in named if value != self.ignore_index}


class Folder(VisionDataModule):
    """Images of one's own.

    With labels: `<split>/<class>/*`, maybe with masks of their objects, see `foreground.py`. With
    masks of classes: `images/<split>/*` and `masks/<split>/<same name>.png` of class indices (or
    `<split>/images` and `<split>/masks`), and `classes.json`, see `ClassNames`. The ignored class
    gets no index: those after it move down by one. The splits train and val may also be called
    training; valid, validation, dev.
    """

    layout = Layout(marks=())  # any folder will do
    values_remedy = (
        f"if they are classes, name the value of each in {CLASSES}, such as "
        '{"classes": ["background", "object"], "values": [0, 255]}'
    )

    @property
    def dataset_name(self) -> str:
        """The name of the folder; that of a class of datasets is marked as a folder."""
        name = self.root.resolve().name or type(self).__name__
        known = name in {kind.__name__ for kind in subclasses(VisionDataModule)}
        return f"{name} (own folder)" if known else name

    @property
    def splits(self) -> tuple[str, ...]:  # type: ignore[override]
        """All folders but the masks beside class folders, those of SPELLINGS by one name."""
        return tuple(self._places)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Sorted names of the training folders, or those of `classes.json`."""
        if self.dense:
            return tuple(self._named.by_value.values())
        folder = self._places.get(self.train_split, self.train_split)
        return tuple(self.files.require(folder).folders)

    @property
    def mask_values(self) -> dict[int, int]:
        """Index of each value, in order; the ignored one, and 255 if it is no class, are void."""
        if not self.dense:
            return {}
        ignored = self._named.ignore_index
        void = {IGNORE_INDEX: IGNORE_INDEX} | ({} if ignored is None else {ignored: IGNORE_INDEX})
        return void | {value: index for index, value in enumerate(self._named.by_value)}

    @staticmethod
    def split_name(name: str) -> str:
        """The name of a split whose folder may have another spelling."""
        known = (split for split, spelled in SPELLINGS.items() if name.lower() in spelled)
        return next(known, name)

    def samples(self, split: str) -> Samples:
        """The files of a split by any of its names."""
        name = self.split_name(split)
        if name not in self._places:
            known, inside = ", ".join(self.splits) or "none", "images" if self.dense else ""
            raise DataError(
                f"{self.files.where()} has no split {split!r}; its splits are {known}, and "
                f"{self.files.where(inside)} holds {self.files.describe(inside)}; sort images into "
                "train and val, or name the splits with data.train_split and data.val_split",
                field="split",
            )
        return super().samples(name)

    def scan(self, split: str) -> Samples:
        """All images of a split."""
        place = self._places[split]
        if not self.dense:
            return class_folder_samples(self.files, place, self.classes)
        if self._layout == "<split>/images":
            masks = f"{place.removesuffix('images')}masks"
        else:
            named = {self.split_name(name): name for name in self.files.folders("masks")}
            masks = f"masks/{named.get(split) or place.removeprefix('images/')}"
        return mask_folder_samples(self.files, place, masks)

    @property
    def dense(self) -> bool:
        """Whether there are masks instead of class folders."""
        return self._layout != "class folders"

    @cached_property
    def _layout(self) -> str:
        """How images are laid out: in class folders, or with their masks."""
        folders = self.files.folders()
        if {"images", "masks"} <= {*folders}:
            return "images/<split>"
        for split in folders:
            inside = {"images", "masks"} <= {*self.files.folders(split)}
            if inside and self.split_name(split) in (*SPELLINGS, "test"):
                return "<split>/images"
        return "class folders"

    @cached_property
    def _places(self) -> dict[str, str]:
        """Folder of the images of each split."""
        match self._layout:
            case "images/<split>":
                found = [(name, f"images/{name}") for name in self.files.folders("images")]
            case "<split>/images":
                found = [(name, f"{name}/images") for name in self.files.folders()]
                found = [each for each in found if self.files.listing(each[1]) is not None]
            case _:
                found = [(name, name) for name in self.files.folders() if name != FOLDER]
        places: dict[str, str] = {}
        for name, place in found:
            other = places.setdefault(self.split_name(name), place)
            if other != place:
                raise DataError(
                    f"{self.files.where()} holds both {other} and {place}, and either could be "
                    f"{self.split_name(name)}; rename one of them"
                )
        return places

    @cached_property
    def _named(self) -> ClassNames:
        try:
            return decode_json(self.files.read(CLASSES).removeprefix(b"\xef\xbb\xbf"), ClassNames)
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(
                f"{self.files.where(CLASSES)} cannot be used ({printable(error)}); it names the "
                'classes of the masks by their values, as {"classes": ["sky", "road", "void"], '
                '"ignore_index": 2}; other values than 0, 1, 2 ... are listed as "values"',
                field=CLASSES,
            ) from error
