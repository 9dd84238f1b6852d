"""The outcome of a trial: a table, a sentence, what to change, and all numbers as a file."""

from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vitlab.atomic_io import write_json
from vitlab.profiling.forecast import GIB, Facts, Forecast, Trial, duration, forecast, size, verdict
from vitlab.profiling.remedies import remedies
from vitlab.profiling.timing import surroundings

MEANING = {
    "data": "waiting for loaders",
    "copy": "to the device, normalizing",
    "forward": "",
    "backward": "",
    "optimizer": "with clipping and moving averages",
    "other": "logging, loop",
}


def report(trial: Trial, facts: Facts, world: int = 0, file: Path | None = None) -> None:
    """Print what was measured and what follows.

    Args:
        trial: what was measured.
        facts: of the run.
        world: other devices to project to; 0 for none.
        file: JSON with all numbers; None for none.
    """
    found = forecast(trial, facts)
    advice, outcome = remedies(trial, facts, found), verdict(facts, found)
    console = Console()
    console.print(table(trial, facts, found, world))
    console.print(outcome, highlight=False)
    for index, text in enumerate(advice):
        console.print(f"{'Then' if index else 'Next'}: {text}.", highlight=False, markup=False)
    if file is not None:
        content = {
            "surroundings": surroundings(),
            "facts": asdict(facts),
            "trial": asdict(trial),
            "forecast": asdict(found),
            "hours_on_devices": {n: found.hours_on(n) for n in (facts.world, world) if n},
            "verdict": outcome,
            "remedies": advice,
        }
        write_json(file, content)


def table(trial: Trial, facts: Facts, found: Forecast, world: int = 0) -> Table:
    """Return a table with a row for each thing that was measured or follows.

    Args:
        trial: what was measured.
        facts: of the run.
        found: what follows.
        world: other devices to project to; 0 for none.
    """
    shown = Table(title=f"measured on {facts.device}", show_header=False, title_justify="left")
    share, step = facts.per_device * facts.accumulate, trial.step
    count = len(step.seconds)
    few = f"{count} step{'s' * (count > 1)}" + (f", spread {step.spread:.0%}" if count > 1 else "")
    shown.add_row("step", f"{step.median:.3g} s for {share} images, {share / step.median:.3g}/s")
    shown.add_row("", f"median of {few}; of one device")
    for name, timed in trial.parts.items():
        part = f"{timed.median:.3g} s, {timed.median / step.median:.0%}"
        shown.add_row(f"  {name}", part + (f"  ({MEANING[name]})" if MEANING[name] else ""))
    several = "es" * (facts.workers > 1)
    processes = f"{facts.workers} process{several}" if facts.workers else "the main process"
    ratio = trial.loading * step.median / share
    shown.add_row(
        "loaders alone",
        f"{trial.loading:.3g} images/s by {processes}, {ratio:.1f} x what a step uses now",
    )
    here = "allocated" if facts.device != "cpu" else "weights, and what the process grew by"
    foreseen = facts.weights + facts.per_device * facts.per_image
    shown.add_row(
        "memory",
        f"{trial.peak / GIB:.2f} GiB of {facts.memory / GIB:.1f} GiB ({here}; foreseen "
        f"{foreseen / GIB:.2f}); fits up to {found.largest} of {share} images at a time",
    )
    shown.add_row(
        "time",
        f"{duration(found.epoch_hours)} an epoch, {duration(found.hours)} for {facts.epochs} "
        f"epochs on {facts.world} device{'s' * (facts.world > 1)}: "
        f"{found.device_hours:.3g} device-hours",
    )
    if world and world != facts.world:
        shown.add_row(
            "",
            f"{duration(found.hours_on(world))} on {world} devices, if speed grows in proportion; "
            "communication is not counted",
        )
    measured = f"{facts.measurements} x {trial.probe:.3g} s"
    scored = f"; {facts.scores} x {trial.score:.3g} s of scores" if facts.scores else ""
    shown.add_row(
        "probes", f"at least {measured} to read and encode{scored}: {found.probing:.0%} of the time"
    )
    shown.add_row(
        "disk",
        f"up to {size(found.disk)}: {facts.kept} checkpoints of {size(trial.checkpoint)} and one "
        f"being written, curves, pictures; {size(facts.free)} are free",
    )
    return shown
