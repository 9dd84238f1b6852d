"""The synthetic collection: drawn in parallel, moved into place when it is complete."""

import json
import multiprocessing
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2

from vitlab.atomic_io import read_json_as
from vitlab.data.synthetic import ade20k, cityscapes, imagenet, voc
from vitlab.data.synthetic.drawing.objects import KINDS
from vitlab.data.synthetic.images import DrawingTask
from vitlab.errors import InputError
from vitlab.option_types import Amounts
from vitlab.progress import track

MARKER = "synthetic.json"  # written last, when the collection is complete
VERSION = 2  # raise it with every change that alters an image
# prefix in `Amounts`, which is part of the seed: folder and drawing of each set
SETS = {
    "imagenet": ("imagenet", imagenet.draw_image),
    "voc": ("VOCdevkit/VOC2012", voc.draw_image),
    "ade": ("ADEChallengeData2016", ade20k.draw_image),
    "cityscapes": ("cityscapes", cityscapes.draw_image),
}

_USUAL = Amounts()


def synthesize(root: Path, seed: int = 0, amounts: Amounts = _USUAL, processes: int = 0) -> None:
    """Draw miniature copies of ImageNet, VOC 2012, ADE20K and Cityscapes in their own layouts.

    Does nothing if the folder holds the same collection already. The folder appears when it is
    complete; an interrupted run leaves a `.partial` folder beside it, which the next one replaces.

    Args:
        root: folder to make; will hold imagenet, VOCdevkit, ADEChallengeData2016 and cityscapes.
        seed: the same seed gives the same bytes, whatever the number of processes.
        amounts: number of images of each set and split.
        processes: number of parallel processes; 0 for one per 2,000 images, at most one per core.

    Raises:
        InputError: a negative number, or a folder with anything else in it.
    """
    for field, value in (("seed", seed), ("processes", processes)):
        if value < 0:
            raise InputError(f"{field} {value} is negative; use 0", field=field)
    facts = {"version": VERSION, "seed": seed, "amounts": asdict(amounts)}
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        marker = root / MARKER
        held = read_json_as(marker, dict[str, Any]) if marker.exists() else "other files"
        if held == facts:
            return
        raise InputError(
            f"{root} holds {held}, and nothing is ever overwritten; allowed is a new or empty "
            f"folder, or a collection of {facts}; choose another --root, or delete this one first",
            field="--root",
        )
    partial = root.absolute().with_name(root.absolute().name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    imagenet.write_devkit(partial / SETS["imagenet"][0], seed, amounts)
    voc.write_lists(partial / SETS["voc"][0], amounts)
    _run(list(_tasks(partial, seed, amounts)), processes)
    ade20k.write_tables(partial / SETS["ade"][0])
    (partial / MARKER).write_text(json.dumps(facts, indent=2) + "\n")
    if root.exists():
        root.rmdir()  # empty, or it was refused above
    partial.rename(root)


def _tasks(root: Path, seed: int, amounts: Amounts) -> Iterator[DrawingTask]:
    for name, (folder, draw) in SETS.items():
        classes = len(KINDS) if name == "imagenet" else 1
        for split in ("train", "val"):
            for index in range(classes * getattr(amounts, f"{name}_{split}")):
                yield DrawingTask(draw, name, root / folder, seed, split, index)


def _run(tasks: list[DrawingTask], processes: int) -> None:
    # a worker imports the package in about the time of drawing some hundred images
    known = hasattr(os, "sched_getaffinity")  # macOS has none
    cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    workers = processes or max(1, min(len(tasks) // 2000, cores))
    results: Iterable[None] = map(DrawingTask.run, tasks)
    with ExitStack() as stack:
        if workers > 1:
            # fork would copy the threads of torch in an unknown state
            spawn = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(workers, spawn, cv2.setNumThreads, (1,))
            stack.callback(pool.shutdown, cancel_futures=True)  # stop drawing after Ctrl-C
            results = pool.map(DrawingTask.run, tasks, chunksize=8)
        for _ in track(results, "drawing the synthetic data", len(tasks)):
            pass
