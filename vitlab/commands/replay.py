"""`vitlab replay`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vitlab.commands.parser import POSITIONAL, parse

EXAMPLES = """\
examples:
  vitlab replay runs/dino/seed0/failure
  vitlab replay runs/dino/seed0/failure --precision 32-true   # is bf16 the cause?
  vitlab replay runs/dino/seed0/failure --anomaly             # which line of code?
"""


@dataclass(frozen=True)
class ReplayArguments:
    """Take the step again at which a run met NaN or infinity, and show it tensor by tensor.

    The folder holds all it takes: weights before the step, the micro-batch, the seed, the settings.
    Nothing is trained and nothing written. Exit code: 0 if the same number is met in the same
    place, 1 if not.

    Args:
        folder: that the run named as it stopped: RUN/failure.
        device: of the replay.
        precision: 32-true, 64-true, bf16-mixed or 16-mixed; by default that of the run.
        anomaly: have torch name the operation, with the line that called it.
        all: show every tensor.
    """

    folder: Path = field(metadata=POSITIONAL)
    device: Literal["cpu", "cuda"] = "cpu"
    precision: str = ""
    anomaly: bool = False
    all: bool = False


def run(words: Sequence[str]) -> None:
    """Take a failed step again and show it."""
    options = parse(ReplayArguments, words, "vitlab replay", EXAMPLES)
    from vitlab.commands.run_replay import replay

    replay(options)
