"""From a job to SLURM's queue, with a note of it in the folder of each run."""

import json
import time
from pathlib import Path

from vitlab.cluster import slurm
from vitlab.cluster.job import CONFIG, FOLDER, SCRIPT, TICKET, Job, numbers
from vitlab.recording import write_bytes, write_json


def refuse_queued(folder: Path) -> None:
    """Refuse a run whose job SLURM has not finished with: two would write into one folder.

    Raises:
        ValueError: which job that is.
    """
    ticket = folder / FOLDER / TICKET
    if not ticket.exists():
        return
    number = json.loads(ticket.read_text())["job"]
    queued = slurm.queue().get(number)
    if queued:
        raise ValueError(
            f"{folder} has job {number} already, which is {queued.state}; let it go on, end it "
            f"with scancel {number}, or choose another folder with -- --run DIR"
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
    places = [folder / FOLDER for folder in job.folders()]
    for place in places:
        write_bytes(place / CONFIG, config.encode())
        write_bytes(place / SCRIPT, job.script().encode())
    number = slurm.submit(places[0] / SCRIPT)
    names = [f"{number}_{seed}" for seed in numbers(job.seeds)] if job.seeds else [number]
    for place, name in zip(places, names, strict=True):
        ticket = {"job": name, "submitted": time.time(), "command": job.command}
        write_json(place / TICKET, ticket)
    return number
