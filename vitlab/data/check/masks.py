"""Faults of masks: without an image, of another size, without an object."""

from collections.abc import Iterator
from contextlib import suppress

from vitlab.data.check.report import Finding, error, note
from vitlab.data.check.split_summary import SplitSummary
from vitlab.data.decode import UnreadableImage, decode_image
from vitlab.data.errors import DataError
from vitlab.data.foreground import FOLDER, decode_foreground, foreground_masks, mask_name
from vitlab.data.samples import spread
from vitlab.data.storage import few


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
