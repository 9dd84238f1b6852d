"""`vitlab fit`: command line, plan, summary, exit codes; checkpoints of a run in series."""

from vitlab.run.module import Pretraining

__all__ = ["Pretraining"]
