"""`vitlab analyze`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vitlab.commands.parser import DATASET, parse
from vitlab.commands.weights_option import WeightsOptions
from vitlab.errors import InputError, check_least

if TYPE_CHECKING:
    from vitlab.data import VisionDataModule

EXAMPLES = """\
examples:
  vitlab analyze --weights runs/dino/seed0/best.ckpt runs/dino_entmax/seed0/best.ckpt \\
      --which teacher --labels softmax entmax --data.root /data/VOCdevkit --out analysis
  vitlab analyze --weights dino_deitsmall16_pretrain.pth --family dino \\
      --data.root /data/imagenet --images 1000 --out analysis
  vitlab analyze --weights runs/dino/seed0/last.ckpt runs/dino/seed0/last.ckpt \\
      --which teacher student --photographs my_photographs --size 512 --out analysis
  vitlab analyze --weights best.ckpt untrained:configs/dino.yaml --which teacher \\
      --data ADE20K --data.root /data/ADEChallengeData2016 --foreground person car --out analysis
"""


@dataclass(frozen=True, kw_only=True)
class AnalyzeOptions(WeightsOptions):
    """Measure encoders side by side, and write a report that opens in any browser, JSON and CSV.

    Cosines of [CLS] and patches at every point of every block, reach and sparsity of attention,
    tokens of high norm, alignment with the foreground, feature rank: means over images with 95 %
    intervals. docs/analysis.md defines each number.

    Args:
        out: folder to write
        data: dataset of the images; recognized where only --data.root is given
        photographs: a folder of photographs, or one photograph, in place of a dataset
        split: of the dataset; its val_split by default
        foreground: classes that are objects; by default all but the one called background
        images: at most so many; 0 for all
        size: pixels of the center crop of images whose short side is size / 0.875
        batch_size: images of a forward pass; fewer where attention needs memory
        num_workers: processes that decode images
        precision: of forward passes
        probe: segmentation dataset, for the mIoU of a linear probe on each block, which takes two
            more passes over both splits; recognized where only --probe.root is given
        probe_images: training images of the probe; 0 for all
        dry_run: check everything, print the plan and stop
    """

    out: Path
    data: "VisionDataModule | None" = field(default=None, metadata=DATASET)
    photographs: Path | None = None
    split: str = ""
    foreground: list[str] = field(default_factory=list)
    images: int = 1000
    size: int = 224
    batch_size: int = 32
    num_workers: int = 2
    precision: Literal["fp32", "bf16"] = "fp32"
    probe: "VisionDataModule | None" = field(default=None, metadata=DATASET)
    probe_images: int = 0
    dry_run: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        least = {"images": 0, "size": 1, "batch_size": 1, "num_workers": 0, "probe_images": 0}
        check_least(self, "--", least)
        if (self.data is None) == (self.photographs is None):
            raise InputError(
                "give the images: a dataset as --data.root DIR, or --photographs with a folder or "
                "a file",
                field="--data",
            )
        _check_folder(self.out, self.overwrite)


def run(words: Sequence[str]) -> None:
    """Analyze encoders.

    Raises:
        InputError: options, weights or data that cannot be used, before anything is measured.
    """
    options = parse(AnalyzeOptions, words, "vitlab analyze", EXAMPLES)
    from vitlab.commands.run_analyze import write_analysis

    write_analysis(options)


def _check_folder(folder: Path, overwrite: bool) -> None:
    """Refuse a folder with other files, with an analysis to keep, or that cannot be written."""
    above = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    reason = ""
    if not (above.is_dir() and os.access(above, os.W_OK)):
        reason = f"cannot be written in {above}; name another folder"
    elif above == folder and any(folder.iterdir()):
        from vitlab.analysis.results import JSON

        if not (folder / JSON).is_file():
            reason = "holds other files; name a new folder"
        elif not overwrite:
            reason = "holds an analysis; choose another folder, or --overwrite"
    if reason:
        raise InputError(f"--out {folder} {reason}", field="--out")
