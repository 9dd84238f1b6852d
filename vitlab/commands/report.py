"""`vitlab report calibration` and `vitlab report prompts`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vitlab.commands.parser import DATASET, POSITIONAL, parse
from vitlab.data import VisionDataModule
from vitlab.errors import InputError

CALIBRATION = """\
examples:
  vitlab report calibration before=BASE/last.ckpt blank=BLANK/last.ckpt tokens=TOKENS/last.ckpt \\
      --data.root /data/imagenet --size 224 --out report
"""
PROMPTS = """\
examples:
  vitlab report prompts linear=LINEAR/last.ckpt tcpa=TCPA/last.ckpt --data Folder \\
      --data.root DIR --size 224 --out report
"""


@dataclass(frozen=True)
class CalibrationOptions:
    """Compare classifiers before and after calibration: scores, and relevance of their tokens.

    The first is the model before calibration (arXiv:2304.04354): foreground and class masks are
    its own.

    Args:
        arms: NAME=CHECKPOINT, the first before calibration
        data: dataset; recognized where only --data.root is given
        size: pixels of the image edge
        out: files to write, without ending
    """

    arms: list[str] = field(metadata=POSITIONAL)
    data: VisionDataModule = field(metadata=DATASET)
    size: int = 224
    out: Path = Path("report")


@dataclass(frozen=True)
class PromptOptions:
    """Compare runs of prompt tuning with the linear probe of the same frozen backbone.

    The file of the backbone must lie where the run had it.

    Args:
        arms: NAME=CHECKPOINT, the linear probe first; a name may be given for several seeds
        data: dataset; recognized where only --data.root is given
        size: pixels of the image edge
        crop: share of the short side, as in the runs
        out: files to write, without ending
    """

    arms: list[str] = field(metadata=POSITIONAL)
    data: VisionDataModule = field(metadata=DATASET)
    size: int = 224
    crop: float = 0.875
    out: Path = Path("report")


def calibration(words: Sequence[str]) -> None:
    """Write the report of a calibration.

    Raises:
        InputError: an arm cannot be read, or is given twice.
    """
    from vitlab.analysis.calibration_report import write_calibration_report

    prog = "vitlab report calibration"
    options = parse(CalibrationOptions, words, prog, CALIBRATION)
    arms = _arms(options.arms)
    if twice := [name for name, paths in arms.items() if len(paths) > 1]:
        raise InputError(
            f"the arm {twice[0]} is given twice; give each a name of its own", field="arms"
        )
    firsts = {name: path for name, (path,) in arms.items()}
    print(write_calibration_report(firsts, options.data, options.size, options.out), end="")


def prompts(words: Sequence[str]) -> None:
    """Write the report of prompt tuning.

    Raises:
        InputError: an arm cannot be read.
    """
    from vitlab.analysis.prompt_report import write_prompt_report

    options = parse(PromptOptions, words, "vitlab report prompts", PROMPTS)
    arms = _arms(options.arms)
    text = write_prompt_report(arms, options.data, options.size, options.crop, options.out)
    print(text, end="")


def _arms(words: Sequence[str]) -> dict[str, list[Path]]:
    """Return the checkpoints of each arm."""
    arms: dict[str, list[Path]] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not (name and equals and path):
            raise InputError(
                f"{word} is no NAME=CHECKPOINT, such as linear=RUN/last.ckpt", field="arms"
            )
        arms.setdefault(name, []).append(Path(path))
    return arms
