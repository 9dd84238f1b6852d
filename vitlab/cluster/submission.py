"""From a job to SLURM's queue, with a note of it in the folder of each run."""

import time
from dataclasses import asdict
from pathlib import Path

from vitlab.atomic_io import write_bytes, write_json
from vitlab.cluster import slurm
from vitlab.cluster.job import CONFIG, JOB_FOLDER, SCRIPT, TICKET, Job, numbers
from vitlab.cluster.notes import Ticket, read


def refuse_queued(folder: Path) -> None:
    """Refuse a run whose job SLURM has not finished with: two would write into one folder.

    Raises:
        ValueError: which job that is, or that this cannot be told.
    """
    try:
        ticket: Ticket | None = read(folder / JOB_FOLDER / TICKET, Ticket)
    except ValueError as error:
        raise ValueError(
            f"{error}, so nobody knows the job of this run; remove it if squeue has none"
        ) from error
    queued = slurm.queue().get(ticket.job) if ticket else None
    if ticket and queued:
        raise ValueError(
            f"{folder} has job {ticket.job} already, which is {queued.state}; let it go on, end it "
            f"with scancel {ticket.job}, or choose another folder with -- --run-dir DIR"
        )


def submit(job: Job, config: str) -> str:
    """Write what the job needs into the folders of its runs, and hand it to SLURM.

    Args:
        job: what is submitted.
        config: of the run, resolved.

    Returns:
        The number of the job.

    Raises:
        ValueError: there is no SLURM here, or it refuses the job.
    """
    slurm.check_present()
    places = [folder / JOB_FOLDER for folder in job.folders()]
    for place in places:
        write_bytes(place / CONFIG, config.encode())
        write_bytes(place / SCRIPT, job.script().encode())
    try:
        number = slurm.submit(places[0] / SCRIPT)
    except ValueError:
        for place in places:
            _withdraw(place, job.folder.parent)
        raise
    names = [f"{number}_{seed}" for seed in numbers(job.seeds)] if job.seeds else [number]
    for place, name in zip(places, names, strict=True):
        write_json(place / TICKET, asdict(Ticket(name, time.time(), job.command)))
    return number


def _withdraw(place: Path, above: Path) -> None:
    """Remove what was written for a job that is none, and folders that are then empty.

    What an earlier job has left stays: its config is written again with the next submission.
    """
    if (place / TICKET).exists():
        return
    (place / CONFIG).unlink()
    (place / SCRIPT).unlink()
    for folder in (place, *place.parents):
        if folder == above or any(folder.iterdir()):
            return
        folder.rmdir()
