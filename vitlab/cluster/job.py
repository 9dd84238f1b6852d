"""A run as a batch script of SLURM. The script is all there is: nothing is kept beside it."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

JOB_FOLDER = "job"  # below a run's folder: the script, the config it runs, what it prints
SCRIPT, CONFIG, TICKET = "job.sh", "config.yaml", "job.json"
# with these names, Lightning takes a job for a shell of SLURM and starts no ranks
NOT_NAMES = ("bash", "interactive")
# options that say the same as one of ours
OURS = {
    *("nodes", "ntasks", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "time", "signal"),
    *("requeue", "no-requeue", "open-mode", "output", "error", "chdir", "job-name", "array"),
    *("partition", "account", "qos", "constraint", "mem", "parsable", "wait", "wrap"),
}
EARLY = 60  # seconds that a signal may come before its time, as man sbatch says
MASTER_PORTS = 15000  # the first of ten thousand, one for each job of a machine


@dataclass(frozen=True)
class Resources:
    """What a job asks SLURM for.

    Args:
        time: limit, as SLURM writes it: minutes, hours:minutes:seconds, days-hours.
        num_nodes: machines.
        gpus_per_node: each with a process of its own; 0 for a run on CPUs.
        tasks_per_node: processes on each machine, of a run on CPUs.
        cpus_per_task: cores of each process.
        partition: as the cluster calls it; the same holds for what follows. Empty for its default.
        account: who pays.
        qos: quality of service.
        constraint: features that the machines must have.
        mem: memory of each machine, such as 200G.
        signal_before: seconds before the limit at which the run is asked to stop.
        options: more of sbatch's, by name; empty for those that take no value.
    """

    time: str
    num_nodes: int = 1
    gpus_per_node: int = 1
    tasks_per_node: int = 1
    cpus_per_task: int = 1
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    mem: str = ""
    signal_before: int = 120
    options: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        """Refuse what SLURM would refuse later, or would take differently than meant."""
        least = {"num_nodes": 1, "gpus_per_node": 0, "tasks_per_node": 1, "cpus_per_task": 1}
        for name, value in (least | {"signal_before": 1}).items():
            if getattr(self, name) < value:
                option = name.replace("_", "-")
                raise ValueError(f"--{option} {getattr(self, name)} is too small; use {value}")
        limit = seconds(self.time)
        if limit <= self.signal_before + EARLY:
            raise ValueError(
                f"--time {self.time} is {limit} seconds, which leaves none to train: SLURM asks "
                f"the run to stop {self.signal_before} seconds before (--signal-before), or up to "
                f"{EARLY} more; give more than {self.signal_before + EARLY} seconds"
            )
        if self.gpus_per_node and self.tasks_per_node not in (1, self.gpus_per_node):
            raise ValueError(
                f"--tasks-per-node {self.tasks_per_node} is for runs on CPUs, with "
                f"--gpus-per-node 0; each of {self.gpus_per_node} GPUs has one process"
            )
        for name, _ in self.options:
            if name in OURS or not re.fullmatch(r"[a-z][a-z-]*", name):
                raise ValueError(
                    f"--sbatch {name} is set by another option of vitlab submit or is none of "
                    "sbatch's; see --help, and give options such as --sbatch mail-type=END"
                )

    @property
    def devices(self) -> int:
        """Processes on each machine."""
        return self.gpus_per_node or self.tasks_per_node


@dataclass(frozen=True)
class Job:
    """One run, or one for each seed.

    Args:
        name: in SLURM's lists.
        folder: of the run; of an array, the one that holds seed0, seed1, ...
        start: folder the job starts in, so that relative paths of the config hold.
        python: the interpreter that has vitlab.
        words: of `vitlab fit`, besides the config and the folder.
        resources: what it asks for.
        setup: lines of bash before the run, such as `module load cuda`.
        seeds: of an array, as SLURM writes it: 0-2 or 0,3,5; empty for one run.
        allow: packages that the config may build classes of besides.
        command: what made the script, for its reader.
    """

    name: str
    folder: Path
    start: Path
    python: str
    words: Sequence[str]
    resources: Resources
    setup: Sequence[str] = ()
    seeds: str = ""
    allow: str = ""
    command: str = ""

    def __post_init__(self) -> None:
        """Refuse names that would be misunderstood."""
        if self.name in NOT_NAMES or not re.fullmatch(r"[\w.+-]+", self.name):
            raise ValueError(
                f"--name {self.name!r} is not a name for a job; use letters, digits and ._+-, and "
                f"neither of {', '.join(NOT_NAMES)}"
            )
        if self.seeds:
            numbers(self.seeds)
        values = [str(self.folder), str(self.start), self.resources.time]
        values += [value for _, value in self.directives()]
        for text in values:
            if not text.isprintable():
                raise ValueError(f"{text!r} cannot stand in a batch script; leave out line breaks")

    def folders(self) -> list[Path]:
        """Return the folder of each run."""
        if not self.seeds:
            return [self.folder]
        return [self.folder / f"seed{seed}" for seed in numbers(self.seeds)]

    def directives(self) -> list[tuple[str, str]]:
        """Return the options of sbatch."""
        asked = self.resources
        place = f"{self.folder}/seed%a/{JOB_FOLDER}/%A_%a.out"
        place = place if self.seeds else f"{self.folder}/{JOB_FOLDER}/%j.out"
        literal = str(self.folder).replace("%", "%%")
        found = [
            ("job-name", self.name),
            ("nodes", str(asked.num_nodes)),
            ("ntasks-per-node", str(asked.devices)),
            ("cpus-per-task", str(asked.cpus_per_task)),
            ("gpus-per-node", str(asked.gpus_per_node or "")),
            ("time", asked.time),
            ("partition", asked.partition),
            ("account", asked.account),
            ("qos", asked.qos),
            ("constraint", asked.constraint),
            ("mem", asked.mem),
            ("array", self.seeds),
        ]
        found = [(name, value) for name, value in found if value]
        found += [
            ("signal", f"USR1@{asked.signal_before}"),  # to every process, not to the script
            ("requeue", ""),
            ("open-mode", "append"),  # a job that starts again goes on below
            ("chdir", str(self.start)),
            ("output", place.replace(str(self.folder), literal, 1)),
        ]
        return [*found, *asked.options]

    def script(self) -> str:
        """Return the script, ready for sbatch."""
        asked = self.resources
        lines = ["#!/bin/bash", *(f"# {line}" for line in self.command.splitlines())]
        lines += [
            f"#SBATCH --{name}" + (f"={quoted(value)}" if value else "")
            for name, value in self.directives()
        ]
        folder = shlex.quote(str(self.folder))
        lines += ["", "set -e", *self.setup]
        lines += [f"run={folder}" + ('/seed"$SLURM_ARRAY_TASK_ID"' if self.seeds else "")]
        if self.allow:
            lines += [f"export VITLAB_ALLOW={shlex.quote(self.allow)}"]
        lines += ["# two jobs on one machine do not meet"]
        lines += [f"export MASTER_PORT=$(({MASTER_PORTS} + SLURM_JOB_ID % 10000))"]
        if asked.num_nodes == 1:
            lines += ["export MASTER_ADDR=127.0.0.1"]
        seed = ["--seed_everything", '"$SLURM_ARRAY_TASK_ID"'] if self.seeds else []
        words = [shlex.quote(word) for word in self.words]
        lines += [
            "# if one process fails, the others end; auto: a job that starts again goes on",
            f"srun --kill-on-bad-exit=1 --cpus-per-task={asked.cpus_per_task} \\",
            f"  {shlex.quote(self.python)} -m vitlab fit \\",
            f'  --config "$run"/{JOB_FOLDER}/{CONFIG} --run-dir "$run" \\',
            f"  {' '.join([*seed, *words])}",
        ]
        return "\n".join(lines) + "\n"


def quoted(value: str) -> str:
    """Return a value as sbatch reads it in a line of a script: its quotes are not bash's."""
    if re.fullmatch(r"[\w@%+=:,./\[\]-]+", value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def seconds(time: str) -> int:
    """Return the seconds of a time limit as SLURM writes it.

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(r"(?:([0-9]+)-)?([0-9]+)(?::([0-5]?[0-9]))?(?::([0-5]?[0-9]))?", time)
    if not found:
        raise ValueError(
            f"--time {time} is no limit of SLURM; use hours:minutes:seconds such as 48:00:00, "
            "days-hours such as 2-12, or minutes"
        )
    days, *parts = found.groups()
    values = [int(part) for part in parts if part is not None]
    # days-hours[:minutes[:seconds]] and hours:minutes:seconds, or minutes[:seconds]
    units = [3600, 60, 1] if days is not None or len(values) == 3 else [60, 1]
    total = int(days or 0) * 86400
    return total + sum(value * unit for value, unit in zip(values, units, strict=False))


def numbers(seeds: str) -> list[int]:
    """Return the seeds of an array.

    Raises:
        ValueError: they are not written as SLURM writes them.
    """
    if not re.fullmatch(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*", seeds):
        raise ValueError(f"--seeds {seeds} are no seeds; give them as 0-2 or 0,3,5")
    found: list[int] = []
    for part in seeds.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    if not found or len(set(found)) < len(found):
        raise ValueError(f"--seeds {seeds} names no seed, or one of them twice")
    return found
