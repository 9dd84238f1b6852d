"""Submission of a job: files in the folder of each run, and sbatch."""

import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from vitlab.atomic_io import read_json_as, write_bytes, write_json
from vitlab.cluster import slurm
from vitlab.cluster.job import CONFIG, JOB_FOLDER, SCRIPT, TICKET, Job, parse_seeds
from vitlab.errors import InputError


@dataclass(frozen=True)
class Ticket:
    """Content of RUN/job/job.json.

    Attributes:
        job: job ID of SLURM.
        submitted: seconds since 1970.
        command: of the submission.
    """

    job: str
    submitted: float = 0.0
    command: str = ""


def refuse_queued(folder: Path) -> None:
    """Refuse a run whose job is still in the queue: two would write into one folder.

    Raises:
        InputError: there is such a job, or the file that has its ID is damaged.
    """
    try:
        job = read_json_as(folder / JOB_FOLDER / TICKET, Ticket).job
    except FileNotFoundError:
        return
    except InputError as error:
        raise InputError(
            f"{error}, so the job of this run is not known; remove the file if squeue has none",
            field=error.field,
        ) from error
    queued = slurm.queue().get(job)
    if queued:
        raise InputError(
            f"{folder} has job {job} already, which is {queued.state}; let it go on, end it "
            f"with scancel {job}, or choose another folder with -- --run-dir DIR",
            field="--run-dir",
        )


def submit(job: Job, config: str) -> str:
    """Write script and config into the folders of the runs, and submit the job.

    Args:
        job: to submit.
        config: of the run, resolved.

    Returns:
        The job ID.

    Raises:
        InputError: there is no SLURM here, or it refuses the job.
    """
    if shutil.which("sbatch") is None:
        raise InputError(
            "there is no sbatch on this machine, so nothing can be submitted; go to a login node "
            "of the cluster, or see the script with --dry-run"
        )
    places = [folder / JOB_FOLDER for folder in job.folders()]
    for place in places:
        write_bytes(place / CONFIG, config.encode())
        write_bytes(place / SCRIPT, job.script().encode())
    try:
        number = slurm.sbatch(places[0] / SCRIPT)
    except InputError:
        for place in places:
            _remove_files(place, job.folder.parent)
        raise
    seeds = parse_seeds(job.options.seeds) if job.options.seeds else []
    names = [f"{number}_{seed}" for seed in seeds] or [number]
    for place, name in zip(places, names, strict=True):
        write_json(place / TICKET, asdict(Ticket(name, time.time(), job.command)))
    return number


def _remove_files(place: Path, above: Path) -> None:
    """Remove the files of a refused job, and folders that are then empty.

    Files of an earlier job stay; the next submission writes the config again.
    """
    if (place / TICKET).exists():
        return
    (place / CONFIG).unlink()
    (place / SCRIPT).unlink()
    for folder in (place, *place.parents):
        if folder == above or any(folder.iterdir()):
            return
        folder.rmdir()
