"""Batch script of SLURM for one run, or for an array of runs with different seeds."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vitlab.errors import InputError

JOB_FOLDER = "job"  # below a run's folder: script, config, output
SCRIPT, CONFIG, TICKET = "job.sh", "config.yaml", "job.json"
# Lightning takes jobs of these names for interactive shells and starts no ranks
RESERVED_NAMES = ("bash", "interactive")
# options of sbatch that `vitlab submit` sets itself
RESERVED_OPTIONS = {
    *("nodes", "ntasks", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "time", "signal"),
    *("requeue", "no-requeue", "open-mode", "output", "error", "chdir", "job-name", "array"),
    *("partition", "account", "qos", "constraint", "mem", "parsable", "wait", "wrap"),
}
EARLY = 60  # seconds by which a signal may be early, see man sbatch
MASTER_PORTS = 15000  # first of ten thousand ports, one for each job of a machine


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
        minimum = {"num_nodes": 1, "gpus_per_node": 0, "tasks_per_node": 1, "cpus_per_task": 1}
        for name, least in {**minimum, "signal_before": 1}.items():
            value, option = getattr(self, name), f"--{name.replace('_', '-')}"
            if value is not None and value < least:
                raise InputError(f"{option} {value} is too small; use {least}", field=option)
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
        if self.seeds:
            parse_seeds(self.seeds)
        for option in self.sbatch:
            name = option.partition("=")[0]
            if name in RESERVED_OPTIONS or not re.fullmatch(r"[a-z][a-z-]*", name):
                raise InputError(
                    f"--sbatch {name} is set by another option of vitlab submit or is none of "
                    "sbatch's; see --help, and give options such as --sbatch mail-type=END",
                    field="--sbatch",
                )

    @property
    def devices(self) -> int:
        """Processes of each machine."""
        return self.gpus_per_node or self.tasks_per_node


@dataclass(frozen=True)
class Job:
    """One run, or one for each seed.

    Args:
        options: of `vitlab submit`.
        folder: of the run; of an array, the parent of seed0, seed1, ...
        working_dir: folder the job starts in, for relative paths of the config.
        python: interpreter of the environment that has vitlab.
        fit_options: of `vitlab fit`, besides the config and the folder.
        allow: value of VITLAB_ALLOW.
        command: that made the script, for its readers.
    """

    options: SubmitOptions
    folder: Path
    working_dir: Path
    python: str
    fit_options: Sequence[str] = ()
    allow: str = ""
    command: str = ""

    @property
    def name(self) -> str:
        """Name of the job, by default of the configs."""
        configs = "-".join(Path(config).stem for config in self.options.config)
        return self.options.name or re.sub(r"[^\w.+-]", "_", configs)

    def __post_init__(self) -> None:
        if self.name in RESERVED_NAMES or not re.fullmatch(r"[\w.+-]+", self.name):
            raise InputError(
                f"--name {self.name!r} is not a name for a job; use letters, digits and ._+-, and "
                f"neither of {', '.join(RESERVED_NAMES)}",
                field="--name",
            )
        for name, value in self.directives():
            if not value.isprintable():
                raise InputError(
                    f"{value!r} cannot stand in a batch script; leave out line breaks",
                    field=f"--{name}",
                )

    def folders(self) -> list[Path]:
        """Return the folder of each run."""
        if not self.options.seeds:
            return [self.folder]
        return [self.folder / f"seed{seed}" for seed in parse_seeds(self.options.seeds)]

    def directives(self) -> list[tuple[str, str]]:
        """Return name and value of the options of sbatch; flags have the value ""."""
        options = self.options
        folder = str(self.folder).replace("%", "%%")
        output = f"seed%a/{JOB_FOLDER}/%A_%a.out" if options.seeds else f"{JOB_FOLDER}/%j.out"
        optional = {
            "gpus-per-node": str(options.gpus_per_node or ""),
            "time": options.time,
            "partition": options.partition,
            "account": options.account,
            "qos": options.qos,
            "constraint": options.constraint,
            "mem": options.mem,
            "array": options.seeds,
        }
        return [
            ("job-name", self.name),
            ("nodes", str(options.num_nodes)),
            ("ntasks-per-node", str(options.devices)),
            ("cpus-per-task", str(options.cpus_per_task or 1)),
            *((name, value) for name, value in optional.items() if value),
            ("signal", f"USR1@{options.signal_before}"),  # to every process, not to the script
            ("requeue", ""),
            ("open-mode", "append"),  # all starts of a job write to one file
            ("chdir", str(self.working_dir)),
            ("output", f"{folder}/{output}"),
            *((name, value) for name, _, value in (o.partition("=") for o in options.sbatch)),
        ]

    def script(self) -> str:
        """Return the script for sbatch."""
        options, quote = self.options, shlex.quote
        seed = ' --seed_everything "$SLURM_ARRAY_TASK_ID"' if options.seeds else ""
        lines = [
            "#!/bin/bash",
            *(f"# {line}" for line in self.command.splitlines()),
            *(
                f"#SBATCH --{name}" + (f"={sbatch_quote(value)}" if value else "")
                for name, value in self.directives()
            ),
            "",
            "set -e",
            *options.setup,
            f"run={quote(str(self.folder))}"
            + ('/seed"$SLURM_ARRAY_TASK_ID"' if options.seeds else ""),
            *([f"export VITLAB_ALLOW={quote(self.allow)}"] if self.allow else []),
            "# a port of its own for each job of a machine",
            f"export MASTER_PORT=$(({MASTER_PORTS} + SLURM_JOB_ID % 10000))",
            *(["export MASTER_ADDR=127.0.0.1"] if options.num_nodes == 1 else []),
            "# if one process fails, the others end; a requeued job continues (--ckpt_path auto)",
            f"srun --kill-on-bad-exit=1 --cpus-per-task={options.cpus_per_task or 1} \\",
            f"  {quote(self.python)} -m vitlab fit \\",
            f'  --config "$run"/{JOB_FOLDER}/{CONFIG} --run-dir "$run"{seed} \\',
            f"  {' '.join(map(quote, self.fit_options))}",
        ]
        return "\n".join(lines) + "\n"


def sbatch_quote(value: str) -> str:
    """Quote a value for an #SBATCH line, whose rules are not those of bash."""
    if re.fullmatch(r"[\w@%+=:,./\[\]-]+", value):
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
    values = [int(part) for part in parts if part is not None]
    # days-hours[:minutes[:seconds]] and hours:minutes:seconds, or minutes[:seconds]
    units = [3600, 60, 1] if days is not None or len(values) == 3 else [60, 1]
    total = int(days or 0) * 86400
    return total + sum(value * unit for value, unit in zip(values, units, strict=False))


def parse_seeds(seeds: str) -> list[int]:
    """Return the seeds of an array in SLURM's notation.

    Raises:
        InputError: the text is no such list, is empty, or has a seed twice.
    """
    if not re.fullmatch(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*", seeds):
        raise InputError(f"--seeds {seeds} are no seeds; give 0-2 or 0,3,5", field="--seeds")
    found: list[int] = []
    for part in seeds.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    if not found or len(set(found)) < len(found):
        raise InputError(f"--seeds {seeds} has no seed, or one of them twice", field="--seeds")
    return found
