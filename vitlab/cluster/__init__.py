"""Runs as jobs of SLURM, and what there is to know of runs from their files alone.

Plain text for bash and plain JSON: libraries that submit Python functions pickle them, and hide the
script that an administrator or a colleague wants to read.
"""

from vitlab.cluster.job import Job, Resources
from vitlab.cluster.listing import RunInfo, RunState, find
from vitlab.cluster.slurm import QueuedJob, queue

__all__ = ["Job", "QueuedJob", "Resources", "RunInfo", "RunState", "find", "queue"]
