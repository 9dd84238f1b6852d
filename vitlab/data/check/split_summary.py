"""What the files of a split showed together."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from vitlab.data.check.inspection import SampleInspection
from vitlab.data.check.report import Finding, error, note
from vitlab.data.datamodule import VisionDataModule
from vitlab.data.samples import Samples
from vitlab.data.storage import few, ranges


@dataclass
class SplitSummary:
    """The looks at a split, by what they showed.

    Attributes:
        data: the dataset.
        split: its name.
        samples: those looked at.
        unreadable: files that cannot be decoded, with the reason.
        refused: why masks hold no class indices.
        mismatched: images and masks of different size, in words.
        sizes: (width, height) of the images.
        holders: for each value, the masks that hold it.
        masks: number of masks that were decoded.
        digests: of images, with their names.
        oddities: for each, how many images.
        doubted: masks that cannot be what they are called, and why.
    """

    data: VisionDataModule
    split: str
    samples: Samples
    unreadable: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    sizes: set[tuple[int, int]] = field(default_factory=set)
    holders: dict[int, list[str]] = field(default_factory=dict)
    masks: int = 0
    digests: list[tuple[bytes, str]] = field(default_factory=list)
    oddities: dict[str, int] = field(default_factory=dict)
    doubted: list[str] = field(default_factory=list)

    def add(self, look: SampleInspection) -> None:
        """Take in one sample."""
        image, mask, name = look.image, look.mask, self.samples.image(look.index)
        self.unreadable += [seen.unreadable for seen in (image, mask) if seen.unreadable]
        if image.size:
            self.sizes.add(image.size)
        if image.digest:
            self.digests.append((image.digest, name))
        if image.oddity:
            self.oddities[image.oddity] = self.oddities.get(image.oddity, 0) + 1
        if mask.refused:
            self.refused.append(mask.refused)
        if image.size and mask.size and image.size != mask.size:
            self.mismatched.append(
                f"{name} is {image.size[0]} x {image.size[1]}, its mask "
                f"{mask.size[0]} x {mask.size[1]}"
            )
        self.masks += bool(mask.values)
        implausible = self.data.implausible(set(mask.values)) if mask.values else ""
        if implausible:
            self.doubted.append(f"{self.samples.mask(look.index)} {implausible}")
        for value in mask.values:
            self.holders.setdefault(value, []).append(self.samples.mask(look.index))


def findings(summary: SplitSummary) -> Iterator[Finding]:
    """What is wrong with any dataset that shows this."""
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
    if summary.doubted:
        yield error(f"{len(summary.doubted)} masks of {split}, the first: {summary.doubted[0]}")
    allowed = summary.data.mask_values if summary.holders else {}
    for value in sorted(set(summary.holders) - set(allowed))[:5]:
        holders = summary.holders[value]
        yield error(
            f"{len(holders)} masks of {split} hold the value {value}: {few(holders)}; allowed are "
            f"{ranges(allowed)}; use the original masks, not ones that some tool "
            "has renumbered",
        )
    for oddity, count in summary.oddities.items():
        yield note(f"{split}: {count} {oddity}; vitlab reads them as they are meant")
