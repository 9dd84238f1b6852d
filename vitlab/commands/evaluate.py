"""`vitlab evaluate`."""

from vitlab.evaluation.run import evaluate_command as run

__all__ = ["run"]
