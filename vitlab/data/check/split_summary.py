"""Summary of the inspected files of a split, and the faults common to all datasets."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from vitlab.data.check.inspection import SampleInspection
from vitlab.data.check.report import Finding, error, note
from vitlab.data.datamodule import VisionDataModule
from vitlab.data.samples import Samples
from vitlab.data.storage import few, ranges


@dataclass
class SplitSummary:
    """The inspected samples of a split, by fault.

    Attributes:
        data: the dataset.
        split: its name.
        samples: the inspected ones.
        unreadable: files that cannot be decoded, with the reason.
        refused: masks without class indices, with the reason.
        mismatched: images and masks of different size, in words.
        sizes: (width, height) of the images.
        holders: for each value, the masks that hold it.
        masks: number of masks that were decoded.
        digests: of images, with their names.
        oddities: number of images of each.
        implausible: masks whose values contradict their name, with the reason.
    """

    data: VisionDataModule
    split: str
    samples: Samples
    unreadable: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    sizes: set[tuple[int, int]] = field(default_factory=set)
    holders: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    masks: int = 0
    digests: list[tuple[bytes, str]] = field(default_factory=list)
    oddities: Counter[str] = field(default_factory=Counter)
    implausible: list[str] = field(default_factory=list)

    def add(self, sample: SampleInspection) -> None:
        """Add one sample."""
        image, mask, name = sample.image, sample.mask, self.samples.image(sample.index)
        self.unreadable += [file.unreadable for file in (image, mask) if file.unreadable]
        if image.size:
            self.sizes.add(image.size)
        if image.digest:
            self.digests.append((image.digest, name))
        if image.oddity:
            self.oddities[image.oddity] += 1
        if mask.refused:
            self.refused.append(mask.refused)
        if image.size and mask.size and image.size != mask.size:
            self.mismatched.append(
                f"{name} is {image.size[0]} x {image.size[1]}, its mask "
                f"{mask.size[0]} x {mask.size[1]}"
            )
        if mask.values:
            self.masks += 1
            mask_name = self.samples.mask(sample.index)
            if reason := self.data.implausible(set(mask.values)):
                self.implausible.append(f"{mask_name} {reason}")
            for value in mask.values:
                self.holders[value].append(mask_name)


def common_faults(summary: SplitSummary) -> Iterator[Finding]:
    """Faults that any dataset can have."""
    split = summary.split
    if summary.unreadable:
        yield error(
            f"{len(summary.unreadable)} files of {split} cannot be read; extract them again from "
            "the archive, or remove them:",
            tuple(summary.unreadable),
        )
    if summary.refused:
        yield error(
            f"{len(summary.refused)} masks of {split} hold no class indices in 8 bits: "
            f"{few(summary.refused)}; use the original files, or for VOC's colors `vitlab data "
            "voc-masks`",
        )
    if summary.mismatched:
        yield error(
            f"{len(summary.mismatched)} images of {split} and their masks differ in size (width x "
            f"height): {few(summary.mismatched)}; restore both from the original archive",
        )
    if summary.implausible:
        yield error(
            f"{len(summary.implausible)} masks of {split}, the first: {summary.implausible[0]}"
        )
    allowed = summary.data.mask_values if summary.holders else {}
    for value in sorted(set(summary.holders) - set(allowed))[:5]:
        holders = summary.holders[value]
        yield error(
            f"{len(holders)} masks of {split} hold the value {value}: {few(holders)}; allowed are "
            f"{ranges(allowed)}; use the original masks, not ones that some tool "
            "has renumbered",
        )
    for oddity, count in summary.oddities.items():
        yield note(f"{split}: {count} {oddity}; vitlab reads them correctly")
