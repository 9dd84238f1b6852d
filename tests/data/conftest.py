"""Tiny datasets in their original layouts, and the real ones where they are at hand."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

WORDNET = ("n01440764", "n02102040", "n03000684")


def picture(path: Path, size: tuple[int, int] = (40, 30), seed: int = 0) -> Path:
    """A smooth random picture of (width, height); noise would make large files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rough = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), cv2.resize(rough, size, interpolation=cv2.INTER_CUBIC))
    return path


def indices(path: Path, values: list[int], size: tuple[int, int] = (40, 30), mode: str = "L"):
    """A mask of (width, height) with stripes of the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stripes = np.resize(np.array(values, dtype=np.uint8), size[0])
    mask = Image.fromarray(np.tile(stripes, (size[1], 1)))
    if mode == "P":
        mask.putpalette([channel for value in range(256) for channel in (value, 255 - value, 7)])
    mask.save(path)
    return path


@pytest.fixture
def draw() -> Callable[..., Path]:
    return picture


@pytest.fixture
def stripe() -> Callable[..., Path]:
    return indices


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    for split, count in (("train", 4), ("val", 2)):
        for label, wordnet in enumerate(WORDNET):
            for i in range(count):
                picture(tmp_path / split / wordnet / f"{wordnet}_{i}.JPEG", seed=10 * label + i)
    return tmp_path


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    folder = tmp_path / "VOCdevkit/VOC2012"
    lists = folder / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    names = {"train": ["2007_000032", "2007_000039", "2007_000063"], "val": ["2007_000033"]}
    names["trainval"] = names["train"] + names["val"]
    for split, members in names.items():
        (lists / f"{split}.txt").write_text("\n".join(members) + "\n")
    for seed, name in enumerate(names["trainval"]):
        picture(folder / f"JPEGImages/{name}.jpg", seed=seed)
        indices(folder / f"SegmentationClass/{name}.png", [0, 15, 20, 255], mode="P")
    return tmp_path


@pytest.fixture
def ade(tmp_path: Path) -> Path:
    folder = tmp_path / "ADEChallengeData2016"
    for place, kind in (("training", "train"), ("validation", "val")):
        for i in (1, 2):
            picture(folder / f"images/{place}/ADE_{kind}_{i:08d}.jpg", seed=i)
            indices(folder / f"annotations/{place}/ADE_{kind}_{i:08d}.png", [0, 1, 2, 150])
    return tmp_path


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    for split, city in (("train", "aachen"), ("val", "munster"), ("test", "bonn")):
        stem = f"{city}/{city}_000000_000019"
        picture(tmp_path / f"leftImg8bit/{split}/{stem}_leftImg8bit.png")
        indices(tmp_path / f"gtFine/{split}/{stem}_gtFine_labelIds.png", [0, 7, 8, 11, 29, 33, 255])
    return tmp_path


@pytest.fixture
def dense_folder(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        for i in range(2):
            picture(tmp_path / f"images/{split}/{i}.jpg", seed=i)
            indices(tmp_path / f"masks/{split}/{i}.png", [0, 1, 2])
    (tmp_path / "classes.json").write_text(
        '{"classes": ["sky", "void", "road"], "ignore_index": 1}'
    )
    return tmp_path


@pytest.fixture
def real() -> Callable[[str], Path]:
    """Folder of a real dataset; skips the test, and says so, where it is not at hand."""

    def folder(name: str) -> Path:
        path = Path(__file__).parents[3] / "shared/data" / name
        if not path.is_dir():
            pytest.skip(f"no {name} in shared/data beside the repository")
        return path

    return folder
