"""What could be changed of a run that was tried, by rules on what was measured."""

import math

from vitlab.profiling.forecast import Facts, Forecast, Trial, duration, size

MUCH = 0.25  # share of a run spent measuring, from which it is worth a word


def remedies(trial: Trial, facts: Facts, found: Forecast) -> list[str]:
    """Return what could be changed, the most pressing first; never what changes the recipe."""
    advice = [
        _memory(found),
        _disk(facts, found),
        _data(trial, facts) if found.bound == "data" else "",
        _processes(facts),
        f"attention: {facts.slow_attention}; remove the cause" if facts.slow_attention else "",
        _precision(facts),
        _micro_batches(facts, found),
        _measuring(found),
        _devices(facts, found),
    ]
    return [text for text in advice if text]


def _memory(found: Forecast) -> str:
    if found.fits:
        return ""
    if not found.largest:
        return "memory: not even one image fits; use a device with more memory"
    return f"memory: set --data.micro_batch_size {found.largest}, which accumulates micro-batches"


def _disk(facts: Facts, found: Forecast) -> str:
    if found.disk <= facts.free:
        return ""
    return (
        f"disk: the run needs up to {size(found.disk)} and {size(facts.free)} are free; make "
        "space, choose another disk with --run-dir, or keep fewer checkpoints with --checkpoint.keep"
    )


def _processes(facts: Facts) -> str:
    fewer = max(1, facts.cores // facts.here)
    if facts.workers <= fewer:
        return ""
    return (
        f"loading: {facts.here} x {facts.workers} processes share {facts.cores} cores; "
        f"--data.num_workers {fewer} needs less memory and is hardly slower"
    )


def _data(trial: Trial, facts: Facts) -> str:
    share = facts.per_device * facts.accumulate
    wanted = share / max(trial.step.median - trial.parts["data"].median, 1e-9)
    cores = max(1, facts.cores // facts.here)
    if not facts.workers:
        needed = math.ceil(1.1 * wanted / trial.loading)
        return (
            "data: images are loaded between the steps, not while the device computes; set "
            f"--data.num_workers {min(needed, cores)}"
        )
    needed = math.ceil(1.1 * facts.workers * wanted / trial.loading)
    if facts.workers < cores:
        return (
            f"data: the loaders give {trial.loading:.0f} images/s by themselves and the device "
            f"could use {wanted:.0f}; set --data.num_workers "
            f"{max(facts.workers + 1, min(needed, cores))}"
        )
    return (
        f"data: {facts.cores} cores load {trial.loading:.0f} images/s for each device, which could "
        f"use {wanted:.0f}; store the images smaller (resized once, to somewhat more than the "
        "largest crop) or on a faster disk, or use a machine with more cores"
    )


def _precision(facts: Facts) -> str:
    if not (facts.half and facts.precision == "32-true"):
        return ""
    return "precision: this device computes faster with --trainer.precision bf16-mixed"


def _micro_batches(facts: Facts, found: Forecast) -> str:
    if found.largest <= facts.per_device:
        return ""
    return (
        f"micro-batches: {found.largest} images fit at a time instead of {facts.per_device}; set "
        f"--data.micro_batch_size {found.largest}"
    )


def _measuring(found: Forecast) -> str:
    if found.probing <= MUCH:
        return ""
    return (
        f"measuring takes {found.probing:.0%} of the run; measure less often with --probing.every_n_epochs "
        "and --validation.every_n_epochs, or fewer images with --probing.images"
    )


def _devices(facts: Facts, found: Forecast) -> str:
    larger = range(2 * facts.world, facts.batch + 1)
    more = next((n for n in larger if facts.batch % n == 0), None)
    if found.bound != "compute" or more is None:
        return ""
    return (
        f"devices: {more} would take about {duration(found.hours_on(more))}, if speed grows in "
        "proportion (communication is not counted)"
    )
