"""Faults of the files of a split that any dataset can have."""

from collections.abc import Iterator
from contextlib import suppress

from vitlab.data.check.inspection import SplitSummary
from vitlab.data.check.report import Finding, error, note
from vitlab.data.decode import UnreadableImage, decode_image
from vitlab.data.errors import DataError
from vitlab.data.foreground import FOLDER, decode_foreground, mask_name
from vitlab.data.samples import spread
from vitlab.data.storage import few, ranges

FAULTS = {
    "unreadable": "{count} files of {split} cannot be read; extract them from the archive again, "
    "or remove them:",
    "refused": "{count} masks of {split} hold no class indices in 8 bits: {few}; use the original "
    "files, or for VOC's colors `vitlab data voc-masks`",
    "mismatched": "{count} images of {split} and their masks differ in size (width x height): "
    "{few}; restore both from the original archive",
    "implausible": "{count} masks of {split}, the first: {first}",
}


def common_faults(summary: SplitSummary) -> Iterator[Finding]:
    """Files that cannot be read, masks without class indices, and the like."""
    split = summary.split
    for kind, text in FAULTS.items():
        if found := summary.faults[kind]:
            words = {"count": len(found), "split": split, "few": few(found), "first": found[0]}
            yield error(text.format(**words), tuple(found) if kind == "unreadable" else ())
    allowed = summary.data.mask_values if summary.holders else {}
    for value in sorted(set(summary.holders) - set(allowed))[:5]:
        holders = summary.holders[value]
        yield error(
            f"{len(holders)} masks of {split} hold the value {value}: {few(holders)}; allowed are "
            f"{ranges(allowed)}; use the original masks, not ones that some tool has renumbered"
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
    samples, files, split = summary.samples, summary.samples.files, summary.split
    place = f"{FOLDER}/{split}"
    if samples.labels is None or files.listing(place) is None:
        return
    images = {mask_name(image): image for image in map(samples.image, range(len(samples)))}
    present = [
        f"{place}/{folder}/{name}"
        for folder in files.folders(place)
        for name in files.names(f"{place}/{folder}")
    ]
    alone = [name for name in present if name not in images]
    if alone:
        name, image = next(iter(images.items()))
        yield error(
            f"{len(alone)} masks of {split} have no image: {few(alone)}; the mask of {image} would "
            f"be {name}"
        )
    masks = [name for name in present if name in images]
    if not masks:
        return
    yield note(f"{len(masks):,} images of {split} have a mask of their object")
    resized, empty = [], []
    for name in (masks[at] for at in spread(len(masks))):
        with suppress(OSError):  # a damaged image is reported with the others
            shape = decode_image(files.read(images[name]), name).shape[:2]
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
            f"{len(resized)} masks of {split} are of another size than their image: "
            f"{few(resized)}; make them for the images as they are"
        )
    if empty:
        yield note(f"{len(empty)} masks of {split} show no object: {few(empty)}")
