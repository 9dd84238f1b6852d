"""Summary of the inspected files of a split, and the faults common to all datasets."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from vitlab.data.check.inspection import SampleInspection
from vitlab.data.check.report import Finding, error, note
from vitlab.data.datamodule import VisionDataModule
from vitlab.data.decode import UnreadableImage, decode_image
from vitlab.data.errors import DataError
from vitlab.data.foreground import FOLDER, decode_foreground, foreground_masks, mask_name
from vitlab.data.samples import Samples, spread
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


def unpaired_masks(
    summary: SplitSummary, folders: list[str], ending: str = ".png"
) -> Iterator[Finding]:
    """Masks in the folders of a split that belong to none of its images."""
    samples = summary.samples
    used = {samples.mask(index) for index in range(len(samples))}
    present = [f"{folder}/{name}" for folder in folders for name in samples.files.names(folder)]
    alone = [mask for mask in present if mask.endswith(ending) and mask not in used]
    if alone:
        yield error(
            f"{len(alone)} masks of {summary.split} have no image: {few(alone)}; extract the "
            "images again"
        )


def foreground_faults(summary: SplitSummary) -> Iterator[Finding]:
    """Foreground masks beside class folders: without image, of another size, or empty."""
    samples, files = summary.samples, summary.samples.files
    place = f"{FOLDER}/{summary.split}"
    if samples.labels is None or files.listing(place) is None:
        return
    names = {mask_name(samples.image(index)) for index in range(len(samples))}
    present = [
        f"{place}/{folder}/{name}"
        for folder in files.folders(place)
        for name in files.names(f"{place}/{folder}")
    ]
    alone = [name for name in present if name not in names]
    if alone:
        yield error(
            f"{len(alone)} masks of {summary.split} have no image: {few(alone)}; the mask of "
            f"{samples.image(0)} would be {mask_name(samples.image(0))}"
        )
    if len(alone) == len(present):
        return
    masks = [name.decode() for name in foreground_masks(samples)]
    with_mask = [index for index, name in enumerate(masks) if name]
    yield note(f"{len(with_mask):,} images of {summary.split} have a mask of their object")
    resized, empty = [], []
    for at in spread(len(with_mask)):
        name, image = masks[with_mask[at]], samples.image(with_mask[at])
        with suppress(OSError):  # a damaged image is reported with the others
            shape = decode_image(files.read(image), image).shape[:2]
            try:
                mask = decode_foreground(files.read(name), files.where(name))
            except (DataError, UnreadableImage) as problem:
                yield error(str(problem))
                continue
            if mask.shape != shape:
                resized.append(name)
            elif not mask.any():
                empty.append(name)
    if resized:
        yield error(
            f"{len(resized)} masks of {summary.split} are of another size than their image: "
            f"{few(resized)}; make them for the images as they are"
        )
    if empty:
        yield note(f"{len(empty)} masks of {summary.split} show no object: {few(empty)}")
