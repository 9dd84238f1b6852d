"""Launch of a run: who has started its processes, and which of them this one is.

Only the standard library: Lightning reads some of the variables as it is imported.
"""

import errno
import importlib.util
import os
import socket
from dataclasses import dataclass

from vitlab.errors import InputError

FIRST = "VITLAB_FIRST_RANK"  # process ID of the rank that starts the others of its machine
SHELLS = ("bash", "interactive")  # names of SLURM jobs that are shells, as Lightning takes them
RANKS = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"),
    *("PMI_RANK", "PMIX_RANK", "MV2_COMM_WORLD_RANK", "JSM_NAMESPACE_RANK"),
)
SIZES = (
    "WORLD_SIZE",
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
    "MV2_COMM_WORLD_SIZE",
    "JSM_NAMESPACE_SIZE",
)
NUMBERS = (
    *(*RANKS, *SIZES, "MASTER_PORT", "PL_GLOBAL_SEED", "LOCAL_WORLD_SIZE", "SLURM_JOB_ID"),
    *("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_NNODES", "SLURM_LOCALID", "SLURM_NODEID"),
    *("SLURM_RESTART_COUNT", "SLURM_STEP_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"),
)


@dataclass(frozen=True)
class Launch:
    """Processes of a run as their environment describes them, before a trainer is built.

    Attributes:
        by: "torchrun", "srun", "jsrun", "mpirun", "rank" (by the first rank of the machine),
            "a script" (that sets what torchrun sets), "plugin" (what a plugin of the trainer
            says), or "shell": this is the only process of its machine, or starts the others.
        first: whether this is the first process of all.
        world_size: number of processes; 0 where the trainer decides it.
    """

    by: str
    first: bool = True
    world_size: int = 0


def clear_variables() -> None:
    """Remove variables of launchers that are set to nothing.

    Raises:
        InputError: one that must be a whole number is none.
    """
    for name in NUMBERS:
        value = os.environ.get(name, "0").strip()
        if not value:
            del os.environ[name]
        elif not value.removeprefix("-").isdecimal():
            raise InputError(
                f"the environment variable {name} is {value!r}, which is no whole number; correct "
                f"it, or leave it out with `env -u {name} vitlab ...`",
                field=name,
            )


def find_launch() -> Launch:
    """Return who has started this process, by the variables of that launcher alone.

    Raises:
        InputError: variables of several processes, by none of the launchers that a run follows.
    """

    def given(*names: str) -> bool:
        return all(name in os.environ for name in names)

    by = ""
    if given("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
        by, rank, size = "torchrun", "RANK", "WORLD_SIZE"
    elif given(FIRST, "WORLD_SIZE", "MASTER_PORT") and _number("LOCAL_RANK"):
        by, rank, size = "rank", "LOCAL_RANK", "WORLD_SIZE"
    elif given("SLURM_STEP_ID", "SLURM_PROCID", "SLURM_NTASKS") and not _in_shell():
        by, rank, size = "srun", "SLURM_PROCID", "SLURM_NTASKS"
    elif given("LSB_JOBID", "LSB_DJOB_RANKFILE", "JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE"):
        by, rank, size = "jsrun", "JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE"
    elif _number("OMPI_COMM_WORLD_SIZE", 1) > 1 and importlib.util.find_spec("mpi4py"):
        by, rank, size = "mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"
    elif given("LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        by, rank, size = "a script", "RANK" if given("RANK") else "LOCAL_RANK", "WORLD_SIZE"
    if by:
        first = not _number(rank) and (by != "a script" or not _number("NODE_RANK"))
        return Launch(by, first, _number(size))
    machines = given("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")  # each starts its own processes
    wrong = [name for name in RANKS if _number(name) and not (machines and name == "NODE_RANK")]
    wrong += [name for name in SIZES if _number(name, 1) != 1 and not machines]
    if wrong:
        shown = ", ".join(f"{name}={os.environ[name]}" for name in wrong)
        raise InputError(
            f"{shown} describes one process of several, but no torchrun or srun has started this "
            f"one. Most likely it is left over from another program: start with `env "
            f"{' '.join(f'-u {name}' for name in wrong)} vitlab ...`; for several processes set "
            "trainer.devices, or use vitlab submit, srun or torchrun",
            field=wrong[0],
        )
    os.environ.pop("LOCAL_RANK", None)  # by which Lightning would leave it to others to start ranks
    return Launch("shell", not _number("NODE_RANK"), _number("WORLD_SIZE") if machines else 0)


def plugin_launch() -> Launch:
    """Return what the environment says of a launch that a plugin of the trainer describes."""
    return Launch("plugin", not any(map(_number, RANKS)))


def check_launch(launch: Launch, devices: int, num_nodes: int, first: bool) -> None:
    """Compare the trainer that was built with the environment.

    Args:
        launch: the environment.
        devices: of the trainer, on each machine.
        num_nodes: machines of the trainer.
        first: whether this is the trainer's first rank.

    Raises:
        InputError: they do not have the same processes, or some are started by nobody.
    """
    asked, tasks, nodes = (
        devices * num_nodes,
        _number("SLURM_NTASKS", 1),
        _number("SLURM_NNODES", 1),
    )
    given = f"trainer.devices is {devices} and trainer.num_nodes {num_nodes}"
    problem = ""
    if launch.by == "srun" and (devices, num_nodes) != (tasks // nodes, nodes):
        problem = f"SLURM starts {tasks} processes, {tasks // nodes} on each machine "
        problem += f"(--ntasks-per-node), and {given}; make them equal, or use vitlab submit"
    elif launch.world_size and launch.world_size != asked:
        problem = f"{launch.by} starts {launch.world_size} processes (WORLD_SIZE), and {given}; "
        problem += "make them equal; if WORLD_SIZE is left over from another program, unset it"
    elif launch.by == "shell" and asked > 1 and tasks > 1 and not _in_shell():
        problem = f"SLURM has started 1 of {asked} processes; use srun: put `srun` before vitlab "
        problem += "in the batch script, or use vitlab submit"
    elif launch.by == "shell" and num_nodes > 1 and "NODE_RANK" not in os.environ:
        problem = f"{given}, but nothing starts the processes of the other machines; use vitlab "
        problem += "submit, srun or torchrun, or set NODE_RANK, MASTER_ADDR and MASTER_PORT on each"
    elif launch.by == "shell" and num_nodes == 1 and not launch.first:
        problem = f"NODE_RANK={os.environ['NODE_RANK']} names another machine, and {given}; set "
        problem += "trainer.num_nodes, or unset NODE_RANK"
    elif launch.first != first and (first or launch.by != "plugin"):  # whose variables may be any
        problem = f"the variables of {launch.by} make this rank {'' if launch.first else 'not '}"
        problem += "the first of the run, and the trainer does not; unset those of other programs"
    if problem:
        raise InputError(problem, field="trainer.devices")


def check_port(port: int) -> None:
    """Refuse a port at which the other ranks could not meet the first one, on its machine.

    Raises:
        InputError: another program has the port, or no program of this user may have it.
    """
    try:
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(("", port))
    except (OSError, OverflowError) as error:
        taken = getattr(error, "errno", None) == errno.EADDRINUSE
        reason = "taken by another program on this machine" if taken else f"no use ({error})"
        raise InputError(
            f"port {port}, where the ranks of the run meet, is {reason}; set MASTER_PORT to "
            "another one, from 1024 to 65535, or outside of SLURM unset it: a free one is chosen",
            field="MASTER_PORT",
        ) from error


def _number(name: str, unset: int = 0) -> int:
    return int(os.environ.get(name, unset))


def _in_shell() -> bool:
    named = os.environ.get("SLURM_JOB_NAME") in SHELLS
    several = "SLURM_STEP_ID" in os.environ and _number("SLURM_NTASKS", 1) > 1
    return "SLURM_PTY_PORT" in os.environ or (named and not several)
