"""Named protocols: an encoder and a dataset to numbers that say how they were made."""

from vitlab.evaluation.protocol import Outcome, Protocol, Work

__all__ = ["Outcome", "Protocol", "Work"]
