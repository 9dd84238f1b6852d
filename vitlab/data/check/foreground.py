"""What goes wrong with masks beside class folders."""

from collections.abc import Iterator
from contextlib import suppress

from vitlab.data.check.report import Finding, error, note
from vitlab.data.check.split_summary import SplitSummary
from vitlab.data.decode import UnreadableImage, decode_image
from vitlab.data.errors import DataError
from vitlab.data.foreground import FOLDER, decode_foreground, foreground_masks, mask_name
from vitlab.data.samples import spread
from vitlab.data.storage import few


def foreground_faults(summary: SplitSummary) -> Iterator[Finding]:
    """Masks without an image, of another size than it, or without an object."""
    samples, files = summary.samples, summary.samples.files
    place = f"{FOLDER}/{summary.split}"
    if samples.labels is None or files.listing(place) is None:
        return
    names = {mask_name(samples.image(index)) for index in range(len(samples))}
    found = [f"{place}/{f}/{n}" for f in files.folders(place) for n in files.names(f"{place}/{f}")]
    alone = [name for name in found if name not in names]
    if alone:
        yield error(
            f"{len(alone)} masks of {summary.split} have no image: {few(alone)}; the mask of "
            f"{samples.image(0)} would be {mask_name(samples.image(0))}"
        )
    if len(alone) == len(found):
        return
    masks = [name.decode() for name in foreground_masks(samples)]
    with_mask = [index for index, name in enumerate(masks) if name]
    yield note(f"{len(with_mask):,} images of {summary.split} have a mask of their object")
    wrong, empty = [], []
    for at in spread(len(with_mask)):
        name, image = masks[with_mask[at]], samples.image(with_mask[at])
        with suppress(OSError):  # a damaged image is told with the others
            shape = decode_image(files.read(image), image).shape[:2]
            try:
                mask = decode_foreground(files.read(name), files.where(name))
            except (DataError, UnreadableImage) as problem:
                yield error(str(problem))
                continue
            if mask.shape != shape:
                wrong.append(name)
            elif not mask.any():
                empty.append(name)
    if wrong:
        yield error(
            f"{len(wrong)} masks of {summary.split} are of another size than their image: "
            f"{few(wrong)}; make them for the images as they are"
        )
    if empty:
        yield note(f"{len(empty)} masks of {summary.split} show no object: {few(empty)}")
