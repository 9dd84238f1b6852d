"""`vitlab data voc-masks`."""

from collections.abc import Sequence

from vitlab.commands.parser import call
from vitlab.data.voc_masks import voc_masks


def run(words: Sequence[str]) -> None:
    """Call `voc_masks` with the options of the command line."""
    call(voc_masks, words, "vitlab data voc-masks")
