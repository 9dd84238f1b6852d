"""Options of `vitlab measure`, which are read without torch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vitlab.errors import InputError

if TYPE_CHECKING:
    from vitlab.data import VisionDataModule

# arguments of `OnlineProbes` that may differ from the run's
PROBING = ("images", "dense_images", "size", "dense_size", "batch_size", "num_workers")


@dataclass(frozen=True)
class MeasureOptions:
    """Measure the checkpoints of runs with the probes that `vitlab fit` runs online.

    Measured are k-NN and linear accuracy, mIoU, and statistics of the patches (diffusion index,
    cosines, rank). Of a checkpoint with the run's own settings, the numbers are the same to the
    digit. `vitlab curves` draws the result like a run. Stopped, the same command continues.

    Args:
        checkpoints: runs, folders of checkpoints, or files, which are one curve for each folder
        out: folder to write; by default measured/ARM/SEED for each run
        data: class of the labeled images, by default that of the run; with --data.root their folder
        dense: segmentation sets NAME=ROOT, in place of the run's; each is a curve miou/NAME
        images: labeled images to fit k-NN and linear probes to, as many of each class; 0 for all
        dense_images: images to fit each dense probe to; 0 for all
        size: pixels of the image edge for k-NN and linear probes
        dense_size: pixels of the image edge for dense probes
        batch_size: images of one forward pass
        num_workers: processes that decode images
        family: of the weights, see vitlab import --help
        which: student, teacher ...; by default the one that the run evaluates
        precision: of forward passes, such as 32-true; by default the run's
        device: auto is a GPU where there is one
        dry_run: check everything, print the plan and stop
    """

    checkpoints: list[Path] = field(metadata={"positional": True})
    out: Path | None = None
    data: "VisionDataModule | None" = field(
        default=None, metadata={"subclass": "vitlab.data.VisionDataModule", "dataset": True}
    )
    dense: list[str] = field(default_factory=list)
    images: int | None = None
    dense_images: int | None = None
    size: int | None = None
    dense_size: int | None = None
    batch_size: int | None = None
    num_workers: int | None = None
    family: str = "auto"
    which: str = ""
    precision: str = ""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dry_run: bool = False

    def __post_init__(self) -> None:
        for word in self.dense:
            if not all(word.partition("=")):
                raise InputError(
                    f"--dense {word} is not NAME=ROOT, such as voc2012=/data/VOC", field="--dense"
                )

    @property
    def probing(self) -> dict[str, int]:
        """Arguments of the probes that are given."""
        given = {name: getattr(self, name) for name in PROBING}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def as_run(self) -> bool:
        """Whether everything is measured as by the run itself."""
        sources = self.probing or self.data or self.dense
        return not (sources or self.precision or self.which) and self.family == "auto"
