"""Profile of a dataset's labels: what they show, and what makes a score meaningless or poor."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from vitlab.data.datamodule import VisionDataModule
from vitlab.data.errors import DataError
from vitlab.data.picture_faults import remarks_on_files
from vitlab.data.storage import few
from vitlab.data.transforms import SegmentationSquare

MOSTLY_VOID = 90  # percent of ignored pixels from which a set is called so


@dataclass(frozen=True)
class LabelProfile:
    """What the labels of a split show.

    Attributes:
        counts: pixels, or images, of each class.
        void: pixels that are ignored.
        looked: masks, or labels, that were looked at: those spread over the split, and all while
            they show less than two classes.
        total: of the split.
    """

    counts: Int64[np.ndarray, " c"]
    void: int
    looked: int
    total: int

    @property
    def seen(self) -> set[int]:
        """The classes that are shown."""
        return set(np.flatnonzero(self.counts).tolist())

    @property
    def void_share(self) -> float:
        """Ignored pixels in percent."""
        return 100 * self.void / max(self.void + int(self.counts.sum()), 1)


def refuse_meaningless(
    profiles: dict[str, LabelProfile], classes: tuple[str, ...], kind: str, remedy: str
) -> None:
    """Refuse labels on which every encoder, or none, would score.

    Args:
        profiles: of training and validation, or of the latter alone, by the name of the split.
        classes: their names.
        kind: of what carries labels: "masks" or "images".
        remedy: for values of masks that are not those of the classes.

    Raises:
        DataError: all is void, one class alone is shown, or no class is in both splits.
    """
    for split, profile in profiles.items():
        void = ""
        if profile.void:
            void = f"; {profile.void_share:.0f} % of the pixels are void (ignored): {remedy}"
        if not profile.seen:
            raise DataError(
                f"all pixels of all {profile.total} masks of split {split!r} are void, so there is "
                f"nothing to learn from or to score{void}"
            )
        if len(profile.seen) == 1:
            raise DataError(
                f"all {profile.total} {kind} of split {split!r} show one class, "
                f"{classes[profile.seen.pop()]!r}: every encoder would score 100, so the score "
                f"would mean nothing{void}; a score needs two classes, training without labels none"
            )
    if not set.intersection(*(profile.seen for profile in profiles.values())):
        shown = [
            f"{split} shows {few([classes[index] for index in sorted(profile.seen)])}"
            for split, profile in profiles.items()
        ]
        raise DataError(
            f"no class is in both splits: {', '.join(shown)}; the score would mean nothing: write "
            "both with the same values"
        )


def label_remarks(
    profiles: dict[str, LabelProfile], classes: tuple[str, ...], kind: str
) -> Iterator[str]:
    """What makes a score poor, in sentences; absent classes of splits looked at in full."""
    for split, profile in profiles.items():
        if profile.void_share > MOSTLY_VOID:
            yield f"more than {MOSTLY_VOID} % of the pixels of {split} are void (ignored)"
    if any(profile.looked < profile.total for profile in profiles.values()):
        return
    (one, first), (other, second) = ((split, each.seen) for split, each in profiles.items())
    for absent, text in (
        ({*range(len(classes))} - first - second, f"are in no {kind} of {one} or {other}"),
        (second - first, f"are in {kind} of {other}, but in none of {one}: not learned"),
        (first - second, f"are in no {kind} of {other}: not scored"),
    ):
        if absent:
            names = few([classes[index] for index in sorted(absent)])
            yield f"{len(absent)} of {len(classes)} classes {text}: {names}"
    for shift in (1, -1):
        if second == {index + shift for index in first}:
            yield f"the values of {other} are those of {one} shifted by {shift}: see to the files"


def label_profile(data: VisionDataModule, split: str) -> LabelProfile:
    """Look at the labels of all images, or at masks that are spread over a split.

    Raises:
        DataError: a mask that does not fit to its image, or holds values that are not allowed.
    """
    samples, classes = data.samples(split), data.num_classes
    if samples.labels is not None:
        counts = np.bincount(samples.labels, minlength=classes)
        return LabelProfile(counts, 0, len(samples), len(samples))
    counts, looked = data.segmentation_dataset(split, SegmentationSquare(16)).check()
    return LabelProfile(counts[:classes], int(counts[255]), looked, len(samples))


def check_scores(
    data: VisionDataModule,
    split: str,
    learns_void: bool = False,
    known: Mapping[str, LabelProfile] | None = None,
) -> list[str]:
    """Refuse a dataset on which scores would mean nothing, before any work.

    Args:
        data: with labels or masks.
        split: to learn from; `val_split` is scored.
        learns_void: whether pixels that are not scored are learned from, so that masks of `split`
            may hold no other.
        known: profiles of splits; used where they show two classes, or all that there is.

    Returns:
        What makes scores poor, in sentences.

    Raises:
        DataError: see `refuse_meaningless`, `label_profile` and `VisionDataModule.refuse_leak`.
    """
    data.refuse_leak(split)
    profiles = {}
    for each in (split, data.val_split):
        profile = (known or {}).get(each)
        if profile is None or (len(profile.seen) < 2 and profile.looked < profile.total):
            profile = label_profile(data, each)
        profiles[each] = profile
    kind = "images" if data.samples(split).masks is None else "masks"
    checked = {data.val_split: profiles[data.val_split]} if learns_void else profiles
    refuse_meaningless(checked, data.classes, kind, data.values_remedy)
    files = (text for each in profiles for text in remarks_on_files(data.samples(each)))
    return [*label_remarks(profiles, data.classes, kind), *files]
