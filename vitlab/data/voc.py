"""PASCAL VOC 2012 segmentation (Everingham et al., host.robots.ox.ac.uk/pascal/VOC/voc2012)."""

from vitlab.data.layout import Layout, require_all
from vitlab.data.module import Data
from vitlab.data.samples import DataError, Samples, paths


class VOC2012(Data):
    """1,464 training and 1,449 validation images with masks of 21 classes.

    Mask files hold the class index itself, behind a palette; 255 marks borders and hard objects.
    """

    layout = Layout(
        marks=("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"),
        nested=("", "VOC2012", "VOCdevkit/VOC2012"),
    )
    splits = ("train", "val", "trainval")
    classes = (
        "background",
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "dining table",
        "dog",
        "horse",
        "motorbike",
        "person",
        "potted plant",
        "sheep",
        "sofa",
        "train",
        "tv/monitor",
    )
    ignore = 255

    @property
    def mask_values(self) -> dict[int, int]:
        """Classes as they are, and void."""
        return {index: index for index in range(21)} | {255: 255}

    def scan(self, split: str) -> Samples:
        """Files named in the split's list."""
        list_file = self.folder / f"ImageSets/Segmentation/{split}.txt"
        if not list_file.is_file():
            raise DataError(f"there is no {list_file}; extract VOCtrainval_11-May-2012.tar again")
        names = list_file.read_text().split()
        images = [f"JPEGImages/{name}.jpg" for name in names]
        masks = [f"SegmentationClass/{name}.png" for name in names]
        require_all(images, self.folder, "images")
        require_all(masks, self.folder, "masks")
        return Samples(self.folder, paths(images), masks=paths(masks))
