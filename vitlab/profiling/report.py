"""Report of a trial: a table, a sentence, advice, and all numbers as a file."""

from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vitlab.atomic_io import write_json
from vitlab.profiling.forecast import (
    GIB,
    Forecast,
    RunFacts,
    TrialResult,
    duration,
    forecast,
    size,
    verdict,
)
from vitlab.profiling.remedies import remedies
from vitlab.profiling.timing import surroundings

MEANING = {
    "data": "  (waiting for loaders)",
    "copy": "  (to the device, normalizing)",
    "optimizer": "  (with clipping and moving averages)",
    "other": "  (logging, loop)",
}


def report(
    trial: TrialResult, facts: RunFacts, world_size: int = 0, file: Path | None = None
) -> None:
    """Print measurements, forecast and advice, and write all numbers to a JSON file.

    The hours are projected to another number of devices, the world size, as well; 0 for none.
    """
    found = forecast(trial, facts)
    advice, outcome = remedies(trial, facts, found), verdict(facts, found)
    console = Console()
    console.print(_table(trial, facts, found, world_size))
    console.print(outcome, highlight=False)
    for index, text in enumerate(advice):
        console.print(f"{'Then' if index else 'Next'}: {text}.", highlight=False, markup=False)
    if file is not None:
        devices = filter(None, (facts.world_size, world_size))
        content = {
            "surroundings": surroundings(),
            "facts": asdict(facts),
            "trial": asdict(trial),
            "forecast": asdict(found),
            "hours_on_devices": {n: found.hours_on(n) for n in devices},
            "verdict": outcome,
            "remedies": advice,
        }
        write_json(file, content)


def _table(trial: TrialResult, facts: RunFacts, found: Forecast, world_size: int) -> Table:
    table = Table(title=f"measured on {facts.device}", show_header=False, title_justify="left")
    step, count = trial.step.median, len(trial.step.seconds)
    steps = _plural(count, "step") + (f", spread {trial.step.spread:.0%}" if count > 1 else "")
    table.add_row("step", f"{step:.3g} s for {facts.images} images, {facts.images / step:.3g}/s")
    table.add_row("", f"median of {steps}; of one device")
    for name, part in trial.parts.items():
        text = f"{part.median:.3g} s, {part.median / step:.0%}"
        table.add_row(f"  {name}", text + MEANING.get(name, ""))
    workers = (
        _plural(facts.num_workers, "process", "es") if facts.num_workers else "the main process"
    )
    table.add_row(
        "loaders alone",
        f"{trial.loading:.3g} images/s by {workers}, {trial.loading * step / facts.images:.1f} x "
        "what a step uses now",
    )
    kind = "allocated" if facts.device != "cpu" else "weights, and growth of the process"
    estimate = facts.weights + facts.micro_batch_size * facts.per_image
    table.add_row(
        "memory",
        f"{trial.peak / GIB:.2f} GiB of {facts.memory / GIB:.1f} GiB ({kind}; estimated "
        f"{estimate / GIB:.2f}); fits up to {found.largest} of {facts.images} images at a time",
    )
    table.add_row(
        "time",
        f"{duration(found.epoch_hours)} an epoch, {duration(found.hours)} for {facts.epochs} "
        f"epochs on {_plural(facts.world_size, 'device')}: {found.device_hours:.3g} device-hours",
    )
    if world_size and world_size != facts.world_size:
        table.add_row(
            "",
            f"{duration(found.hours_on(world_size))} on {world_size} devices, if speed grows in "
            "proportion; communication is not counted",
        )
    probes = f"{facts.probings} x {trial.probe_seconds:.3g} s"
    if facts.validations:
        probes += f"; validation {facts.validations} x {trial.validation_seconds:.3g} s"
    table.add_row(
        "probes", f"at least {probes} to read and encode: {found.probing:.0%} of the time"
    )
    table.add_row(
        "disk",
        f"up to {size(found.disk)}: {facts.kept_checkpoints} checkpoints of "
        f"{size(trial.checkpoint)} and one being written, curves, pictures; "
        f"{size(facts.free_disk)} are free",
    )
    return table


def _plural(count: int, noun: str, ending: str = "s") -> str:
    return f"{count} {noun}{ending * (count > 1)}"
