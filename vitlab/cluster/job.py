"""A run as a job of SLURM, or an array of runs with different seeds: script and submission."""

import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from vitlab.atomic_io import read_json_as, write_bytes, write_json
from vitlab.cluster.slurm import ask, queue
from vitlab.errors import InputError, check_least
from vitlab.launch import SHELLS

JOB_FOLDER = "job"  # below a run's folder: script, config, output
SCRIPT, CONFIG, TICKET = "job.sh", "config.yaml", "job.json"
PASSED_ON = ("partition", "account", "qos", "constraint", "mem")
# more options of sbatch that --sbatch may not have, besides those that the script sets
UNFIT = {"ntasks", "no-requeue", "error", "parsable", "wait", "wrap"}
EARLY = 60  # seconds by which a signal may be early, see man sbatch
TEMPLATE = """\
#!/bin/bash
# {command}
{directives}

set -e{setup}
run={run}
# a port of its own for each job of a machine
export MASTER_PORT=$((15000 + SLURM_JOB_ID % 10000)){address}
# if one process fails, the others end; a requeued job continues (--ckpt_path auto)
srun --kill-on-bad-exit=1 --cpus-per-task={cpus} \\
  {python} -m vitlab fit \\
  --config "$run"/job/config.yaml --run-dir "$run" {words}
"""


@dataclass(frozen=True)
class SubmitOptions:
    """Run `vitlab fit` as a job of SLURM, with one process for each GPU.

    The config is checked here, whole, before anything waits in a queue; the data are looked for on
    the node. Before the time limit the run writes a checkpoint and the job queues again, until the
    run is finished; after the failure of a node it continues from the last checkpoint. The job runs
    the config as it is now: later changes of its files do not reach it.

    Options behind -- are those of `vitlab fit`. The folder job/ in that of the run has the script,
    the config and the output of the job.

    Args:
        config: of vitlab fit; several overlay each other
        time: limit of one start, such as 48:00:00 or 2-12 (days-hours)
        num_nodes: machines
        gpus_per_node: processes and GPUs of each machine; 0 for a run on CPUs
        tasks_per_node: processes of each machine, for runs on CPUs
        cpus_per_task: cores of each process; by default its loading processes and one
        partition: as sbatch takes it
        account: as sbatch takes it
        qos: as sbatch takes it
        constraint: as sbatch takes it
        mem: as sbatch takes it, for each machine
        seeds: such as 0-2 or 0,3,5: a run for each seed, as an array of jobs
        name: of the job; by default the names of the configs
        setup: lines of bash before the run, in order
        signal_before: seconds before the limit at which the run stops
        sbatch: further options, such as mail-type=END exclusive
        dry_run: show the script; nothing is written or submitted
    """

    config: list[str]
    time: str
    num_nodes: int = 1
    gpus_per_node: int = 1
    tasks_per_node: int = 1
    cpus_per_task: int | None = None
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    mem: str = ""
    seeds: str = ""
    name: str = ""
    setup: list[str] = field(default_factory=list)
    signal_before: int = 120
    sbatch: list[str] = field(default_factory=list)
    dry_run: bool = False

    def __post_init__(self) -> None:
        least = {"num_nodes": 1, "gpus_per_node": 0, "tasks_per_node": 1, "signal_before": 1}
        check_least(self, "--", {**least, "cpus_per_task": 1})
        limit, needed = parse_time(self.time), self.signal_before + EARLY
        if limit <= needed:
            raise InputError(
                f"--time {self.time} is {limit} seconds, which leaves none to train: SLURM asks "
                f"the run to stop {self.signal_before} seconds before (--signal-before), or up to "
                f"{EARLY} more; give more than {needed} seconds",
                field="--time",
            )
        if self.gpus_per_node and self.tasks_per_node not in (1, self.gpus_per_node):
            raise InputError(
                f"--tasks-per-node {self.tasks_per_node} is for runs on CPUs, with "
                f"--gpus-per-node 0; each of {self.gpus_per_node} GPUs has one process",
                field="--tasks-per-node",
            )
        if self.job_name in SHELLS or not re.fullmatch(r"[\w.+-]+", self.job_name):
            raise InputError(
                f"--name {self.job_name!r} is not a name for a job; use letters, digits and "
                f"._+-, and neither of {', '.join(SHELLS)}",
                field="--name",
            )
        parse_seeds(self.seeds)

    @property
    def devices(self) -> int:
        """Processes of each machine."""
        return self.gpus_per_node or self.tasks_per_node

    @property
    def job_name(self) -> str:
        """Name of the job, by default of the configs."""
        configs = "-".join(Path(config).stem for config in self.config)
        return self.name or re.sub(r"[^\w.+-]", "_", configs)

    def folders(self, root: Path) -> list[Path]:
        """Return the folder of each run: root itself, or those of the seeds in it."""
        return [root / f"seed{seed}" for seed in parse_seeds(self.seeds)] or [root]


def batch_script(
    options: SubmitOptions, root: Path, fit_options: Sequence[str], command: str
) -> str:
    """Return the script for sbatch; the job starts in the current folder.

    Args:
        options: of `vitlab submit`.
        root: folder of the run; of an array, the parent of seed0, seed1, ...
        fit_options: of `vitlab fit`, besides the config and the folder.
        command: that makes the script, for its readers.

    Raises:
        InputError: an option cannot stand in a script, or would overrule the script's own.
    """
    setup, allow = list(options.setup), os.environ.get("VITLAB_ALLOW")
    if allow:  # last: lines of --setup may add packages, but not lose those of the check made here
        setup.append(f'export VITLAB_ALLOW={shlex.quote(allow)}"${{VITLAB_ALLOW:+,$VITLAB_ALLOW}}"')
    seed = ['--seed_everything "$SLURM_ARRAY_TASK_ID"'] if options.seeds else []
    return TEMPLATE.format(
        command="\n# ".join(command.splitlines()),
        directives="\n".join(f"#SBATCH --{each}" for each in _directives(options, root)),
        setup="".join(f"\n{line}" for line in setup),
        run=shlex.quote(str(root)) + ('/seed"$SLURM_ARRAY_TASK_ID"' if seed else ""),
        address="" if options.num_nodes > 1 else "\nexport MASTER_ADDR=127.0.0.1",
        cpus=options.cpus_per_task or 1,
        python=shlex.quote(sys.executable),
        words=" ".join([*seed, shlex.join(fit_options)]),
    )


def _directives(options: SubmitOptions, root: Path) -> Iterator[str]:
    """Yield the options of sbatch, quoted by its rules, which are not those of bash."""
    output = f"seed%a/{JOB_FOLDER}/%A_%a.out" if options.seeds else f"{JOB_FOLDER}/%j.out"
    directives = {
        "job-name": options.job_name,
        "nodes": options.num_nodes,
        "ntasks-per-node": options.devices,
        "cpus-per-task": options.cpus_per_task or 1,
        "gpus-per-node": options.gpus_per_node or "",
        "time": options.time,
        **{name: getattr(options, name) for name in PASSED_ON},
        "array": options.seeds,
        "signal": f"USR1@{options.signal_before}",  # to every process, not to the script
        "open-mode": "append",  # all starts of a job write to one file
        "chdir": Path.cwd(),
        "output": f"{root}/".replace("%", "%%") + output,
    }
    yield "requeue"
    for name, value in directives.items():
        if value:
            yield f"{name}={_quote(name, str(value))}"
    for name, equals, value in (option.partition("=") for option in options.sbatch):
        if name in {*directives, *UNFIT, "requeue"} or not re.fullmatch(r"[a-z][a-z-]*", name):
            raise InputError(
                f"--sbatch {name} is set by another option of vitlab submit or is none of "
                "sbatch's; see --help, and give options such as --sbatch mail-type=END",
                field="--sbatch",
            )
        yield f"{name}{equals}{_quote(name, value)}"


def _quote(name: str, value: str) -> str:
    if not value.isprintable():
        raise InputError(
            f"{value!r} cannot stand in a batch script; leave out line breaks", field=f"--{name}"
        )
    if re.fullmatch(r"[\w@%+=:,./\[\]-]*", value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def parse_time(time: str) -> int:
    """Return the seconds of a time limit in SLURM's notation.

    Raises:
        InputError: the text is no time limit.
    """
    found = re.fullmatch(r"(?:([0-9]+)-)?([0-9]+)(?::([0-5]?[0-9]))?(?::([0-5]?[0-9]))?", time)
    if not found:
        raise InputError(
            f"--time {time} is no limit of SLURM; use hours:minutes:seconds such as 48:00:00, "
            "days-hours such as 2-12, or minutes",
            field="--time",
        )
    days, *parts = found.groups()
    values = [int(part) for part in parts if part]
    # days-hours[:minutes[:seconds]] and hours:minutes:seconds, or minutes[:seconds]
    units = [3600, 60, 1] if days or len(values) == 3 else [60, 1]
    seconds = sum(value * unit for value, unit in zip(values, units, strict=False))
    return int(days or 0) * 86400 + seconds


def parse_seeds(seeds: str) -> list[int]:
    """Return the seeds of an array in SLURM's notation, of "" none.

    Raises:
        InputError: the text is no such list, or has a seed twice.
    """
    valid = re.fullmatch(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*", seeds)
    found: list[int] = []
    for first, _, last in (part.partition("-") for part in seeds.split(",") if valid):
        found += range(int(first), int(last or first) + 1)
    if seeds and (not found or len(set(found)) < len(found)):
        raise InputError(
            f"--seeds {seeds} are no seeds, or one is given twice; give 0-2 or 0,3,5",
            field="--seeds",
        )
    return found


@dataclass(frozen=True)
class Ticket:
    """Content of RUN/job/job.json: a job's ID, time of submission since 1970, and command."""

    job: str
    submitted: float = 0.0
    command: str = ""


def refuse_queued(folder: Path) -> None:
    """Refuse a run whose job is still in the queue: two would write into one folder.

    Raises:
        InputError: there is such a job, or the file that names it is damaged; remove that file.
    """
    with suppress(FileNotFoundError):
        job = read_json_as(folder / JOB_FOLDER / TICKET, Ticket).job
        if queued := queue().get(job):
            raise InputError(
                f"{folder} has job {job} already, which is {queued.state}; let it go on, end it "
                f"with scancel {job}, or choose another folder with -- --run-dir DIR",
                field="--run-dir",
            )


def submit(options: SubmitOptions, root: Path, script: str, config: str, command: str) -> str:
    """Write script and resolved config into the folders of the runs, and submit the job.

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
    places = [folder / JOB_FOLDER for folder in options.folders(root)]
    new = [place for place in places if not (place / TICKET).exists()]
    for place in places:
        write_bytes(place / CONFIG, config.encode())
        write_bytes(place / SCRIPT, script.encode())
    try:
        # with several clusters, the name of one follows
        number = ask("sbatch", "--parsable", str(places[0] / SCRIPT)).strip().split(";")[0]
    except InputError:
        for place in new:  # an earlier job's files stay; the next submission writes them again
            (place / CONFIG).unlink()
            (place / SCRIPT).unlink()
            with suppress(OSError):  # folders that hold something else
                for folder in dict.fromkeys((place, place.parent, root)):
                    folder.rmdir()
        raise
    names = [f"{number}_{seed}" for seed in parse_seeds(options.seeds)] or [number]
    for place, name in zip(places, names, strict=True):
        write_json(place / TICKET, asdict(Ticket(name, time.time(), command)))
    return number
