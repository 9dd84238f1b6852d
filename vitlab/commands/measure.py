"""`vitlab measure`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from vitlab.commands.device import choose_device
from vitlab.training.checkpoint_probes import Changes, job, measure, show, show_plan
from vitlab.training.checkpoint_series import find_series

DESCRIPTION = """\
Measure the checkpoints of a run after the fact: k-NN and linear accuracy, mIoU, and what becomes of
the patches (diffusion index, cosines, rank), with the probes that `vitlab fit` runs online. Of a
checkpoint of the run's own settings, the numbers are the same to the digit. What is written is
drawn by `vitlab curves` like a run. Stopped, the same command goes on where it was.
"""
EXAMPLES = """\
examples:
  vitlab measure runs/dino/seed0
  vitlab measure runs/dino/seed* runs/dino_entmax/seed* --dense ade20k=/data/ADEChallengeData2016
  vitlab measure checkpoint0020.pth checkpoint0040.pth --family dino --which teacher \\
      --data /data/imagenet --images 100000 --dense voc2012=/data/VOCdevkit --out measured/dino
  vitlab curves measured/dino/seed*
"""
NUMBERS = {
    "images": "labeled images that k-NN and linear probe learn from, as many of each class; 0: all",
    "dense_images": "images that each dense probe learns from; 0: all",
    "size": "pixels of the image edge for k-NN and linear probe",
    "dense_size": "the same for dense probes",
    "batch_size": "images of one forward pass",
    "num_workers": "processes that decode images",
}


def run(words: Sequence[str]) -> None:
    """Measure checkpoints.

    Raises:
        ValueError: what was given cannot be used; before anything is measured.
    """
    given = parser().parse_args(words)
    changes = Changes(
        data=given.data,
        dense=dict(given.dense),
        probing={
            name: getattr(given, name) for name in NUMBERS if getattr(given, name) is not None
        },
        precision=given.precision,
        family=given.family,
        which=given.which,
    )
    device = choose_device(given.device).type
    found = find_series(given.checkpoints)
    root = given.out or Path("measured")
    folders = [root if given.out and len(found) == 1 else root / each.name for each in found]
    if len(set(folders)) < len(folders):
        raise ValueError(
            "several of these runs would be written to one folder, as their own are called alike; "
            "measure them one by one, each with its --out"
        )
    jobs = [job(trail, folder, changes) for trail, folder in zip(found, folders, strict=True)]
    console = Console()
    show_plan(jobs, console)
    for each in () if given.dry_run else jobs:
        show(each, measure(each, device, console), console)


def parser() -> argparse.ArgumentParser:
    """Return what reads the words."""
    made = argparse.ArgumentParser(
        "vitlab measure",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add(
        "checkpoints",
        nargs="+",
        type=Path,
        help="runs, folders of checkpoints, or files, which are one course for each folder",
    )
    add("--out", type=Path, help="folder to write; by default measured/ARM/SEED for each run")
    add("--data", default="", help="root of the labeled images, if not where the run had them")
    add(
        "--dense",
        nargs="+",
        default=[],
        type=_named,
        metavar="NAME=ROOT",
        help="segmentation sets, in place of the run's; each becomes a curve miou/NAME",
    )
    for name, text in NUMBERS.items():
        add(
            f"--{name.replace('_', '-')}",
            type=int,
            metavar="N",
            help=f"{text} (default: the run's)",
        )
    add("--family", default="auto", help="whose weights they are, see vitlab import --help")
    add("--which", default="", help="student, teacher ...; by default what the run evaluates")
    add("--precision", default="", help="of forward passes, such as 32-true; default: the run's")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if any")
    add("--dry-run", action="store_true", help="check everything, print the plan and stop")
    return made


def _named(word: str) -> tuple[str, str]:
    name, equals, root = word.partition("=")
    if not (name and equals and root):
        raise argparse.ArgumentTypeError(f"{word!r} is not NAME=ROOT, such as voc2012=/data/VOC")
    return name, root
