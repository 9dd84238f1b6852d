"""`vitlab analyze`."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import pandas as pd
import torch

from vitlab.analysis.analyze import NamedEncoder, analyze
from vitlab.analysis.block_miou import BLOCK_MIOU, block_miou
from vitlab.analysis.example_pictures import example_pictures
from vitlab.analysis.images import Images, find_images
from vitlab.analysis.report import headline, write_report
from vitlab.analysis.results import CSV, JSON, AnalysisResults, Row, table
from vitlab.commands.device import choose_device
from vitlab.commands.parser import DATASET, parse
from vitlab.commands.weights_option import WeightsOptions
from vitlab.data import SegmentationSquare, VisionDataModule
from vitlab.errors import InputError, check_least
from vitlab.probes import InferenceConfig

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
PICTURES = 4  # images that are drawn


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
    data: VisionDataModule | None = field(default=None, metadata=DATASET)
    photographs: Path | None = None
    split: str = ""
    foreground: list[str] = field(default_factory=list)
    images: int = 1000
    size: int = 224
    batch_size: int = 32
    num_workers: int = 2
    precision: Literal["fp32", "bf16"] = "fp32"
    probe: VisionDataModule | None = field(default=None, metadata=DATASET)
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
    source = options.data or options.photographs
    assert source is not None
    how = options.size, options.images, options.split, options.foreground
    images = find_images(source, *how)
    encoders = options.load_encoders()
    for each in encoders:
        each.encoder.check_img_size(options.size, "--size")
    transform = SegmentationSquare(options.size)
    if options.probe is not None:  # before anything is measured
        for split in (options.probe.train_split, options.probe.val_split):
            options.probe.segmentation_dataset(split, transform)
    device = choose_device(options.device)
    inference = InferenceConfig(device, options.batch_size, options.num_workers)
    if options.precision == "bf16":
        autocast = partial(torch.autocast, device.type, torch.bfloat16)
        inference = replace(inference, precision=autocast)
    _show_plan(options, encoders, images, device)
    if options.dry_run:
        return
    results = analyze(encoders, images, inference)
    if options.probe is not None:
        found: list[Row] = []
        data = options.probe, transform, options.probe_images, inference
        for encoder, info in encoders:
            found += block_miou(info.label, encoder.to(device), *data)
            encoder.cpu()
        rows = pd.concat([results.rows, table(found, Row)], ignore_index=True)
        results = replace(results, measures=[*results.measures, BLOCK_MIOU], rows=rows)
    _show(results)
    shown = [images.pairs[index] for index in range(min(PICTURES, len(images)))]
    pictures = example_pictures(
        {each.info.label: each.encoder.to(device) for each in encoders},
        [image for image, _ in shown],
        [mask for _, mask in shown] if images.masks else None,
        replace(inference, num_workers=0),
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    # beside its place and moved there when complete; until then an old analysis is kept
    with tempfile.TemporaryDirectory(dir=options.out.parent, prefix=".analysis-") as aside:
        folder = Path(aside) / "new"
        results.save(folder)
        page = write_report(results, pictures, folder)[0]
        if options.out.exists():
            options.out.rename(Path(aside) / "old")
        folder.rename(options.out)
    print(f"report: {options.out / page.name}, with {JSON} and {CSV}")


def _show_plan(
    options: AnalyzeOptions, encoders: Sequence[NamedEncoder], images: Images, device: torch.device
) -> None:
    for info in (each.info for each in encoders):
        shape = f"{info.depth} blocks, {info.heads} heads, patch size {info.patch_size}"
        print(f"{info.label}: {info.weights}: {shape}, {info.num_registers} registers")
    named = " ".join(filter(None, [images.about["dataset"], images.about["split"]]))
    print(f"images: {len(images)} of {named}, center crop of {options.size} px")
    print(f"masks: {'yes' if images.masks else f'none: {images.why_no_masks}'}")
    print(f"result: {options.out}, on {device}")


def _show(results: AnalysisResults) -> None:
    """Print the main numbers of each model, and what was left out."""
    print(headline(results).T.to_markdown(disable_numparse=True))
    print("in brackets: 95 % interval over images")
    for each in results.left_out:
        if not each.model:
            print(f"left out: {each.measure}: {each.reason}")


def _check_folder(folder: Path, overwrite: bool) -> None:
    """Refuse a folder with other files, with an analysis to keep, or that cannot be written."""
    above = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    reason = ""
    if not (above.is_dir() and os.access(above, os.W_OK)):
        reason = f"cannot be written in {above}; name another folder"
    elif above == folder and any(folder.iterdir()):
        if not (folder / JSON).is_file():
            reason = "holds other files; name a new folder"
        elif not overwrite:
            reason = "holds an analysis; choose another folder, or --overwrite"
    if reason:
        raise InputError(f"--out {folder} {reason}", field="--out")
