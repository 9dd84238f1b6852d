"""Cityscapes fine annotations (arXiv:1604.01685; labels.py of the authors' scripts)."""

from vitlab.data.layout import Layout, image_names, require_all, subfolders
from vitlab.data.module import Data
from vitlab.data.samples import DataError, Samples, paths

# class of each labelId that is evaluated; the order gives the train id
LABEL_IDS = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
IMAGE, MASK = "_leftImg8bit.png", "_gtFine_labelIds.png"


class Cityscapes(Data):
    """2,975 training and 500 validation street scenes with masks of 19 classes.

    Mask files hold labelIds (0 to 33, and 255 for the license plate's -1); here train ids.
    """

    layout = Layout(marks=("leftImg8bit", "gtFine"), nested=("", "cityscapes"))
    classes = tuple(LABEL_IDS.values())
    ignore = 255

    @property
    def mask_values(self) -> dict[int, int]:
        """Train id of each labelId; the 15 that are not evaluated are ignored."""
        void = dict.fromkeys([*range(34), 255], 255)
        return void | {value: index for index, value in enumerate(LABEL_IDS)}

    def samples(self, split: str) -> Samples:
        """The files of a split, listed once; the test split has only dummy masks."""
        if split == "test":
            raise DataError(
                "the masks of Cityscapes' test split are dummies, scores on them mean nothing; "
                "use train or val"
            )
        return super().samples(split)

    def scan(self, split: str) -> Samples:
        """All images of the split's cities."""
        folder = self.folder / "leftImg8bit" / split
        scenes = [
            f"{city}/{name.removesuffix(IMAGE)}"
            for city in subfolders(folder)
            for name in image_names(folder / city)
            if name.endswith(IMAGE)
        ]
        masks = [f"gtFine/{split}/{scene}{MASK}" for scene in scenes]
        require_all(masks, self.folder, "masks")
        images = [f"leftImg8bit/{split}/{scene}{IMAGE}" for scene in scenes]
        return Samples(self.folder, paths(images), masks=paths(masks))
