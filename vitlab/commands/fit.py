"""`vitlab fit`."""

from collections.abc import Sequence

from vitlab import signals
from vitlab.progress import ProgressBar
from vitlab.training.suggestions import check_words


def run(words: Sequence[str]) -> None:
    """Note signals from the first moment on, then import what a run needs."""
    with signals.listening():
        check_words(words)
        with ProgressBar("loading"):
            from vitlab.training.fit import fit

        fit(words)
