"""Types of options, apart from the code that uses them: they are read without torch."""

from dataclasses import asdict, dataclass
from typing import Literal

from vitlab.errors import InputError

# families of weights; auto where the tensors show it
FamilyName = Literal["auto", "dino", "dinov2", "mae", "deit", "deit3", "timm", "locatvit", "vitlab"]
ExportFormat = Literal["vitlab", "timm"]
# principal components of several models: turned to those of the first, of all together, of each
Basis = Literal["aligned", "joint", "each"]


@dataclass(frozen=True)
class Amounts:
    """Number of images to draw.

    Attributes:
        imagenet_train: training images of each of the twelve classes.
        imagenet_val: validation images of each of the twelve classes.
        voc_train: images in train.txt.
        voc_val: images in val.txt.
        ade_train: images in training.
        ade_val: images in validation.
        cityscapes_train: images in train, over three cities.
        cityscapes_val: images in val, of another city.
    """

    imagenet_train: int = 120
    imagenet_val: int = 25
    voc_train: int = 300
    voc_val: int = 150
    ade_train: int = 200
    ade_val: int = 80
    cityscapes_train: int = 60
    cityscapes_val: int = 24

    def __post_init__(self) -> None:
        for name, count in asdict(self).items():
            if count < 1:
                raise InputError(
                    f"{name} is {count}; draw at least 1, so that no split is empty",
                    field=f"amounts.{name}",
                )
