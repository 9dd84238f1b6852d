"""Names of encoders and scores, the same in tables, figures, curves and reports.

An encoder is called by its arm, the folder above `seed0`, or by its run's folder; never by the name
of a file that every run has, such as best.ckpt. `--labels` and `--metrics` choose other names.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath

from vitlab.errors import InputError
from vitlab.terminal import printable

SEED = re.compile(r"seed[-_]?(\d+|\*)")
OF_EVERY_RUN = {"best", "last", "previous", "checkpoints"}
WEIGHTS = {".ckpt", ".pth", ".pt", ".safetensors", ".npz", ".bin", ".yaml"}
WORDS = {
    "miou": "mIoU", "top1": "top-1", "top5": "top-5", "knn": "k-NN", "linear": "linear probe",
    "val": "validation", "ece": "calibration error", "cls_patch_cosine": "[CLS]-patch cosine",
    "patch_patch_cosine": "patch-patch cosine", "norm_outliers": "high-norm patches",
}  # fmt: skip


def weights_names(path: str, branch: str = "") -> list[str]:
    """Return names of weights, from the arm or run to the whole path; none for a bare best.ckpt.

    Args:
        path: of a file, an exported folder or a run; seeds may be written "seed*".
        branch: model of a file with several, such as "teacher".
    """
    *folders, file = PurePath(path).parts or ("",)
    parts = [*folders, PurePath(file).stem if PurePath(file).suffix in WEIGHTS else file]
    run = parts[:-2] if parts[-2:-1] == ["checkpoints"] else parts
    while run and run[-1] in OF_EVERY_RUN:
        run = run[:-1]
    seeds = [place for place, part in enumerate(run) if place and SEED.fullmatch(part)]
    arm = run[: seeds[-1]] if seeds else run
    if not arm or not arm[-1].strip("/."):
        return []
    ends = [parts[len(arm) - 1 : stop] for stop in range(len(arm) + 1, len(parts) + 1)]
    longer = [arm[-count:] for count in range(2, len(arm) + 1)]
    named = [arm[-1], f"{arm[-1]} ({branch})" if branch else arm[-1]]
    whole = str(PurePath(*parts))
    named += [str(PurePath(*each)) for each in (*ends[:1], *longer, *ends[1:])]
    return [*named, whole, f"{whole} ({branch})" if branch else whole]


def shortest_names(candidates: Sequence[Sequence[str]]) -> list[str]:
    """Return for each its first name that no other has, of names from short to long."""
    labels = [""] * len(candidates)
    for level in range(max(map(len, candidates), default=0)):
        names = [
            label or own[min(level, len(own) - 1)]
            for label, own in zip(labels, candidates, strict=True)
        ]
        alone = Counter(names)
        labels = [name if alone[name] == 1 else "" for name in names]
        if all(labels):
            break
    return [label or own[-1] for label, own in zip(labels, candidates, strict=True)]


def renamed(names: Sequence[str], labels: Sequence[str], option: str = "--labels") -> list[str]:
    """Return the names with those that are chosen.

    Args:
        names: the default ones.
        labels: one for each name in their order, or NAME=LABEL for some of them.
        option: that gives the labels, for messages.

    Raises:
        InputError: another number of labels, or two names that would be one.
    """
    split = [label.partition("=") for label in labels]
    pairs = {name: label for name, sign, label in split if sign and name in names}
    if len(pairs) < len(labels):
        if len(labels) != len(names) or pairs:
            raise InputError(
                f"{option} has {len(labels)} values for {len(names)}: {', '.join(names)}; give one "
                "for each in this order, or NAME=LABEL for some of them",
                field=option,
            )
        found = [*labels]  # also where two defaults are the same
    else:
        found = [pairs.get(name, name) for name in names]
    found = [printable(name) for name in found]
    wrong = [name for name, times in Counter(found).items() if times > 1 or not name.strip()]
    if wrong:
        raise InputError(
            f"several would be called {', '.join(wrong)}; name them with {option}"
            if wrong[0].strip()
            else f"{option} has an empty name; give each a name of its own",
            field=option,
        )
    return found


def score_title(name: str) -> str:
    """Return a score's name for people: "k-NN top-1" of knn/top1, "mIoU, voc2012" of miou/voc2012.

    The last part of a mIoU or of a feature's name is that of the dataset.
    """
    parts = name.removeprefix("features/").split("/")
    words = [WORDS.get(part.lower(), part.replace("_", " ")) for part in parts]
    of_dataset = name.startswith("features/") or parts[0].lower() == "miou"
    return (", " if of_dataset else " ").join(words)
