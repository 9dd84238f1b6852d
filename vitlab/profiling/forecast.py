"""Forecast of a run from a trial of a few steps: hours, memory, disk, and what to change first."""

import math
from dataclasses import asdict, dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from vitlab.atomic_io import write_json
from vitlab.profiling.timing import surroundings
from vitlab.terminal import console
from vitlab.training.plan import GIB, print_rows

MEMORY_SHARE = 0.95  # of the device, above which a run counts as one that does not fit
WAITING_SHARE = 0.1  # of a step, from which data are the bottleneck
PROBING_SHARE = 0.25  # of the hours, from which advice is given
SCALAR = 64  # bytes of a point of a curve in TensorBoard's files, with its name


@dataclass(frozen=True)
class RunFacts:
    """Settings of a run, under the names of its config, and properties of the machine."""

    device: str
    world_size: int
    local_devices: int  # of one machine
    global_batch_size: int
    micro_batch_size: int
    accumulate_grad_batches: int
    steps_per_epoch: int
    epochs: int
    num_workers: int  # of each device
    cores: int  # that a process may use
    precision: str
    supports_bf16: bool  # and computes faster with it
    memory: int  # bytes that a process may use
    weights: int  # estimated bytes, with gradients and averages
    per_image: int  # estimated bytes that an image keeps until backward
    kept_checkpoints: int  # at the end of the run
    scalars: int  # points of all curves
    pictures: int  # bytes without compression, an upper bound
    free_disk: int
    probings: int  # how often probes run
    validations: int  # how often classifiers are validated

    @property
    def images(self) -> int:
        """Images of an optimizer step on one device."""
        return self.micro_batch_size * self.accumulate_grad_batches


@dataclass(frozen=True)
class TrialResult:
    """Measurements of one device with its share of the batch.

    Attributes:
        steps: seconds of each step (row) by part: data (waiting for loaders), copy (to the device,
            with normalization), forward, backward, optimizer (with clipping and averages), other.
        loading: images per second that the loaders of one device give when nothing else runs.
        peak: largest memory in bytes, weights included.
        checkpoint: bytes of one.
        probe_seconds: to read and encode the images of one probing, without fitting.
        validation_seconds: the same for one validation of the classifiers.
    """

    steps: pd.DataFrame
    loading: float
    peak: int
    checkpoint: int
    probe_seconds: float
    validation_seconds: float

    @property
    def step(self) -> float:
        """Median seconds of an optimizer step."""
        return float(self.steps.sum(axis=1).median())

    @property
    def waiting(self) -> float:
        """Median seconds that a step waits for data."""
        return float(self.steps["data"].median())

    def plain(self) -> dict[str, Any]:
        """Return all numbers as JSON holds them."""
        values = {each.name: getattr(self, each.name) for each in fields(self)[1:]}
        parts = {name: {"seconds": column.tolist()} for name, column in self.steps.items()}
        return {"step": {"seconds": self.steps.sum(axis=1).tolist()}, "parts": parts, **values}


@dataclass(frozen=True)
class Forecast:
    """Estimates for the whole run."""

    step_seconds: float  # once what was loaded in advance is used up
    images_per_second: float  # over all devices
    bound: str  # the bottleneck: "data" or "compute"
    epoch_hours: float  # of training alone
    hours: float  # with probes and validation
    device_hours: float
    probing: float  # share of the hours for probes and validation
    fits: bool  # into memory
    largest: int  # micro-batch that fits and divides the share of a device; 0 for none
    disk: int  # bytes that the folder of the run grows to

    def hours_on(self, devices: int) -> float:
        """Return the hours on so many devices, if speed grows in proportion to them."""
        return self.device_hours / devices


def forecast(trial: TrialResult, facts: RunFacts) -> Forecast:
    """Project a trial to the whole run."""
    # a few steps consume what was loaded before them, so slow loaders show only on their own
    loading = facts.images / trial.loading if facts.num_workers else 0.0
    step_seconds = max(trial.step, loading)
    slow_loaders = facts.num_workers > 0 and trial.loading < compute_throughput(trial, facts)
    waits = trial.waiting > WAITING_SHARE * trial.step
    probing = trial.probe_seconds * facts.probings + trial.validation_seconds * facts.validations
    hours = (facts.steps_per_epoch * facts.epochs * step_seconds + probing) / 3600
    measured = (trial.peak - facts.weights) / facts.micro_batch_size
    per_image = max(measured, facts.per_image, 1)  # the more careful of the two
    limit = (MEMORY_SHARE * facts.memory - facts.weights) / per_image
    sizes = (n for n in range(1, facts.images + 1) if facts.images % n == 0 and n <= limit)
    checkpoints = (facts.kept_checkpoints + 1) * trial.checkpoint  # one is being written
    return Forecast(
        step_seconds=step_seconds,
        images_per_second=facts.global_batch_size / step_seconds,
        bound="data" if waits or slow_loaders else "compute",
        epoch_hours=facts.steps_per_epoch * step_seconds / 3600,
        hours=hours,
        device_hours=hours * facts.world_size,
        probing=probing / 3600 / hours,
        fits=trial.peak <= MEMORY_SHARE * facts.memory,
        largest=max(sizes, default=0),
        disk=checkpoints + facts.scalars * SCALAR + facts.pictures,
    )


def compute_throughput(trial: TrialResult, facts: RunFacts) -> float:
    """Return the images per second of one device that never waits for data."""
    return facts.images / max(trial.step - trial.waiting, 1e-9)


def remedies(trial: TrialResult, facts: RunFacts, found: Forecast) -> list[str]:
    """Return what to change, the most urgent first; nothing that changes the recipe."""
    cores = max(1, facts.cores // facts.local_devices)
    batch = facts.global_batch_size
    devices = next((n for n in range(2 * facts.world_size, batch + 1) if batch % n == 0), 0)
    wanted, workers = compute_throughput(trial, facts), max(facts.num_workers, 1)
    needed = min(math.ceil(1.1 * workers * wanted / trial.loading), cores)
    data = f"data: {facts.num_workers} loading processes give {trial.loading:.0f} images/s and the "
    data += f"device could use {wanted:.0f}; "
    if facts.num_workers < cores:
        data += f"set --data.num_workers {max(facts.num_workers + 1, needed)}"
    else:
        data += "store the images smaller (resized once, to somewhat more than the largest crop) "
        data += "or on a faster disk, or use a machine with more cores"
    memory = "memory: not even one image fits; use a device with more memory"
    if found.largest:
        memory = f"memory: set --data.micro_batch_size {found.largest}, which accumulates"
    rules = {
        memory: not found.fits,
        f"disk: the run needs up to {found.disk / GIB:.2f} GiB, {facts.free_disk / GIB:.2f} are "
        "free; make space, choose another disk with --run-dir, or keep fewer checkpoints with "
        "--checkpoint.keep": found.disk > facts.free_disk,
        data: found.bound == "data",
        f"loading: {facts.local_devices} x {facts.num_workers} processes share {facts.cores} "
        f"cores; --data.num_workers {cores} needs less memory and is hardly slower": (
            facts.num_workers > cores
        ),
        "precision: this device computes faster with --trainer.precision bf16-mixed": (
            facts.supports_bf16 and facts.precision == "32-true"
        ),
        f"micro-batches: {found.largest} images fit at a time instead of "
        f"{facts.micro_batch_size}; set --data.micro_batch_size {found.largest}": (
            found.largest > facts.micro_batch_size
        ),
        f"probes take {found.probing:.0%} of the run; probe less often with "
        "--probing.every_n_epochs and --validation.every_n_epochs, or fewer images with "
        "--probing.images": found.probing > PROBING_SHARE,
        f"devices: {devices} would take about {clock(found.hours_on(devices or 1))}, if speed "
        "grows in proportion (communication is not counted)": (
            found.bound == "compute" and devices
        ),
    }
    return [text for text, applies in rules.items() if applies]


def clock(hours: float) -> str:
    """Return hours as 3:25:45, or 2 days, 3:25:45."""
    return str(timedelta(seconds=round(3600 * hours)))


def verdict(facts: RunFacts, found: Forecast) -> str:
    """Return the outcome in one sentence."""
    memory = "fits" if found.fits else "does not fit into memory"
    disk = "" if found.disk <= facts.free_disk else ", but the disk is too small"
    return (
        f"The run {memory}{disk}; it is bound by {found.bound} at {found.images_per_second:.3g} "
        f"images/s and takes about {clock(found.hours)} on {facts.world_size} devices."
    )


def report(trial: TrialResult, facts: RunFacts, world_size: int, file: Path | None) -> None:
    """Print measurements, forecast and advice, and write all numbers to a JSON file.

    The hours are projected to another number of devices, the world size, as well; 0 for none.
    """
    found = forecast(trial, facts)
    advice, outcome = remedies(trial, facts, found), verdict(facts, found)
    hours = {n: found.hours_on(n) for n in (facts.world_size, world_size) if n}
    step, seconds = trial.step, trial.steps.sum(axis=1)
    spread = (seconds.max() - seconds.min()) / step
    estimate = facts.weights + facts.micro_batch_size * facts.per_image
    rows = {
        "step": f"{step:.3g} s for {facts.images} images of one device, {facts.images / step:.3g}"
        f"/s; median of {len(seconds)} steps, spread {spread:.0%}"
    }
    for name, part in trial.steps.median().items():
        rows[f"  {name}"] = f"{part:.3g} s, {part / step:.0%}"
    rows |= {
        "loaders alone": f"{trial.loading:.3g} images/s by {facts.num_workers} processes, "
        f"{trial.loading * step / facts.images:.1f} x what a step uses now",
        "memory": f"{trial.peak / GIB:.2f} GiB of {facts.memory / GIB:.1f} GiB (estimated "
        f"{estimate / GIB:.2f}); fits up to {found.largest} of {facts.images} images at a time",
        "probes": f"at least {facts.probings} x {trial.probe_seconds:.3g} s, validation "
        f"{facts.validations} x {trial.validation_seconds:.3g} s to read and encode: "
        f"{found.probing:.0%} of the time",
        "disk": f"up to {found.disk / GIB:.2f} GiB of {facts.free_disk / GIB:.2f}, with "
        f"{facts.kept_checkpoints} checkpoints of {trial.checkpoint / GIB:.2f}, one being written",
        "an epoch": f"{clock(found.epoch_hours)} without probes",
    }
    for n, each in hours.items():
        rows[f"run on {n}"] = f"{clock(each)}, {found.device_hours:.3g} device-hours"
    print_rows(f"measured on {facts.device}", rows)
    to = console()
    to.print(outcome)
    for index, text in enumerate(advice):
        to.print(f"{'Then' if index else 'Next'}: {text}.")
    if file is not None:
        content: dict[str, Any] = {"surroundings": surroundings(), "facts": asdict(facts)}
        content |= {"trial": trial.plain(), "forecast": asdict(found), "hours_on_devices": hours}
        write_json(file, {**content, "verdict": outcome, "remedies": advice})
