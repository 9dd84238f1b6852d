"""Forecast of a run from a trial of a few steps: hours, memory, disk.

Only arithmetic on the measurements of `trial.py`.
"""

from dataclasses import dataclass
from statistics import median

GIB = 2**30
MEMORY_SHARE = 0.95  # of the device, above which a run counts as one that does not fit
WAITING_SHARE = 0.1  # of a step, from which data are the bottleneck
SCALAR = 64  # bytes of a point of a curve in TensorBoard's files, with its name


@dataclass(frozen=True)
class Timing:
    """Seconds of several measurements of one thing."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median."""
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """Longest less shortest, as a share of the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median if self.median else 0.0


@dataclass(frozen=True)
class RunFacts:
    """Settings of a run, under the names of its config, and properties of the machine.

    Attributes:
        device: name of the device that measures.
        world_size, local_devices: devices of the run, and those of one machine.
        num_workers, cores: loading processes of each device, and cores that a process may use.
        supports_bf16: whether the hardware computes faster with bf16-mixed.
        slow_attention: why entmax attention takes its slow path here; "" where it does not.
        memory, weights, per_image: bytes a process may use; of weights, gradients and averages; of
            what an image keeps until backward, as estimated before.
        kept_checkpoints, scalars: at the end of the run; points of all curves.
        pictures, free_disk: bytes; pictures without compression, an upper bound.
        probings, validations: how often probes run and classifiers are validated.
    """

    device: str
    world_size: int
    local_devices: int
    global_batch_size: int
    micro_batch_size: int
    accumulate_grad_batches: int
    steps_per_epoch: int
    epochs: int
    num_workers: int
    cores: int
    precision: str
    supports_bf16: bool
    slow_attention: str
    memory: int
    weights: int
    per_image: int
    kept_checkpoints: int
    scalars: int
    pictures: int
    free_disk: int
    probings: int
    validations: int

    @property
    def images(self) -> int:
        """Images of an optimizer step on one device."""
        return self.micro_batch_size * self.accumulate_grad_batches


@dataclass(frozen=True)
class TrialResult:
    """Measurements of one device with its share of the batch.

    Attributes:
        step: a whole optimizer step.
        parts: of the step: data (waiting for loaders), copy (to the device, with normalization),
            forward, backward, optimizer (with clipping and moving averages), other. They sum to it.
        loading: images per second that the loaders of one device give when nothing else runs.
        peak: largest memory in bytes, weights included.
        checkpoint: bytes of one.
        probe_seconds: to read and encode the images of one probing, without fitting.
        validation_seconds: the same for one validation of the classifiers.
    """

    step: Timing
    parts: dict[str, Timing]
    loading: float
    peak: int
    checkpoint: int
    probe_seconds: float
    validation_seconds: float

    def compute_throughput(self, facts: RunFacts) -> float:
        """Return the images per second of one device that never waits for data."""
        return facts.images / max(self.step.median - self.parts["data"].median, 1e-9)


@dataclass(frozen=True)
class Forecast:
    """Estimates for the whole run.

    Attributes:
        step_seconds: of a step once what was loaded in advance is used up.
        images_per_second: over all devices of the run.
        bound: "data" or "compute", the bottleneck.
        epoch_hours: of training alone.
        hours: of the run, with probes and validation.
        device_hours: hours times devices.
        probing: share of the hours for probes and validation.
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


def forecast(trial: TrialResult, facts: RunFacts) -> Forecast:
    """Project a trial to the whole run."""
    step, waiting = trial.step.median, trial.parts["data"].median
    # a few steps consume what was loaded before them, so slow loaders show only on their own
    loading = facts.images / trial.loading if facts.num_workers else 0.0
    step_seconds = max(step, loading)
    slow_loaders = facts.num_workers > 0 and trial.loading < trial.compute_throughput(facts)
    probing = trial.probe_seconds * facts.probings + trial.validation_seconds * facts.validations
    hours = (facts.steps_per_epoch * facts.epochs * step_seconds + probing) / 3600
    return Forecast(
        step_seconds=step_seconds,
        images_per_second=facts.global_batch_size / step_seconds,
        bound="data" if waiting > WAITING_SHARE * step or slow_loaders else "compute",
        epoch_hours=facts.steps_per_epoch * step_seconds / 3600,
        hours=hours,
        device_hours=hours * facts.world_size,
        probing=probing / 3600 / hours,
        fits=trial.peak <= MEMORY_SHARE * facts.memory,
        largest=_largest_micro_batch(trial, facts),
        # besides those kept at the end, one is being written
        disk=(facts.kept_checkpoints + 1) * trial.checkpoint
        + facts.scalars * SCALAR
        + facts.pictures,
    )


def _largest_micro_batch(trial: TrialResult, facts: RunFacts) -> int:
    measured = (trial.peak - facts.weights) / facts.micro_batch_size
    per_image = max(measured, facts.per_image, 1)  # the more careful of the two
    fit = (MEMORY_SHARE * facts.memory - facts.weights) / per_image
    sizes = (n for n in range(1, facts.images + 1) if facts.images % n == 0 and n <= fit)
    return max(sizes, default=0)


def verdict(facts: RunFacts, found: Forecast) -> str:
    """Return the outcome in one sentence."""
    memory = "fits" if found.fits else "does not fit into memory"
    disk = "" if found.disk <= facts.free_disk else ", but the disk is too small"
    devices = f" on {facts.world_size} devices" if facts.world_size > 1 else ""
    return (
        f"The run {memory}{disk}; it is bound by {found.bound} at "
        f"{found.images_per_second:.3g} images/s and takes about {duration(found.hours)}{devices}."
    )


def duration(hours: float) -> str:
    """Return hours in a suitable unit: 40 s, 12 min, 3.5 h, 12 days."""
    if hours < 1 / 30:
        return f"{3600 * hours:.0f} s"
    if hours < 2:
        return f"{60 * hours:.0f} min"
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:.1f} days"


def size(count: int) -> str:
    """Return bytes in a suitable unit."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / 2**20:.1f} MiB"
