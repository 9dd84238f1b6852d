"""Status file of a run, RUN/status.json: small and replaced at once."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

STATUS = "status.json"


@dataclass(frozen=True)
class RunStatus:
    """Progress of a run.

    Attributes:
        state: of the process that wrote it.
        reason: why it stopped or failed; empty otherwise.
        step: optimizer steps taken.
        steps: of the whole run.
        epoch: epochs completed.
        epochs: of the whole run.
        metrics: training metrics that were logged last.
        warning: last problem in training, with its step; empty for none.
        began: start of this process, seconds since 1970.
        updated: time of writing, seconds since 1970.
        host: machine of rank 0.
        process: process ID of rank 0.
        job: SLURM job ID, of arrays 12_0; empty outside of SLURM.
        restarts: how often SLURM has started the job again.
    """

    state: Literal["running", "finished", "stopped", "failed"]
    reason: str = ""
    step: int = 0
    steps: int = 0
    epoch: int = 0
    epochs: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    warning: str = ""
    began: float = 0.0
    updated: float = 0.0
    host: str = field(default_factory=platform.node)
    process: int = field(default_factory=os.getpid)
    job: str = field(default_factory=lambda: slurm_job_id(os.environ))
    restarts: int = field(default_factory=lambda: int(os.environ.get("SLURM_RESTART_COUNT", "0")))

    __pydantic_config__: ClassVar = {"allow_inf_nan": False}


def slurm_job_id(environment: Mapping[str, str]) -> str:
    """Return the job ID of a process in the notation of squeue; "" outside of SLURM."""
    array = environment.get("SLURM_ARRAY_JOB_ID")
    if array:
        return f"{array}_{environment.get('SLURM_ARRAY_TASK_ID', '')}"
    return environment.get("SLURM_JOB_ID", "")
