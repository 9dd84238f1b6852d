"""`vitlab evaluate`."""

from vitlab.evaluation.command import evaluate_command as run

__all__ = ["run"]
