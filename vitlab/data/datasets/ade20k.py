"""ADE20K scene parsing, the 150-class benchmark (arXiv:1608.05442)."""

from functools import cached_property

from vitlab.data.datamodule import VisionDataModule
from vitlab.data.samples import Samples, mask_folder_samples
from vitlab.data.storage import Layout, OfficialArchive

FOLDERS = {"train": "training", "val": "validation"}


class ADE20K(VisionDataModule):
    """20,210 training and 2,000 validation images with masks of 150 classes.

    Mask files hold 1 to 150 for classes and 0 for everything else; here 0 to 149 and 255.
    """

    counts = {"train": 20_210, "val": 2000}  # noqa: RUF012
    num_classes = 150
    # no file holds 255, so masks reduced before are refused
    mask_values = {0: 255} | {value: value - 1 for value in range(1, 151)}
    layout = Layout(
        marks=("images/training", "images/validation", "annotations"),
        nested=("", "ADEChallengeData2016"),
        archives=(OfficialArchive("ADEChallengeData2016.zip", holds="ADEChallengeData2016"),),
    )

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """First name of each class by the dataset's own list, or its number where that lacks."""
        if not self.files.has("objectInfo150.txt"):
            return tuple(f"class {number}" for number in range(1, 151))
        rows = self.files.text("objectInfo150.txt").splitlines()[1:151]
        return tuple(row.split("\t")[-1].split(",")[0].strip() for row in rows)

    def scan(self, split: str) -> Samples:
        """All images of the split's folder."""
        place = FOLDERS[split]
        return mask_folder_samples(self.files, f"images/{place}", f"annotations/{place}")
