"""`vitlab fit`."""

from collections.abc import Sequence

from vitlab import signals


def run(words: Sequence[str]) -> None:
    """Note signals from the first moment on, then import what a run needs."""
    with signals.listening():
        from vitlab.training.fit import fit

        fit(words)
