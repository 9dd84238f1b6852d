"""Cityscapes fine annotations (arXiv:1604.01685; labels.py of the authors' scripts)."""

from functools import cached_property

from torchvision.datasets import Cityscapes as TorchvisionCityscapes

from vitlab.data.datamodule import VisionDataModule
from vitlab.data.samples import Samples, masked_samples
from vitlab.data.storage import Layout, OfficialArchive

# class of each labelId that is evaluated; the order gives the train id
LABEL_IDS = {row.id: row.name for row in TorchvisionCityscapes.classes if not row.ignore_in_eval}
IMAGE = "_leftImg8bit.png"
LABEL_MASK, TRAIN_MASK = "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"


class Cityscapes(VisionDataModule):
    """2,975 training and 500 validation street scenes with masks of 19 classes.

    Mask files hold labelIds (0 to 33, and 255 for the license plate's -1); here train ids. Where
    only the labelTrainIds lie that the authors' scripts make, those are read. The masks of the
    test split are dummies, so it is no split here.
    """

    counts = {"train": 2975, "val": 500}  # noqa: RUF012
    layout = Layout(
        marks=("leftImg8bit", "gtFine"),
        nested=("", "cityscapes"),
        archives=(
            OfficialArchive("leftImg8bit_trainvaltest.zip", holds="leftImg8bit"),
            OfficialArchive("gtFine_trainvaltest.zip", holds="gtFine"),
        ),
    )
    classes = tuple(LABEL_IDS.values())

    @property
    def mask_values(self) -> dict[int, int]:
        """Train id of each value; the 15 labelIds that are not evaluated are ignored."""
        if self.mask_ending == TRAIN_MASK:
            return {index: index for index in range(len(LABEL_IDS))} | {255: 255}
        void = dict.fromkeys([*range(34), 255], 255)
        return void | {value: index for index, value in enumerate(LABEL_IDS)}

    @cached_property
    def mask_ending(self) -> str:
        """How the names of the masks end: labelIds unless there are none."""
        for split in ("train", "val"):
            for city in self.files.folders(f"gtFine/{split}"):
                names = self.files.names(f"gtFine/{split}/{city}")
                for ending in (LABEL_MASK, TRAIN_MASK):
                    if any(name.endswith(ending) for name in names):
                        return ending
        return LABEL_MASK

    def implausible(self, values: set[int]) -> str:
        """255 is a license plate in labelIds, so a car (26) or the like comes with it."""
        if self.mask_ending == LABEL_MASK and 255 in values and max(values - {255}, default=0) < 19:
            return (
                "is called labelIds but holds train ids (0-18, 255); name such masks "
                "*_gtFine_labelTrainIds.png, or restore the original ones"
            )
        return ""

    def scan(self, split: str) -> Samples:
        """All images of the split's cities."""
        folder = f"leftImg8bit/{split}"
        scenes = [
            f"{city}/{name.removesuffix(IMAGE)}"
            for city in self.files.require(folder).folders
            for name in self.files.images(f"{folder}/{city}")
            if name.endswith(IMAGE)
        ]
        masks = [f"gtFine/{split}/{scene}{self.mask_ending}" for scene in scenes]
        images = [f"{folder}/{scene}{IMAGE}" for scene in scenes]
        return masked_samples(self.files, images, masks, restore="extract the archive again")
