"""Named protocols: an encoder and a dataset to numbers that say how they were made."""

from vitlab.evaluation.protocol import EvaluationContext, Outcome, Protocol

__all__ = ["EvaluationContext", "Outcome", "Protocol"]
