"""`vitlab measure`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from vitlab.commands.device import choose_device
from vitlab.commands.parser import DATASET, POSITIONAL, parse
from vitlab.data import VisionDataModule
from vitlab.errors import InputError
from vitlab.training.checkpoint_probes import ProbeChanges, SeriesProbes
from vitlab.training.checkpoint_series import find_series

EXAMPLES = """\
examples:
  vitlab measure runs/dino/seed0
  vitlab measure runs/dino/seed* runs/dino_entmax/seed* --dense ade20k=/data/ADEChallengeData2016
  vitlab measure checkpoint0020.pth checkpoint0040.pth --family dino --which teacher \\
      --data.root /data/imagenet --images 100000 --dense voc2012=/data/VOCdevkit --out measured/dino
  vitlab curves measured/dino/seed*
"""
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

    checkpoints: list[Path] = field(metadata=POSITIONAL)
    out: Path | None = None
    data: VisionDataModule | None = field(default=None, metadata=DATASET)
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
            name, _, root = word.partition("=")
            if not (name and root):
                raise InputError(
                    f"--dense {word} is not NAME=ROOT, such as voc2012=/data/VOC", field="--dense"
                )

    def changes(self) -> ProbeChanges:
        """Return what differs from the settings of a run."""
        pairs = (word.partition("=") for word in self.dense)
        probing = {name: getattr(self, name) for name in PROBING}
        return ProbeChanges(
            self.data,
            {name: Path(root) for name, _, root in pairs},
            {name: value for name, value in probing.items() if value is not None},
            self.precision,
            self.family,
            self.which,
        )


def run(words: Sequence[str]) -> None:
    """Measure checkpoints.

    Raises:
        InputError: checkpoints, data or folders do not allow it; before anything is measured.
    """
    options = parse(MeasureOptions, words, "vitlab measure", EXAMPLES)
    device = choose_device(options.device).type
    found = find_series(options.checkpoints)
    root = options.out or Path("measured")
    folders = [root if options.out and len(found) == 1 else root / each.name for each in found]
    if len(set(folders)) < len(folders):
        raise InputError(
            "several of these runs would be written to one folder, as their folders have one "
            "name; measure them one by one, each with its --out",
            field="--out",
        )
    changes = options.changes()
    probes = [
        SeriesProbes(series, folder, changes) for series, folder in zip(found, folders, strict=True)
    ]
    console = Console()
    table = Table(title="measure", show_header=False, title_justify="left")
    for each in probes:
        each.add_rows(table)
    console.print(table)
    if not options.dry_run:
        for each in probes:
            each.show(each.measure(device, console), console)
