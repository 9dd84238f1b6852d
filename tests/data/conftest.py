"""Tiny datasets in their original layouts."""

import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

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
    mask = Image.fromarray(np.tile(np.resize(np.uint8(values), size[0]), (size[1], 1)))
    if mode == "P":
        mask.putpalette([channel for value in range(256) for channel in (value, 255 - value, 7)])
    mask.save(path)
    return path


def tar(path, members: Mapping[str, bytes], format: int = tarfile.GNU_FORMAT):
    """A tar of these files, at a path or in a buffer."""
    target = {"fileobj": path} if isinstance(path, io.BytesIO) else {"name": path}
    with tarfile.open(mode="w", format=format, **target) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def zipped(path: Path, members: Mapping[str, bytes], packing: int = zipfile.ZIP_STORED) -> Path:
    """A zip of these files."""
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def contents(folder: Path, prefix: str = "") -> dict[str, bytes]:
    """All files below a folder by their paths in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {f"{prefix}{file.relative_to(folder)}": file.read_bytes() for file in files}


def with_devkit(root: Path, ids: tuple[int, ...] = (3, 1, 2)) -> list[str]:
    """Validation as in the original archive; the devkit numbers classes in its own order."""
    names, truth = sorted(path.name for path in (root / "val").iterdir()), []
    for wordnet, one in zip(names, ids, strict=True):
        for path in sorted((root / "val" / wordnet).iterdir()):
            truth.append(str(one))
            path.rename(root / f"val/ILSVRC2012_val_{len(truth):08d}.JPEG")
        (root / "val" / wordnet).rmdir()
    kit = root / "ILSVRC2012_devkit_t12/data"
    kit.mkdir(parents=True)
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(truth))
    rows = [(one, name, 0) for one, name in zip(ids, names, strict=True)]
    rows.append((9, "n00000001", 3))  # a group of classes
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")]
    savemat(kit / "meta.mat", {"synsets": np.array(rows, dtype=kinds).reshape(-1, 1)})
    return names


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache of a test; made only if something is kept there."""
    folder = tmp_path.with_name(f"{tmp_path.name}-cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def pack() -> SimpleNamespace:
    """How files become archives."""
    return SimpleNamespace(tar=tar, zip=zipped, contents=contents)


@pytest.fixture
def flatten() -> Callable[..., list[str]]:
    return with_devkit


@pytest.fixture(scope="session")
def draw() -> Callable[..., Path]:
    return picture


@pytest.fixture
def stripe() -> Callable[..., Path]:
    return indices


@pytest.fixture
def box() -> Callable[[int], np.ndarray]:
    """A mask of an object: true on a box of random place and size."""

    def draw(seed: int) -> np.ndarray:
        rng, mask = np.random.default_rng(seed), np.zeros((80, 100), bool)
        top, left = rng.integers(5, (40, 50))
        mask[top : top + rng.integers(25, 35), left : left + rng.integers(25, 45)] = True
        return mask

    return draw


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
    (folder / "ImageSets/Segmentation").mkdir(parents=True)
    names = {"train": ["2007_000032", "2007_000039", "2007_000063"], "val": ["2007_000033"]}
    names["trainval"] = names["train"] + names["val"]
    for split, members in names.items():
        (folder / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(members) + "\n")
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
    classes = '{"classes": ["sky", "void", "road"], "ignore_index": 1}'
    (tmp_path / "classes.json").write_text(classes)
    return tmp_path
