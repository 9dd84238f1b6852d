"""The processes that srun has started, and the devices of the run: one for each."""

import os
import sys

from lightning import Trainer

from vitlab.cluster.job import NOT_NAMES


def count_tasks() -> int:
    """Tell Lightning how many processes srun has started on each machine, which `-n N` does not.

    Returns:
        Their number; 0 outside of SLURM, or in a shell of it that Lightning takes for none.
    """
    if "SLURM_NTASKS" not in os.environ or os.environ.get("SLURM_JOB_NAME") in NOT_NAMES:
        return 0
    each = int(os.environ["SLURM_NTASKS"]) // int(os.environ.get("SLURM_NNODES", "1"))
    return int(os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(each)))


def check_tasks(trainer: Trainer) -> None:
    """Refuse a run that has other processes than devices.

    Raises:
        ValueError: how many of each.
        SystemExit: the same, on other ranks than the first, which speaks for all.
    """
    tasks = count_tasks()
    asked = (trainer.num_devices, trainer.num_nodes)
    if not tasks or asked == (tasks, int(os.environ["SLURM_NTASKS"]) // tasks):
        return
    if os.environ.get("SLURM_PROCID", "0") != "0":
        sys.exit(2)
    raise ValueError(
        f"SLURM starts {os.environ['SLURM_NTASKS']} processes, {tasks} on each machine "
        f"(--ntasks-per-node), and trainer.devices is {asked[0]}, trainer.num_nodes {asked[1]}; "
        "make them equal, or use vitlab submit"
    )
