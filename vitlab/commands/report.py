"""`vitlab report calibration` and `vitlab report prompts`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vitlab.commands.parser import DATASET, POSITIONAL, parse
from vitlab.errors import InputError

if TYPE_CHECKING:
    from vitlab.data import VisionDataModule

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


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Options of a report on several checkpoints.

    Args:
        data: dataset; recognized where only --data.root is given
        size: pixels of the image edge
        out: files to write, without ending
    """

    arms: list[str] = field(metadata=POSITIONAL)
    data: "VisionDataModule" = field(metadata=DATASET)
    size: int = 224
    out: Path = Path("report")

    def checkpoints(self) -> dict[str, list[Path]]:
        """Return the checkpoints of each arm; words that are no arm are refused."""
        found: dict[str, list[Path]] = {}
        for word in self.arms:
            name, _, path = word.partition("=")
            if not (name and path):
                raise InputError(
                    f"{word} is no NAME=CHECKPOINT, such as linear=RUN/last.ckpt", field="arms"
                )
            found.setdefault(name, []).append(Path(path))
        return found


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions(ReportOptions):
    """Compare classifiers before and after calibration: scores, and relevance of their tokens.

    The first is the model before calibration (arXiv:2304.04354): foreground and class masks are
    its own.

    Args:
        arms: NAME=CHECKPOINT, the first before calibration
    """


@dataclass(frozen=True, kw_only=True)
class PromptOptions(ReportOptions):
    """Compare runs of prompt tuning with the linear probe of the same frozen backbone.

    The file of the backbone must lie where the run had it.

    Args:
        arms: NAME=CHECKPOINT, the linear probe first; a name may be given for several seeds
        crop: share of the short side, as in the runs
    """

    crop: float = 0.875


def calibration(words: Sequence[str]) -> None:
    """Write the report of a calibration; arms that are given twice are refused."""
    options = parse(CalibrationOptions, words, "vitlab report calibration", CALIBRATION)
    from vitlab.analysis.calibration_report import write_calibration_report

    arms = options.checkpoints()
    if twice := [name for name, paths in arms.items() if len(paths) > 1]:
        raise InputError(
            f"the arm {twice[0]} is given twice; give each a name of its own", field="arms"
        )
    firsts = {name: path for name, (path,) in arms.items()}
    print(write_calibration_report(firsts, options.data, options.size, options.out), end="")


def prompts(words: Sequence[str]) -> None:
    """Write the report of prompt tuning; arms that cannot be read are refused."""
    options = parse(PromptOptions, words, "vitlab report prompts", PROMPTS)
    from vitlab.analysis.prompt_report import write_prompt_report

    more = options.data, options.size, options.crop, options.out
    print(write_prompt_report(options.checkpoints(), *more), end="")
