"""What a run says of itself while it lives: RUN/status.json, small, plain, replaced at once."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field

STATUS = "status.json"
STATES = ("running", "finished", "stopped", "failed")


@dataclass(frozen=True)
class RunStatus:
    """How far a run is.

    Attributes:
        state: one of `STATES`.
        reason: why it stopped or failed; empty otherwise.
        step: optimizer steps taken.
        steps: of the whole run.
        epoch: epochs completed.
        epochs: of the whole run.
        metrics: the numbers that were last logged in training.
        warning: what last went wrong in training, with the step; empty for nothing.
        began: when this process began, in seconds since 1970.
        updated: when this was written, likewise.
        host: the machine of the first rank.
        process: the number of the first rank there.
        job: number in SLURM, of arrays 12_0; empty outside.
        restarts: how often SLURM has started the job again.
    """

    state: str
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

    def __post_init__(self) -> None:
        """Refuse what no run says."""
        if self.state not in STATES:
            raise ValueError(f"the state {self.state!r} is none of {', '.join(STATES)}")


def slurm_job_id(environment: Mapping[str, str]) -> str:
    """Return the number of the job a process belongs to, as squeue writes it; "" for none."""
    array = environment.get("SLURM_ARRAY_JOB_ID")
    if array:
        return f"{array}_{environment.get('SLURM_ARRAY_TASK_ID', '')}"
    return environment.get("SLURM_JOB_ID", "")
