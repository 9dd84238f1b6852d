"""Files that are no pictures to learn from: masks among images, 16 bits that would be black."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from vitlab.data.decode import PIL_ERRORS, PNG_START, decode_image
from vitlab.data.errors import DataError
from vitlab.data.samples import Samples, spread
from vitlab.data.storage import few

DEEP = (".png", ".tif", ".tiff", ".pgm", ".ppm")  # endings of images that may have 16 bits
BLACK = 16  # of 255: below it a picture is nearly black
MASK_WORDS = ("mask", "seg", "label", "_gt", "truth", "annot", "trimap", "matte")
# NAME_mask.png beside NAME.png; some images have several
MASK_NAME = re.compile(
    r"(.+?)[ _.-]*(masks?|seg(mentation)?|labels?(ids)?|gt|(ground_?)?truth|annot(ation)?s?|trimap"
    r"|matte)([ _-]?\d+)?",
    re.IGNORECASE,
)
IMAGE_FOLDERS = {"images", "image", "imgs", "img", "jpegimages", "input", "inputs", "pictures"}
MASK_FOLDERS = {"masks", "mask", "labels", "label", "annotations", "annotation", "gt", "targets"}
MASK_FOLDERS |= {"target", "segmentation", "segmentations", "groundtruth", "ground_truth", "segs"}
FEW_VALUES = 32  # a mask has fewer, a photograph more
TEXTS = {"", ".txt", ".csv", ".json", ".xml", ".md", ".db", ".ini", ".html", ".py", ".yaml"}


def refuse_pictures(samples: Samples, split: str) -> None:
    """Refuse a split of no pictures to learn from: none, masks among them, or nearly black ones.

    Names of all files are looked at, and the content of up to 64 that may have 16 bits.

    Raises:
        DataError: which files, and what to do.
    """
    if not len(samples):
        rest = f": not read are {few([*samples.left_out])}" if samples.left_out else ""
        raise DataError(f"split {split!r} has no image in {samples.files.where()}{rest}")
    if samples.labels is not None:
        _refuse_masks(samples)
    looked = [samples.image(at) for at in spread(len(samples))]
    deep = [name for name in looked if name.lower().endswith(DEEP) and _bits(samples, name) > 8]
    highest, unreadable = -1, []
    for name in deep:
        try:
            data = samples.files.read(name)
            highest = max(highest, int(decode_image(data, samples.files.where(name)).max()))
        except OSError as error:  # some are reported and replaced when it is their turn
            unreadable.append(str(error))
        if highest >= BLACK:
            return
    if len(unreadable) == len(looked):
        raise DataError(f"none of {len(deep)} pictures looked at can be used, {unreadable[0]}")
    if highest >= 0:
        factor = 256 >> highest.bit_length()
        raise DataError(
            f"all {len(deep)} 16-bit pictures looked at below {samples.files.where()} "
            f"({few(deep)}) have values below {256 * (highest + 1):,} of 65,536, and of 16 bits "
            f"the upper 8 are read: they would be nearly black; multiply all values by {factor}, "
            "or write the pictures in 8 bits"
        )


def remarks_on_files(samples: Samples) -> Iterator[str]:
    """Files beside the images that are not read, by their endings."""
    names = [PurePosixPath(name) for name in samples.left_out]
    kinds = Counter(kind for name in names if (kind := name.suffix.lower()) not in TEXTS)
    if kinds:
        shown = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
        first = few([str(name) for name in names if name.suffix.lower() in kinds])
        yield f"files beside the {len(samples):,} images are not read: {shown} ({first})"
    listing = samples.files.listing
    folders = [name for name in names if not name.suffix and listing(str(name)) is not None]
    if folders:
        yield f"folders beside the images are not read: {few([*map(str, folders)])}"


def _bits(samples: Samples, name: str) -> int:
    """Bits of a value of an image, by its header; 0 if it cannot be read."""
    try:
        with samples.files.open(name) as file:
            head = file.read(25)
            if head.startswith(PNG_START):
                return head[24] if len(head) > 24 else 0
            file.seek(0)
            with Image.open(file) as image:
                return 16 if image.mode[0] in "IF" else 8
    except PIL_ERRORS:
        return 16 if name.lower().endswith((".tif", ".tiff")) else 0


def _refuse_masks(samples: Samples) -> None:
    """Refuse masks that would be taken for images: by their folders, names or content."""
    files, labels = samples.files, samples.labels
    assert labels is not None
    firsts = samples.images[np.unique(labels, return_index=True)[1]]  # of each class
    folders = [os.fsdecode(name).rpartition("/")[0] for name in firsts]
    words = [folder.rpartition("/")[2].lower() for folder in folders]
    masks = [folder for folder, word in zip(folders, words, strict=True) if word in MASK_FOLDERS]
    if masks and not IMAGE_FOLDERS.isdisjoint(words):
        raise DataError(
            f"{files.where(masks[0])} lies beside a folder of images, and would be learned from "
            "as a class of its own; masks belong into masks/<split> (images into "
            "images/<split>), or move them away",
        )
    text = samples.images.tobytes().lower()
    if any(word.encode() in text for word in MASK_WORDS):
        stems = [os.fsdecode(name).rpartition(".")[0] for name in samples.images.tolist()]
        known, found = {*stems}, []
        for stem in stems:
            folder, _, name = stem.rpartition("/")
            if (match := MASK_NAME.fullmatch(name)) and f"{folder}/{match[1]}" in known:
                found.append(stem)
        if len(found) > len(stems) / 10:
            raise DataError(
                f"{len(found)} of {len(stems)} images below {files.where()} are named as masks of "
                f"others ({few(found)}), and would be learned from as images; move them to "
                "masks/<split>/<class>/<name of the image>.png, or away"
            )
    if len(folders) != 2:
        return
    names = [list(map(os.fsdecode, samples.images[labels == label])) for label in (0, 1)]
    stems, others = ([PurePosixPath(name).stem for name in each] for each in names)
    looks = [_like_masks(samples, each) for each in names] if stems == others else [False]
    if len({*looks}) > 1:
        raise DataError(
            f"{files.where(folders[looks.index(True)])} holds masks by its content, one of the "
            "name of each image beside it, and would be learned from as a class of its own; lay "
            "them out as images/<split> and masks/<split>"
        )


def _like_masks(samples: Samples, names: list[str]) -> bool:
    """Whether some of the files all look like masks: one channel of few values, without loss."""
    for at in spread(len(names), 4):
        try:
            with samples.files.open(names[at]) as file, Image.open(file) as image:
                if image.mode not in ("1", "L", "P") or image.format == "JPEG":
                    return False
                if len(image.getcolors() or ()) not in range(1, FEW_VALUES):
                    return False
        except PIL_ERRORS:
            return False
    return True
