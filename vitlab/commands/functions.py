"""The verbs that are one function of ours: its arguments are the options of the command line."""

from collections.abc import Callable, Sequence

from jsonargparse import auto_cli

from vitlab.data.synthetic import synthesize
from vitlab.data.voc_masks import voc_masks


def data_voc_masks(words: Sequence[str]) -> None:
    """Run `vitlab data voc-masks`."""
    _call(voc_masks, words, "vitlab data voc-masks")


def data_synthesize(words: Sequence[str]) -> None:
    """Run `vitlab data synthesize`."""
    _call(synthesize, words, "vitlab data synthesize")


def _call(work: Callable[..., object], words: Sequence[str], name: str) -> object:
    return auto_cli(work, args=list(words), prog=name, as_positional=False)
