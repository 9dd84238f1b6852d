"""The words of `vitlab analyze`."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vitlab.analysis.results import JSON
from vitlab.commands.device import choose_device

DESCRIPTION = """\
Look into encoders: how alike [CLS] and patches are at every point of every block, how far and how
sparsely attention reaches, which tokens are far longer than others, whether features find the
object, and how many directions they use. Means over images with 95 % intervals, of several encoders
side by side, as a report that opens in any browser, and as JSON and CSV. docs/analysis.md says what
each number is.
"""
EXAMPLES = """\
examples:
  vitlab analyze --weights runs/dino/seed0/best.ckpt runs/dino_entmax/seed0/best.ckpt \\
      --which teacher --labels softmax entmax --data /data/VOCdevkit --out analysis
  vitlab analyze --weights dino_deitsmall16_pretrain.pth --family dino --data /data/imagenet \\
      --images 1000 --out analysis
  vitlab analyze --weights runs/dino/seed0/last.ckpt runs/dino/seed0/last.ckpt \\
      --which teacher student --data my_photographs --size 512 --out analysis
  vitlab analyze --weights best.ckpt untrained:configs/dino.yaml --which teacher \\
      --data /data/ADEChallengeData2016 --foreground person car --out analysis
"""
UNTRAINED = "untrained:"


def parser() -> argparse.ArgumentParser:
    """Return what reads the words."""
    made = argparse.ArgumentParser(
        "vitlab analyze",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_weights(made)
    add_data(made)
    add = made.add_argument
    add("--out", type=Path, required=True, help="folder to write")
    add("--overwrite", action="store_true", help="replace an analysis that is there")
    add("--dry-run", action="store_true", help="check everything, print the plan and stop")
    return made


def add_weights(made: argparse.ArgumentParser) -> None:
    """Add what says which encoders are looked into."""
    add = made.add_argument
    add(
        "--weights",
        nargs="+",
        required=True,
        help="runs' checkpoints, exported folders, files of DINO, DINOv2, DeiT, timm or LocAtViT; "
        f"or {UNTRAINED}CONFIG for the encoder of a config at its start (seed 0)",
    )
    each = "one for all weights, or one for each"
    add("--family", nargs="+", default=["auto"], help=f"whose weights they are; {each}")
    which = "student, teacher ... of a file with several models"
    add("--which", nargs="+", default=[""], help=f"{which}; {each}")
    add(
        "--pixels",
        nargs="+",
        default=["auto"],
        choices=("auto", "imagenet", "half"),
        help=f"mean and deviation they are trained with, see vitlab evaluate --help; {each}",
    )
    add("--backbone", nargs="+", default=[""], help=f"of a run of prompts, if it moved; {each}")
    add("--labels", nargs="+", help="names in tables and figures; by default from the paths")


def add_data(made: argparse.ArgumentParser) -> None:
    """Add what says on which images, and how they pass."""
    add = made.add_argument
    add(
        "--data",
        type=Path,
        required=True,
        help="root of a dataset, a folder of photographs, or one photograph",
    )
    add("--dataset", default="", help="its class, such as VOC2012 or Folder; by default found out")
    add("--split", default="val", help="of the dataset (default: val)")
    add(
        "--foreground",
        nargs="+",
        default=[],
        help="classes that are objects; by default all but the one called background",
    )
    add("--images", type=int, default=1000, help="at most so many; 0 for all (default: 1000)")
    add(
        "--size",
        type=int,
        default=224,
        help="pixels: the middle square of images whose short side is size / 0.875 (default: 224)",
    )
    add(
        "--batch", type=int, default=32, help="images of a pass; fewer where attention needs memory"
    )
    add("--workers", type=int, default=2, help="processes that decode images (default: 2)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if any")
    add("--precision", choices=("fp32", "bf16"), default="fp32", help="of forward passes")
    add(
        "--probe",
        type=Path,
        help="root of a segmentation set: also the mIoU of a linear probe on each block, which "
        "is fitted on its training split and takes two more passes over both splits",
    )
    add("--probe-dataset", default="", help="its class; by default found out")
    add("--probe-images", type=int, default=0, help="training images of it (default: 0, all)")


def refuse(given: argparse.Namespace) -> None:
    """Refuse what cannot be done, before files are read."""
    for name, least in [
        ("images", 0),
        ("size", 1),
        ("batch", 1),
        ("workers", 0),
        ("probe_images", 0),
    ]:
        if getattr(given, name) < least:
            option = name.replace("_", "-")
            raise ValueError(
                f"--{option} {getattr(given, name)} is too small; give {least} or more"
            )
    choose_device(given.device)
    count = len(given.weights)
    for name in ("family", "which", "pixels", "backbone"):
        many = len(getattr(given, name))
        if many not in (1, count):
            raise ValueError(f"--{name} has {many} values for {count} weights; give 1 or {count}")
    if given.labels and len(given.labels) != count:
        raise ValueError(
            f"--labels has {len(given.labels)} names for {count} weights; give one for each"
        )
    refuse_folder(given.out, given.overwrite)


def refuse_folder(folder: Path, overwrite: bool) -> None:
    """Refuse a folder with what no analysis left, or is not to be replaced, or out of reach."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / JSON).is_file():
            raise ValueError(f"--out {folder} holds other files; name a new folder")
        if not overwrite:
            raise ValueError(
                f"--out {folder} holds an analysis; choose another folder, or --overwrite"
            )
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise ValueError(
            f"--out {folder} cannot be written: {above}: {error.strerror}; name another folder"
        ) from error


def labels(weights: Sequence[str], which: Sequence[str]) -> list[str]:
    """Return the shortest ends of the paths that tell them apart, with the branch where needed."""
    parts = [Path(each.removeprefix(UNTRAINED)).with_suffix("").parts for each in weights]
    start = ["untrained " if each.startswith(UNTRAINED) else "" for each in weights]
    found: list[str] = []
    for length in range(1, max(map(len, parts)) + 1):
        found = [first + "/".join(own[-length:]) for first, own in zip(start, parts, strict=True)]
        if len(set(found)) == len(found):
            return found
    short = [first + own[-1] for first, own in zip(start, parts, strict=True)]
    names = short if len(set(parts)) == 1 else found
    return [f"{name} {branch}".strip() for name, branch in zip(names, which, strict=True)]
