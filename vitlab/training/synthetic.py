"""The embedded data sets of a run, drawn where it reads them."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vitlab.data.synthetic import MARKER, synthesize
from vitlab.errors import InputError

TIMEOUT = 600  # seconds that other ranks wait for the first one


@dataclass(frozen=True)
class Synthetic:
    """The embedded data sets, drawn when a run reads below their folder and it is not there yet.

    Args:
        root: folder of the drawn data sets; empty for none.
        seed: of the drawing.
    """

    root: str = ""
    seed: int = 0

    def draw(self, roots: Iterable[str], first_rank: bool, allowed: bool = True) -> None:
        """Draw the data sets, if a run reads one of these folders; others wait for the first rank.

        Raises:
            InputError: the folder has something else in it, the first rank did not draw, or they
                are to be drawn and that is not allowed.
        """
        root = Path(self.root).resolve()
        if not self.root or not any(root in Path(used).resolve().parents for used in roots):
            return
        if not allowed and not (root / MARKER).exists():
            raise InputError(
                f"--dry-run draws nothing, and {self.root} is not drawn yet; draw it with "
                f"`vitlab data synthesize --root {self.root} --seed {self.seed}`, or leave out "
                "--dry-run",
                field="--dry-run",
            )
        if first_rank:
            synthesize(Path(self.root), self.seed)
        for _ in range(TIMEOUT):
            if (root / MARKER).exists():
                return
            time.sleep(1)
        raise InputError(
            f"the first rank did not draw {self.root} in {TIMEOUT} s; see its messages",
            field="synthetic.root",
        )
