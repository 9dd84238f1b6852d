"""TensorBoard's files of a run: scores first, and beside them what they are compared with."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from vitlab.callbacks.measurements import Measurement, distinct, finite

# TensorBoard shows tags in the order of the alphabet, so that its authors advise numbers:
# https://github.com/tensorflow/tensorboard/issues/865. What is not here stays as it is, behind all
SCORES = "1 scores/"
PREFIXES = {"miou": f"{SCORES}1 ", "knn": f"{SCORES}2 ", "linear": f"{SCORES}3 "}
PREFIXES |= dict.fromkeys(("val", "ema"), SCORES)
PREFIXES |= dict.fromkeys(("loss", "teacher", "prompts", "tokens", "dimensions"), "2 training/")
PREFIXES |= {"optimizer": "3 ", "speed": "4 ", "probe": "4 speed/", "epoch": "4 speed/"}
PREFIXES |= {"features": "5 ", "collapse_monitor": "6 "}
REFERENCES = {"pixels": "pixels", "untrained": "untrained", "trained": "best"}  # by encoder
LOWER_IS_BETTER = ("/loss", "/ece")


class OrderedTensorBoardLogger(TensorBoardLogger):
    """Writes curves, named after the arm, into a folder of their own within that of the run.

    TensorBoard smooths curves, and leaves out the highest and the lowest of few points: only
    constant curves stay as they are and in sight. "best", "pixels" and "untrained" are such, in
    folders beside that of the curves, and are written anew at each measurement.

    Args:
        save_dir: folder of the run.
        purge_step: the first step of what is continued; later points of before are hidden.
        settings: of the run, which TensorBoard lists as hyperparameters beside the newest scores.
    """

    def __init__(
        self, save_dir: str | Path, purge_step: int = 0, settings: dict[str, Any] | None = None
    ):
        folder = Path(save_dir).resolve()
        arm = folder.parent.name if folder.name.startswith("seed") else folder.name
        name = f"{arm} run" if arm in REFERENCES.values() else arm
        super().__init__(save_dir, name="", version=name, purge_step=purge_step)
        self.settings = {"arm": arm, **(settings or {})}
        self.unlisted: dict[str, float] | None = {}  # scores of the first measurement
        self.step: int | None = None  # of that

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log metrics under the names that TensorBoard orders."""
        if step != self.step:
            self._list()
        super().log_metrics(ordered(metrics), step)

    @rank_zero_only
    def log_measurement(
        self, rows: Sequence[Measurement], scores: Mapping[str, float], step: int
    ) -> None:
        """Log scores, and draw anew what they are compared with.

        Args:
            rows: of all measurements so far.
            scores: of the newest, of the encoder that trains.
            step: of the newest.
        """
        tags = ordered(scores, SCORES)
        self.log_metrics(tags, step)
        if self.unlisted is not None and rows[-1]["encoder"] == "trained":
            self.unlisted |= tags
            self.step = step
        steps, now = sorted({0, *(row["step"] for row in rows)}), time.time()
        for name, constants in references(rows).items():
            folder = Path(self.log_dir).parent / name
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
            with SummaryWriter(str(folder), purge_step=0) as writer:
                for tag, value in ordered(constants, SCORES).items():
                    for each in steps:
                        writer.add_scalar(tag, value, each, now)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write everything."""
        self._list()
        super().finalize(status)

    def _list(self) -> None:
        """List the settings and the scores of the run, once all callbacks have measured."""
        if self.unlisted:
            for summary in hparams(self.settings, dict(sorted(self.unlisted.items()))):
                self.experiment.file_writer.add_summary(summary)
            self.unlisted = None


def ordered(metrics: Mapping[str, Any], others: str = "") -> dict[str, Any]:
    """Return metrics by the tags that TensorBoard gets.

    Args:
        metrics: by tag.
        others: what stands before tags that have no place of their own.
    """
    found = {}
    for tag, value in metrics.items():
        prefix = PREFIXES.get(tag.partition("/")[0], others)
        if "miou/mean" in metrics and tag.startswith("miou/") and tag != "miou/mean":
            prefix = f"{SCORES}4 "  # one card for k-NN beside the mean on the first screen
        found[prefix + tag] = value
    return found


def references(rows: Sequence[Measurement]) -> dict[str, dict[str, float]]:
    """Return scores of baselines, and the best of training so far, by the name of their curve."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        best = found.setdefault(REFERENCES[row["encoder"]], {})
        for tag, value in finite(distinct(row["scores"])).items():
            better = min if tag.endswith(LOWER_IS_BETTER) else max
            best[tag] = better(value, best.get(tag, value))
    return found
