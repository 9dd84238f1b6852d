"""Masks whose image is missing."""

from collections.abc import Iterator

from vitlab.data.check.report import Finding, error
from vitlab.data.check.split_summary import SplitSummary
from vitlab.data.storage import few


def unpaired_masks(
    summary: SplitSummary, folders: list[str], ending: str = ".png"
) -> Iterator[Finding]:
    """Masks in the folders of a split that belong to none of its images."""
    samples = summary.samples
    used = {samples.mask(index) for index in range(len(samples))}
    left = []
    for folder in folders:
        names = samples.files.names(folder)
        left += [f"{folder}/{name}" for name in names if name.endswith(ending)]
    alone = [mask for mask in left if mask not in used]
    if alone:
        yield error(
            f"{len(alone)} masks of {summary.split} have no image: {few(alone)}; extract the "
            "images again",
        )
