"""`vitlab data synthesize`."""

from collections.abc import Sequence

from vitlab.commands.parser import call
from vitlab.data.synthetic import synthesize


def run(words: Sequence[str]) -> None:
    """Call `synthesize` with the options of the command line."""
    call(synthesize, words, "vitlab data synthesize")
