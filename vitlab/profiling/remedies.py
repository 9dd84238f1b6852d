"""Advice from the trial of a run, by rules on its measurements; nothing that changes the recipe."""

import math

from vitlab.profiling.forecast import Forecast, RunFacts, TrialResult, duration, size

LARGE_SHARE = 0.25  # of the hours for probes, from which advice is given


def remedies(trial: TrialResult, facts: RunFacts, found: Forecast) -> list[str]:
    """Return what to change, the most urgent first."""
    cores = max(1, facts.cores // facts.local_devices)
    candidates = range(2 * facts.world_size, facts.global_batch_size + 1)
    more_devices = next((n for n in candidates if facts.global_batch_size % n == 0), 0)
    rules = [
        (
            not found.fits,
            f"memory: set --data.micro_batch_size {found.largest}, which accumulates micro-batches"
            if found.largest
            else "memory: not even one image fits; use a device with more memory",
        ),
        (
            found.disk > facts.free_disk,
            f"disk: the run needs up to {size(found.disk)} and {size(facts.free_disk)} are free; "
            "make space, choose another disk with --run-dir, or keep fewer checkpoints with "
            "--checkpoint.keep",
        ),
        (found.bound == "data", _data_remedy(trial, facts, cores)),
        (
            facts.num_workers > cores,
            f"loading: {facts.local_devices} x {facts.num_workers} processes share {facts.cores} "
            f"cores; --data.num_workers {cores} needs less memory and is hardly slower",
        ),
        (facts.slow_attention, f"attention: {facts.slow_attention}; remove the cause"),
        (
            facts.supports_bf16 and facts.precision == "32-true",
            "precision: this device computes faster with --trainer.precision bf16-mixed",
        ),
        (
            found.largest > facts.micro_batch_size,
            f"micro-batches: {found.largest} images fit at a time instead of "
            f"{facts.micro_batch_size}; set --data.micro_batch_size {found.largest}",
        ),
        (
            found.probing > LARGE_SHARE,
            f"probes take {found.probing:.0%} of the run; probe less often with "
            "--probing.every_n_epochs and --validation.every_n_epochs, or fewer images with "
            "--probing.images",
        ),
        (
            found.bound == "compute" and more_devices,
            f"devices: {more_devices} would take about "
            f"{duration(found.hours_on(max(more_devices, 1)))}, if speed grows in proportion "
            "(communication is not counted)",
        ),
    ]
    return [text for applies, text in rules if applies]


def _data_remedy(trial: TrialResult, facts: RunFacts, cores: int) -> str:
    wanted = trial.compute_throughput(facts)
    needed = math.ceil(1.1 * max(facts.num_workers, 1) * wanted / trial.loading)
    if not facts.num_workers:
        return (
            "data: images are loaded between the steps, not while the device computes; set "
            f"--data.num_workers {min(needed, cores)}"
        )
    if facts.num_workers < cores:
        return (
            f"data: the loaders give {trial.loading:.0f} images/s by themselves and the device "
            f"could use {wanted:.0f}; set --data.num_workers "
            f"{max(facts.num_workers + 1, min(needed, cores))}"
        )
    return (
        f"data: {facts.cores} cores load {trial.loading:.0f} images/s for each device, which could "
        f"use {wanted:.0f}; store the images smaller (resized once, to somewhat more than the "
        "largest crop) or on a faster disk, or use a machine with more cores"
    )
