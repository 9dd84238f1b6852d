"""What a trial of a few steps says about the whole run: hours, memory, disk.

Only arithmetic on numbers that `trial.py` has measured.
"""

from dataclasses import dataclass
from statistics import median

GIB = 2**30
NEARLY_ALL = 0.95  # share of the memory, beyond which a run counts as one that does not fit
WAITING = 0.1  # share of a step spent waiting, from which data are what holds it up
SCALAR = 64  # bytes of a point of a curve in TensorBoard's files, with its name
COLUMNS = 5  # of pictures, in the sheets of the probes


@dataclass(frozen=True)
class Timed:
    """Seconds of the same thing, measured several times."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """Longest less shortest, as a share of the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median if self.median else 0.0


@dataclass(frozen=True)
class Facts:
    """What is known of a run and the machine before anything is measured.

    Attributes:
        device: what measured, in words.
        world: devices of the run.
        here: of them, those of one machine.
        batch: images of an optimizer step, over all devices.
        per_device: images of a micro-batch on one device.
        accumulate: micro-batches of a step.
        steps_per_epoch, epochs: length of the run.
        workers: loading processes of each device.
        cores: of this machine that a process may use.
        precision: of the run.
        half: whether bf16-mixed would be faster here, as far as the hardware goes.
        slow_attention: why entmax attention takes its slow path here; "" where it does not.
        memory: bytes that a process of the run may use on its device.
        weights: bytes for weights, gradients and averages.
        per_image: bytes that an image keeps until backward, as foreseen by `plan.py`.
        kept: checkpoints that the run has at its end.
        scalars: points of all curves.
        pictures: bytes of all pictures without compression, so at most.
        free: bytes of the disk that the run's folder is on.
        measurements: how often the probes measure.
        scores: how often classifiers are scored.
    """

    device: str
    world: int
    here: int
    batch: int
    per_device: int
    accumulate: int
    steps_per_epoch: int
    epochs: int
    workers: int
    cores: int
    precision: str
    half: bool
    slow_attention: str
    memory: int
    weights: int
    per_image: int
    kept: int
    scalars: int
    pictures: int
    free: int
    measurements: int
    scores: int


@dataclass(frozen=True)
class Trial:
    """What was measured, on one device with its share of the batch.

    Attributes:
        step: an optimizer step, all of it.
        parts: where its time went: data (waiting for loaders), copy (to the device, and
            normalizing there), forward, backward, optimizer (with clipping and moving averages),
            other. They sum to the step.
        loading: images per second that the loaders of one device give when nothing else runs.
        peak: bytes in use at most, weights and all.
        checkpoint: bytes of one.
        probe: seconds in which a measurement reads and encodes its images; fitting comes on top.
        score: the same for a scoring of the classifiers.
    """

    step: Timed
    parts: dict[str, Timed]
    loading: float
    peak: int
    checkpoint: int
    probe: float
    score: float


@dataclass(frozen=True)
class Forecast:
    """What follows for the whole run.

    Attributes:
        step_seconds: of a step once what was loaded in advance is used up.
        images_per_second: over all devices of the run.
        bound: "data" or "compute", whichever a step waits for.
        epoch_hours: of training alone.
        hours: of the run, with probes and scores.
        device_hours: these, times the devices.
        probing: share of the hours that measuring takes.
        fits: whether a step fits into memory.
        largest: images of the largest micro-batch that fits and divides the share of a device; 0
            where one image is too much.
        disk: bytes that the run's folder grows to.
    """

    step_seconds: float
    images_per_second: float
    bound: str
    epoch_hours: float
    hours: float
    device_hours: float
    probing: float
    fits: bool
    largest: int
    disk: int

    def hours_on(self, devices: int) -> float:
        """Return the hours on so many devices, if speed grows in proportion to them."""
        return self.device_hours / devices


def forecast(trial: Trial, facts: Facts) -> Forecast:
    """Project a trial to the whole run."""
    share = facts.per_device * facts.accumulate
    step, waited = trial.step.median, trial.parts["data"].median
    computing = share / max(step - waited, 1e-9)  # images per second, were there no waiting
    # a few steps live on what was loaded before them: then only the loaders alone tell
    loaded = share / trial.loading if facts.workers else 0.0
    steady = max(step, loaded)
    data_bound = waited > WAITING * step or (facts.workers > 0 and trial.loading < computing)
    steps = facts.steps_per_epoch * facts.epochs
    measuring = trial.probe * facts.measurements + trial.score * facts.scores
    hours = (steps * steady + measuring) / 3600
    return Forecast(
        step_seconds=steady,
        images_per_second=facts.batch / steady,
        bound="data" if data_bound else "compute",
        epoch_hours=facts.steps_per_epoch * steady / 3600,
        hours=hours,
        device_hours=hours * facts.world,
        probing=measuring / 3600 / hours,
        fits=trial.peak <= NEARLY_ALL * facts.memory,
        largest=largest(trial, facts),
        # besides those kept at the end, one is being written
        disk=(facts.kept + 1) * trial.checkpoint + facts.scalars * SCALAR + facts.pictures,
    )


def largest(trial: Trial, facts: Facts) -> int:
    """Return the images of the largest micro-batch that fits and divides the share of a device."""
    measured = (trial.peak - facts.weights) / facts.per_device
    each = max(measured, facts.per_image, 1)  # the more careful of the two
    fit = (NEARLY_ALL * facts.memory - facts.weights) / each
    share = facts.per_device * facts.accumulate
    return max((n for n in range(1, share + 1) if share % n == 0 and n <= fit), default=0)


def verdict(facts: Facts, found: Forecast) -> str:
    """Return the outcome in one sentence."""
    memory = "fits" if found.fits else "does not fit into memory"
    short = "" if found.disk <= facts.free else ", but the disk is too small"
    several = f" on {facts.world} devices" if facts.world > 1 else ""
    return (
        f"The run {memory}{short}; it is bound by {found.bound} at "
        f"{found.images_per_second:.3g} images/s and takes about {duration(found.hours)}{several}."
    )


def duration(hours: float) -> str:
    """Return hours in the unit that suits them: 40 s, 12 min, 3.5 h, 12 days."""
    if hours < 1 / 30:
        return f"{3600 * hours:.0f} s"
    if hours < 2:
        return f"{60 * hours:.0f} min"
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:.1f} days"


def size(count: int) -> str:
    """Return bytes in the unit that suits them."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / 2**20:.1f} MiB"
