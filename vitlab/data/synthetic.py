"""The embedded default data: ImageNet, VOC 2012, ADE20K and Cityscapes in miniature, from a seed.

The folders have the original layouts, so the loaders of the real sets read them unchanged. Ten
classes of objects, told apart by silhouette and texture and never by color, appear in ImageNet,
VOC and ADE20K alike; what is learned from one set can be probed on the others.
"""

import io
import json
import multiprocessing
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track
from scipy.io import savemat

from vitlab.data import drawing
from vitlab.data.drawing import KINDS, Canvas

MARKER = "synthetic.json"  # its presence says that the set is complete
VERSION = 1  # raise it with every change that alters a picture

VOC_IDS = (1, 2, 4, 5, 7, 9, 11, 14, 16, 20)  # of KINDS, in their order
ADE_IDS = (13, 15, 18, 20, 21, 24, 37, 40, 44, 83)  # of KINDS, in their order
ADE_STUFF = {"wall": 1, "sky": 3, "floor": 4, "grass": 10, "water": 22}

# In the devkit of ImageNet the ids are not in the order of the wnids, which loaders must undo.
WNIDS = tuple(f"n9000{n:04d}" for n in range(1, len(KINDS) + 1))
ILSVRC_IDS = (7, 3, 10, 1, 5, 9, 2, 8, 6, 4)

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Amounts:
    """How many pictures to draw.

    Attributes:
        imagenet_train: training images of each of the ten classes.
        imagenet_val: validation images of each of the ten classes.
        voc_train: images in train.txt.
        voc_val: images in val.txt.
        ade_train: images in training.
        ade_val: images in validation.
        cityscapes_train: images in train, over three cities.
        cityscapes_val: images in val, of another city.
    """

    imagenet_train: int = 150
    imagenet_val: int = 30
    voc_train: int = 300
    voc_val: int = 150
    ade_train: int = 200
    ade_val: int = 80
    cityscapes_train: int = 60
    cityscapes_val: int = 24

    def __post_init__(self) -> None:
        for name, count in asdict(self).items():
            if count < 1:
                raise ValueError(f"{name} is {count}; draw at least 1, so that no split is empty")


_USUAL = Amounts()


@dataclass(frozen=True)
class Task:
    """One picture to draw: everything a worker must know.

    Attributes:
        draw: the function that draws and writes it.
        root: folder of all the sets.
        seed: of the whole collection.
        split: "train" or "val".
        index: number in the split, from 0; all classes of ImageNet take turns.
    """

    draw: Callable[["Task", np.random.Generator], None]
    root: Path
    seed: int
    split: str
    index: int

    def run(self) -> None:
        """Draw and write; nothing outside this task changes a single byte of the result."""
        key = f"{self.draw.__name__} {self.split}".encode()
        self.draw(self, np.random.default_rng([self.seed, zlib.crc32(key), self.index]))


def synthesize(root: Path, seed: int = 0, amounts: Amounts = _USUAL, processes: int = 0) -> None:
    """Draw miniature copies of ImageNet, VOC 2012, ADE20K and Cityscapes in their own layouts.

    Nothing is done if the folder already holds the same collection. The folder appears only when
    it is complete; an interrupted run leaves a `.partial` folder beside it for the next to replace.

    Args:
        root: folder to make; will hold imagenet, VOCdevkit, ADEChallengeData2016 and cityscapes.
        seed: the same seed gives the same bytes on every run, whatever the number of processes.
        amounts: how many pictures to draw for each set and split.
        processes: how many draw side by side; 0 for one per 2,000 pictures, at most one per core.
    """
    if seed < 0 or processes < 0:
        raise ValueError(f"seed {seed}, processes {processes}: neither may be negative; use 0")
    facts = {"version": VERSION, "seed": seed, "amounts": asdict(amounts)}
    if _is_complete(root, facts):
        return
    partial = root.absolute().with_name(root.absolute().name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    _write_devkit(partial / "imagenet" / "ILSVRC2012_devkit_t12" / "data", seed, amounts)
    _write_voc_lists(partial / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation", amounts)
    _run(list(_tasks(partial, seed, amounts)), processes)
    _write_ade_lists(partial / "ADEChallengeData2016")
    (partial / MARKER).write_text(json.dumps(facts, indent=2) + "\n")
    if root.exists():
        root.rmdir()  # it is empty, or we had refused it
    partial.rename(root)


def _is_complete(root: Path, facts: dict[str, object]) -> bool:
    """Whether `root` holds the collection that `facts` describes; anything else there is kept."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    marker = root / MARKER
    held = json.loads(marker.read_text()) if marker.is_file() else "files that are not ours"
    if held == facts:
        return True
    raise ValueError(
        f"{root} holds {held}, and nothing is ever overwritten; "
        f"allowed is a new or empty folder, or a collection of {facts}; "
        "choose another --root, or delete this one first"
    )


def _tasks(root: Path, seed: int, amounts: Amounts) -> Iterator[Task]:
    count = asdict(amounts)
    for split in ("train", "val"):
        for index in range(count[f"imagenet_{split}"] * len(KINDS)):
            yield Task(_draw_imagenet, root / "imagenet", seed, split, index)
        for index in range(count[f"voc_{split}"]):
            yield Task(_draw_voc, root / "VOCdevkit" / "VOC2012", seed, split, index)
        for index in range(count[f"ade_{split}"]):
            yield Task(_draw_ade, root / "ADEChallengeData2016", seed, split, index)
        for index in range(count[f"cityscapes_{split}"]):
            yield Task(_draw_cityscapes, root / "cityscapes", seed, split, index)


def _run(tasks: list[Task], processes: int) -> None:
    # to import the package takes a worker about as long as drawing some hundred pictures
    workers = processes or max(1, min(len(tasks) // 2000, _cores()))
    with ExitStack() as stack:
        results: Iterable[None] = map(Task.run, tasks)
        if workers > 1:
            # fork would copy the threads of torch in an unknown state
            context = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(
                workers, context, initializer=cv2.setNumThreads, initargs=(1,)
            )
            stack.callback(pool.shutdown, cancel_futures=True)  # do not draw on after Ctrl-C
            results = pool.map(Task.run, tasks, chunksize=8)
        for _ in track(results, "drawing the synthetic data", len(tasks), transient=True):
            pass


def _cores() -> int:
    """Cores this process may use; macOS tells only how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _random_size(rng: np.random.Generator, low: int, high: int) -> tuple[int, int]:
    """Height and width in pixels, portrait or landscape."""
    height, width = rng.integers(low, high + 1, 2)
    return int(height), int(width)


def _save_jpeg(path: Path, pixels: Picture, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(75, 96))]
    path.write_bytes(cv2.imencode(".jpg", pixels[..., ::-1], quality)[1].tobytes())


def _save_png(path: Path, values: NDArray[np.generic], palette: Picture | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if palette is not None:
        image.putpalette(palette.tobytes())  # and mode L becomes P
    image.save(path)


# ImageNet


def _validation_kind(seed: int, index: int) -> int:
    """Class of the validation image `index`: each run of ten images holds every class once."""
    order = np.random.default_rng([seed, index // len(KINDS)]).permutation(len(KINDS))
    return int(order[index % len(KINDS)])


def _draw_imagenet(task: Task, rng: np.random.Generator) -> None:
    if task.split == "train":
        number, kind = divmod(task.index, len(KINDS))
        path = task.root / "train" / WNIDS[kind] / f"{WNIDS[kind]}_{number + 1}.JPEG"
    else:
        kind = _validation_kind(task.seed, task.index)
        path = task.root / "val" / f"ILSVRC2012_val_{task.index + 1:08d}.JPEG"
    canvas = drawing.portrait(rng, *_random_size(rng, 128, 176), kind)
    _save_jpeg(path, drawing.develop(canvas, rng), rng)


def _write_devkit(folder: Path, seed: int, amounts: Amounts) -> None:
    """The ground truth of the validation images and the table of classes."""
    folder.mkdir(parents=True)
    kinds = [_validation_kind(seed, i) for i in range(amounts.imagenet_val * len(KINDS))]
    lines = "".join(f"{ILSVRC_IDS[kind]}\n" for kind in kinds)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text(lines)
    rows: list[tuple[object, ...]] = [
        (
            ILSVRC_IDS[k],
            WNIDS[k],
            kind.name,
            f"with {kind.surface}",
            0,
            [],
            0,
            amounts.imagenet_train,
        )
        for k, kind in enumerate(KINDS)
    ]
    # the original lists inner nodes of WordNet too, which loaders must leave out
    children = sorted(ILSVRC_IDS)
    root = (len(KINDS) + 1, "n90009999", "object", "any of them", len(children), children, 1, 0)
    fields = "ILSVRC2012_ID WNID words gloss num_children children wordnet_height num_train_images"
    synsets = np.array([*sorted(rows), root], [(name, object) for name in fields.split()])
    memory = io.BytesIO()
    savemat(memory, {"synsets": synsets[:, None]})
    content = memory.getvalue()
    # the first 116 bytes are free text, where scipy puts the time
    (folder / "meta.mat").write_bytes(b"MATLAB 5.0 MAT-file".ljust(116) + content[116:])


# VOC 2012


def _voc_number(split: str, index: int) -> str:
    return f"2012_{index + 1 + (500_000 if split == 'val' else 0):06d}"


def _voc_palette() -> Picture:
    """Colors of the 256 indices, (256, 3): bits 0, 3, 6 of an index make its red, and so on."""
    index = np.arange(256)[:, None]
    bit = np.arange(8)
    parts = [((index >> (3 * bit + c) & 1) << (7 - bit)).sum(1) for c in range(3)]
    return np.stack(parts, 1).astype(np.uint8)


def _draw_voc(task: Task, rng: np.random.Generator) -> None:
    canvas = drawing.backdrop(rng, *_random_size(rng, 128, 192))
    drawing.still_life(canvas, rng, VOC_IDS)
    name = _voc_number(task.split, task.index)
    _save_jpeg(task.root / "JPEGImages" / f"{name}.jpg", drawing.develop(canvas, rng), rng)
    mask = canvas.labels.copy()
    mask[_rims(canvas)] = 255
    _save_png(task.root / "SegmentationClass" / f"{name}.png", mask, _voc_palette())


def _rims(canvas: Canvas) -> NDArray[np.bool_]:
    """Where things meet or end: a line of two pixels, one on each side."""
    block = np.ones((3, 3), np.uint8)
    return cv2.dilate(canvas.things, block) != cv2.erode(canvas.things, block)


def _write_voc_lists(folder: Path, amounts: Amounts) -> None:
    folder.mkdir(parents=True)
    train = [_voc_number("train", index) for index in range(amounts.voc_train)]
    val = [_voc_number("val", index) for index in range(amounts.voc_val)]
    for name, numbers in {"train": train, "val": val, "trainval": train + val}.items():
        (folder / f"{name}.txt").write_text("".join(f"{number}\n" for number in numbers))


# ADE20K


def _draw_ade(task: Task, rng: np.random.Generator) -> None:
    canvas = drawing.room(rng, *_random_size(rng, 128, 192), ADE_STUFF, ADE_IDS)
    name = f"ADE_{task.split}_{task.index + 1:08d}"
    folder = "training" if task.split == "train" else "validation"
    pixels = drawing.develop(canvas, rng)
    _save_jpeg(task.root / "images" / folder / f"{name}.jpg", pixels, rng)
    _save_png(task.root / "annotations" / folder / f"{name}.png", canvas.labels)


def _write_ade_lists(root: Path) -> None:
    """The table of the 150 classes, with their frequencies, and a scene for each image."""
    pixels, images = (
        np.zeros(151),
        {"training": np.zeros(151, int), "validation": np.zeros(151, int)},
    )
    scenes = []
    for split, present in images.items():
        for path in sorted((root / "annotations" / split).iterdir()):
            counts = np.bincount(np.asarray(Image.open(path)).ravel(), minlength=151)
            present += counts > 0
            pixels += counts * (split == "training")
            scenes.append(f"{path.stem} {'room' if counts[ADE_STUFF['wall']] else 'field'}\n")
    names = {label: name for name, label in ADE_STUFF.items()}
    names |= {label: kind.name for label, kind in zip(ADE_IDS, KINDS, strict=True)}
    share = pixels / pixels.sum()
    lines = ["Idx\tRatio\tTrain\tVal\tName\n"]
    for i in range(1, 151):
        seen = f"{images['training'][i]}\t{images['validation'][i]}"
        lines.append(f"{i}\t{share[i]:.4f}\t{seen}\t{names.get(i, f'class {i}')}\n")
    (root / "objectInfo150.txt").write_text("".join(lines))
    (root / "sceneCategories.txt").write_text("".join(scenes))


# Cityscapes

_CITIES = {"train": ("dotbury", "stripeham", "waveford"), "val": ("checkerton",)}
_COUNTABLE = range(24, 34)  # persons, riders and vehicles: each has an instance number
_CITY_COLORS = {
    0: (0, 0, 0),
    1: (0, 0, 0),
    3: (0, 0, 0),
    4: (0, 0, 0),
    7: (128, 64, 128),
    8: (244, 35, 232),
    11: (70, 70, 70),
    12: (102, 102, 156),
    13: (190, 153, 153),
    17: (153, 153, 153),
    19: (250, 170, 30),
    20: (220, 220, 0),
    21: (107, 142, 35),
    22: (152, 251, 152),
    23: (70, 130, 180),
    24: (220, 20, 60),
    25: (255, 0, 0),
    26: (0, 0, 142),
    27: (0, 0, 70),
    28: (0, 60, 100),
    33: (119, 11, 32),
}


def _draw_cityscapes(task: Task, rng: np.random.Generator) -> None:
    canvas = drawing.Street(rng, height=128, width=256).canvas
    cities = _CITIES[task.split]
    number, place = divmod(task.index, len(cities))
    city = cities[place]
    name = f"{city}_{number // 10:06d}_{number % 10 + 19:06d}"
    _save_png(
        task.root / "leftImg8bit" / task.split / city / f"{name}_leftImg8bit.png",
        drawing.develop(canvas, rng),
    )
    truth = task.root / "gtFine" / task.split / city
    _save_png(truth / f"{name}_gtFine_labelIds.png", canvas.labels)
    _save_png(truth / f"{name}_gtFine_instanceIds.png", _instances(canvas))
    colors = np.zeros((256, 4), np.uint8)
    for label, color in _CITY_COLORS.items():
        colors[label] = (*color, 255)
    _save_png(truth / f"{name}_gtFine_color.png", colors[canvas.labels])


def _instances(canvas: Canvas) -> NDArray[np.uint16]:
    """The label where a class is not counted, else 1000 * label + number from 0."""
    result = canvas.labels.astype(np.uint16)
    for label in _COUNTABLE:
        numbers = np.unique(canvas.things[canvas.labels == label])
        for number, thing in enumerate(numbers):
            mine = (canvas.things == thing) & (canvas.labels == label)
            result[mine] = 1000 * label + number
    return result
