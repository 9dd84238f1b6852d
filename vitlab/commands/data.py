"""`vitlab data check`, `vitlab data voc-masks` and `vitlab data synthesize`."""

import sys
from collections.abc import Sequence

import vitlab.data.check
import vitlab.data.synthetic
import vitlab.data.voc_masks
from vitlab.commands.parser import call


def check(words: Sequence[str]) -> None:
    """Report on a folder of data; the exit code is 1 if there is an error."""
    report = call(vitlab.data.check.check, words, "vitlab data check")
    report.show()
    if report.errors:
        sys.exit(1)


def voc_masks(words: Sequence[str]) -> None:
    """Convert masks of VOC 2012."""
    call(vitlab.data.voc_masks.voc_masks, words, "vitlab data voc-masks")


def synthesize(words: Sequence[str]) -> None:
    """Draw the miniature data sets."""
    call(vitlab.data.synthetic.synthesize, words, "vitlab data synthesize")
