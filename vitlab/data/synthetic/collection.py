"""The whole collection: drawn side by side, and there only once it is complete."""

import json
import multiprocessing
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import cv2
from rich.progress import track

from vitlab.data.synthetic import ade20k, cityscapes, imagenet, voc
from vitlab.data.synthetic.task import Amounts, Task

MARKER = "synthetic.json"  # its presence says that the set is complete
VERSION = 1  # raise it with every change that alters a picture

_USUAL = Amounts()


def synthesize(root: Path, seed: int = 0, amounts: Amounts = _USUAL, processes: int = 0) -> None:
    """Draw miniature copies of ImageNet, VOC 2012, ADE20K and Cityscapes in their own layouts.

    Nothing is done if the folder already holds the same collection. The folder appears only when
    it is complete; an interrupted run leaves a `.partial` folder beside it for the next to replace.

    Args:
        root: folder to make; will hold imagenet, VOCdevkit, ADEChallengeData2016 and cityscapes.
        seed: the same seed gives the same bytes on every run, whatever the number of processes.
        amounts: how many pictures to draw for each set and split.
        processes: how many draw side by side; 0 for one per 2,000 pictures, at most one per core.
    """
    if seed < 0 or processes < 0:
        raise ValueError(f"seed {seed}, processes {processes}: neither may be negative; use 0")
    facts = {"version": VERSION, "seed": seed, "amounts": asdict(amounts)}
    if _is_complete(root, facts):
        return
    partial = root.absolute().with_name(root.absolute().name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    imagenet.write_devkit(partial / "imagenet", seed, amounts)
    voc.write_lists(partial / "VOCdevkit" / "VOC2012", amounts)
    _run(list(_tasks(partial, seed, amounts)), processes)
    ade20k.write_tables(partial / "ADEChallengeData2016")
    (partial / MARKER).write_text(json.dumps(facts, indent=2) + "\n")
    if root.exists():
        root.rmdir()  # it is empty, or we had refused it
    partial.rename(root)


def _is_complete(root: Path, facts: dict[str, object]) -> bool:
    """Whether `root` holds the collection that `facts` describes; anything else there is kept."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    marker = root / MARKER
    held = json.loads(marker.read_text()) if marker.is_file() else "files that are not ours"
    if held == facts:
        return True
    raise ValueError(
        f"{root} holds {held}, and nothing is ever overwritten; "
        f"allowed is a new or empty folder, or a collection of {facts}; "
        "choose another --root, or delete this one first"
    )


def _tasks(root: Path, seed: int, amounts: Amounts) -> Iterator[Task]:
    yield from imagenet.tasks(root / "imagenet", seed, amounts)
    yield from voc.tasks(root / "VOCdevkit" / "VOC2012", seed, amounts)
    yield from ade20k.tasks(root / "ADEChallengeData2016", seed, amounts)
    yield from cityscapes.tasks(root / "cityscapes", seed, amounts)


def _run(tasks: list[Task], processes: int) -> None:
    # to import the package takes a worker about as long as drawing some hundred pictures
    workers = processes or max(1, min(len(tasks) // 2000, _cores()))
    with ExitStack() as stack:
        results: Iterable[None] = map(Task.run, tasks)
        if workers > 1:
            # fork would copy the threads of torch in an unknown state
            context = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(
                workers, context, initializer=cv2.setNumThreads, initargs=(1,)
            )
            stack.callback(pool.shutdown, cancel_futures=True)  # do not draw on after Ctrl-C
            results = pool.map(Task.run, tasks, chunksize=8)
        for _ in track(results, "drawing the synthetic data", len(tasks), transient=True):
            pass


def _cores() -> int:
    """Cores this process may use; macOS tells only how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
