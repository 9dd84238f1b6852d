"""Faults of the files of a split that any dataset can have."""

from collections.abc import Iterator
from contextlib import suppress

from vitlab.data.check.inspection import SplitSummary
from vitlab.data.check.report import Finding, error, note, warning
from vitlab.data.decode import UnreadableImage, decode_image
from vitlab.data.errors import DataError
from vitlab.data.foreground import FOLDER, decode_foreground, mask_name
from vitlab.data.picture_faults import BLACK
from vitlab.data.samples import MASK_ENDINGS, spread
from vitlab.data.storage import few, ranges

FAULTS = {
    "unreadable": "{count} files of {split} cannot be read; {again}, or remove them:",
    "refused": "{count} masks of {split} hold no class indices in 8 bits: {few}; {indices}",
    "mismatched": "{count} images of {split} and their masks differ in size (width x height): "
    "{few}; {again}",
    "implausible": "{count} masks of {split}, the first: {first}",
}


def common_faults(summary: SplitSummary) -> Iterator[Finding]:
    """Files that cannot be read, masks without class indices, and the like."""
    split, layout = summary.split, summary.data.layout
    remedies = {"again": "write them anew", "indices": "write one index per pixel, as mode L or P"}
    if layout.archives or layout.small_archive:
        remedies["again"] = "extract the archive again"
        remedies["indices"] = "use the original files, or for VOC's colors `vitlab data voc-masks`"
    for kind, text in FAULTS.items():
        if found := summary.faults[kind]:
            words = {"count": len(found), "split": split, "few": few(found), "first": found[0]}
            words |= remedies
            yield error(text.format(**words), tuple(found) if kind == "unreadable" else ())
    allowed = summary.data.mask_values if summary.holders else {}
    for value in sorted(set(summary.holders) - set(allowed))[:5]:
        holders = summary.holders[value]
        yield error(
            f"{len(holders)} masks of {split} hold the value {value}: {few(holders)}; allowed are "
            f"{ranges(allowed)}; {summary.data.values_remedy}"
        )
    for oddity, count in summary.oddities.items():
        yield note(f"{split}: {count} {oddity}; vitlab reads them correctly")
    if summary.black > (decoded := len(summary.digests)) / 10:
        yield warning(
            f"{summary.black} of {decoded} pictures of {split} that were decoded have no value "
            f"above {BLACK - 1} of 255: nearly black"
        )
    yield from _orientations(summary)


def _orientations(summary: SplitSummary) -> Iterator[Finding]:
    """Images with an orientation flag (Exif)."""
    count, split = summary.orientations, summary.split
    if same := count["stored"] + count["either"]:
        yield note(
            f"{split}: {same} images have an orientation flag (Exif); their stored pixels are "
            "taken, as by PIL, torchvision, timm and DINO's code"
        )
    if count["turned"]:
        yield note(
            f"{split}: {count['turned']} images are turned by their orientation flag (Exif), as "
            "their masks have that shape"
        )
    if count["turned"] > count["stored"] and count["either"]:
        yield warning(
            f"{split}: masks are drawn on the turned pictures, but of {count['either']} images "
            "with an orientation flag the shape tells nothing and the stored pixels are taken; "
            "write these images upright, without the flag"
        )


def unpaired_masks(
    summary: SplitSummary, folders: list[str], ending: str | tuple[str, ...] = MASK_ENDINGS
) -> Iterator[Finding]:
    """Masks in the folders of a split that belong to none of its images."""
    samples = summary.samples
    used = {samples.mask(index) for index in range(len(samples))}
    present = [f"{folder}/{name}" for folder in folders for name in samples.files.names(folder)]
    alone = [mask for mask in present if mask.endswith(ending) and mask not in used]
    if alone:
        yield error(
            f"{len(alone)} masks of {summary.split} have no image: {few(alone)}; restore the "
            "images, or remove these masks"
        )


def foreground_faults(summary: SplitSummary) -> Iterator[Finding]:
    """Foreground masks beside class folders: without image, of another size, or empty."""
    samples, files, split = summary.samples, summary.samples.files, summary.split
    place = f"{FOLDER}/{samples.image(0).partition('/')[0]}"
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
            data = files.read(images[name])
            shapes = [decode_image(data, name, upright=turn).shape[:2] for turn in (False, True)]
            try:
                mask = decode_foreground(files.read(name), files.where(name))
            except (DataError, UnreadableImage) as problem:
                yield error(str(problem))
                continue
            if mask.shape not in shapes:
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
