"""Dense degradation: loss of dense scores during training after their peak.

With long training, image-level quality keeps rising while patches get less useful for dense
prediction: "dense degradation" in arXiv:2605.23868, close to arXiv:2510.17299. The rule for
warnings is ours.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

DENSE = "miou/mean"
IMAGE = ("knn/top1", "linear/top1")

MIN_POINTS = 5  # measurements before a warning: fewer give no estimate of noise
DROP = 1.0  # points of mIoU below the best
RISE = 0.5  # points of top-1 above its value at the best mIoU
NOISES = 5  # deviations of the curve's noise that replace both where they are larger

Point = tuple[int, float]  # epoch and value
Row = Mapping[str, Any]  # of measurements.json


@dataclass(frozen=True)
class Alarm:
    """Dense quality has fallen twice in a row while image-level quality rose.

    Attributes:
        best: mIoU at the peak.
        before: mIoU of the measurement before this one.
        now: mIoU.
        tag: the image-level score that rose.
        rise: its value at the peak, and now.
    """

    best: Point
    before: Point
    now: Point
    tag: str
    rise: tuple[float, float]

    def __str__(self) -> str:
        (best_epoch, best), (before_epoch, before), (epoch, now) = self.best, self.before, self.now
        was, has_become = self.rise
        return (
            f"patches lose what the image feature gains: mean mIoU was {best:.1f} at epoch "
            f"{best_epoch} and is {before:.1f} at epoch {before_epoch} and {now:.1f} at epoch "
            f"{epoch}, while {self.tag} rose from {was:.1f} to {has_become:.1f}. best.ckpt holds "
            f"the encoder of epoch {best_epoch}; for dense prediction use that, train for fewer "
            "epochs, or try token interaction made against it: normalizer entmax15, "
            "cls_specialization, locality or registers of the encoder"
        )


@dataclass(frozen=True)
class Peak:
    """Best value of one curve, its epoch, and the value at the last epoch."""

    epoch: int
    best: float
    last: float

    @property
    def lost(self) -> float:
        """Degradation: best - last; never below 0, and above 0 for noise alone."""
        return self.best - self.last


def peak(rows: Sequence[Row], tag: str) -> Peak | None:
    """Return the peak of a score or feature over rows of `measurements.json`, if it is there."""
    points = score_curve(rows, tag)
    return Peak(*max(points, key=lambda point: point[1]), points[-1][1]) if points else None


def score_curve(rows: Sequence[Row], tag: str, encoder: str = "trained") -> list[Point]:
    """Return epoch and value of one score or feature, by rising epoch."""
    found = {}
    for row in rows:
        values = {**row["scores"], **row.get("features", {})}
        value = values.get(tag)
        if row["encoder"] == encoder and value is not None and math.isfinite(value):
            found[row["epoch"]] = value
    return sorted(found.items())


def latest_warning(rows: Sequence[Row]) -> str:
    """Return the warning of the last measurement; "" if it has none."""
    points, raised = score_curve(rows, DENSE), alarms(rows)
    return str(raised[-1]) if raised and raised[-1].now == points[-1] else ""


def alarms(rows: Sequence[Row]) -> list[Alarm]:
    """Return the warnings over a run.

    Of two measurements in a row, both after the peak, mIoU lies below the peak by more than `DROP`
    points, and by more than `NOISES` deviations of the curve's own noise; and an image-level score
    is within that reach of its highest value and has risen by more than `RISE` points, or twice its
    noise, since the peak. There is no second alarm before mIoU has come back half of the way.
    """
    dense = score_curve(rows, DENSE)
    images = {tag: dict(score_curve(rows, tag)) for tag in IMAGE}
    raised: list[Alarm] = []
    quiet = True
    for end in range(MIN_POINTS, len(dense) + 1):
        seen = dense[:end]
        best = max(seen, key=lambda point: point[1])
        drop = max(DROP, NOISES * noise([value for _, value in seen]))
        before, now = seen[-2:]
        quiet = quiet or best[1] - now[1] < drop / 2
        fell = all(point[0] > best[0] and best[1] - point[1] > drop for point in (before, now))
        for tag, values in images.items() if quiet and fell else ():
            known = [values[epoch] for epoch, _ in seen if epoch in values]
            if best[0] in values and now[0] in values:
                reach = max(RISE, 2 * noise(known))
                rise = values[best[0]], values[now[0]]
                if rise[1] > max(known) - reach and rise[1] - rise[0] > reach:
                    raised.append(Alarm(best, before, now, tag, rise))
                    quiet = False
                    break
    return raised


def noise(values: Sequence[float]) -> float:
    """Return the robust deviation of a curve from its slow trend; 0 for fewer than four values.

    Third differences of a parabola vanish, and curves rise fast at first and bend; those of
    independent noise have 20 times its variance.
    """
    for _ in range(3):
        values = [after - before for before, after in pairwise(values)]
    return statistics.median(map(abs, values)) / 0.6745 / 20**0.5 if values else 0.0
