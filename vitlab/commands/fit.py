"""`vitlab fit`."""

from vitlab.training.fit import fit as run

__all__ = ["run"]
