"""The work of `vitlab analyze`."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from vitlab.analysis.analyze import NamedEncoder, analyze
from vitlab.analysis.block_miou import BLOCK_MIOU, block_miou
from vitlab.analysis.example_pictures import example_pictures
from vitlab.analysis.images import Images, find_images
from vitlab.analysis.report import headline, write_report
from vitlab.analysis.results import CSV, JSON, AnalysisResults, Row, table
from vitlab.commands.analyze import AnalyzeOptions
from vitlab.commands.device import choose_device
from vitlab.data import SegmentationSquare
from vitlab.probes import InferenceConfig
from vitlab.terminal import say

PICTURES = 4  # images that are drawn


def write_analysis(options: AnalyzeOptions) -> AnalysisResults | None:
    """Analyze encoders; write and return the results.

    Raises:
        InputError: options, weights or data that cannot be used, before anything is measured.
    """
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
        return None
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
    say(f"report: {options.out / page.name}, with {JSON} and {CSV}")
    return results


def _show_plan(
    options: AnalyzeOptions, encoders: Sequence[NamedEncoder], images: Images, device: torch.device
) -> None:
    for info in (each.info for each in encoders):
        shape = f"{info.depth} blocks, {info.heads} heads, patch size {info.patch_size}"
        say(f"{info.label}: {info.weights}: {shape}, {info.num_registers} registers")
    named = " ".join(filter(None, [images.about["dataset"], images.about["split"]]))
    say(f"images: {len(images)} of {named}, center crop of {options.size} px")
    say(f"masks: {'yes' if images.masks else f'none: {images.why_no_masks}'}")
    say(f"result: {options.out}, on {device}")


def _show(results: AnalysisResults) -> None:
    """Print the main numbers of each model, and what was left out."""
    print(headline(results).T.to_markdown(disable_numparse=True))
    print("in brackets: 95 % interval over images")
    for each in results.left_out:
        if not each.model:
            say(f"left out: {each.measure}: {each.reason}")
