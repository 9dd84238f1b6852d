"""Synthetic data: the same bytes for a seed, complete, in the original layouts."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refused
from scipy.io import loadmat

from vitlab.data.synthetic import (
    ADE_IDS,
    ADE_STUFF,
    MARKER,
    VOC_IDS,
    Amounts,
    collection,
    imagenet,
    synthesize,
)
from vitlab.data.synthetic.drawing.canvas import Canvas
from vitlab.data.synthetic.drawing.objects import KINDS, Pose
from vitlab.data.synthetic.drawing.silhouettes import SILHOUETTES, box
from vitlab.data.synthetic.drawing.textures import TEXTURES
from vitlab.data.synthetic.drawing.tones import mix

FEW = Amounts(
    imagenet_train=2,
    imagenet_val=1,
    voc_train=4,
    voc_val=2,
    ade_train=4,
    ade_val=2,
    cityscapes_train=4,
    cityscapes_val=2,
)


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def values(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "data"
    synthesize(folder, seed=3, amounts=FEW, processes=1)
    return folder


@pytest.mark.slow  # each worker imports the package
def test_the_number_of_processes_does_not_change_a_byte(root: Path, tmp_path: Path) -> None:
    synthesize(tmp_path / "again", seed=3, amounts=FEW, processes=2)
    assert digests(tmp_path / "again") == digests(root)


def test_another_seed_changes_every_picture_and_more_pictures_change_none(
    root: Path, tmp_path: Path
) -> None:
    synthesize(tmp_path / "other", seed=4, amounts=FEW, processes=1)
    more = Amounts(**{**FEW.__dict__, "imagenet_val": 2, "voc_train": 5})
    synthesize(tmp_path / "more", seed=3, amounts=more, processes=1)
    mine, other, larger = digests(root), digests(tmp_path / "other"), digests(tmp_path / "more")
    pictures = [name for name in mine if name.endswith((".JPEG", ".jpg", "leftImg8bit.png"))]
    assert len(pictures) == 30 + 6 + 6 + 6
    assert all(mine[name] != other[name] for name in pictures)
    assert all(mine[name] == larger[name] for name in pictures)


def test_imagenet_devkit_tells_the_class_that_was_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    real = imagenet.portrait

    def spy(rng: np.random.Generator, height: int, width: int, kind: int) -> Canvas:
        drawn.append(kind)
        return real(rng, height, width, kind)

    monkeypatch.setattr(imagenet, "portrait", spy)
    synthesize(tmp_path / "data", amounts=FEW, processes=1)
    folder = tmp_path / "data" / "imagenet"
    wnids = sorted(path.name for path in (folder / "train").iterdir())
    assert len(wnids) == len(KINDS)
    data = folder / "ILSVRC2012_devkit_t12" / "data"
    synsets = loadmat(data / "meta.mat", squeeze_me=True)["synsets"]
    assert synsets.dtype.names[:5] == (
        "ILSVRC2012_ID", "WNID", "words", "gloss", "num_children",
    )  # fmt: skip
    leaves = {int(row["ILSVRC2012_ID"]): row for row in synsets if row["num_children"] == 0}
    assert sorted(leaves) == list(range(1, 11))
    assert len(synsets) > len(leaves)
    lines = (data / "ILSVRC2012_validation_ground_truth.txt").read_text().split()
    truth = [str(leaves[int(line)]["WNID"]) for line in lines]
    assert [wnids.index(wnid) for wnid in truth] == drawn[20:]
    assert set(Counter(truth).values()) == {FEW.imagenet_val}
    assert {str(row["words"]) for row in leaves.values()} == {kind.name for kind in KINDS}
    assert [str(leaves[key]["WNID"]) for key in sorted(leaves)] != wnids  # another order


def test_imagenet_files_have_their_original_names(root: Path) -> None:
    folder = root / "imagenet"
    wnids = sorted(path.name for path in (folder / "train").iterdir())
    for wnid in wnids:
        names = sorted(path.name for path in (folder / "train" / wnid).iterdir())
        assert names == [f"{wnid}_1.JPEG", f"{wnid}_2.JPEG"]
    names = sorted(path.name for path in (folder / "val").iterdir())
    assert names == [f"ILSVRC2012_val_{n:08d}.JPEG" for n in range(1, 11)]
    sizes = [size(path) for path in folder.rglob("*.JPEG")]
    assert all(128 <= edge <= 176 for edges in sizes for edge in edges)
    assert {width > height for width, height in sizes} == {True, False}


def test_voc_lists_are_disjoint_and_every_number_has_a_pair(root: Path) -> None:
    folder = root / "VOCdevkit" / "VOC2012"
    lists = {
        name: (folder / "ImageSets" / "Segmentation" / f"{name}.txt").read_text().split()
        for name in ("train", "val", "trainval")
    }
    assert (len(lists["train"]), len(lists["val"])) == (FEW.voc_train, FEW.voc_val)
    assert not set(lists["train"]) & set(lists["val"])
    assert sorted(lists["trainval"]) == sorted(lists["train"] + lists["val"])
    for kind, end in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        assert {p.name for p in (folder / kind).iterdir()} == {
            f"{number}.{end}" for number in lists["trainval"]
        }


def test_voc_masks_are_palette_images_with_a_void_rim(root: Path) -> None:
    for path in (root / "VOCdevkit" / "VOC2012" / "SegmentationClass").iterdir():
        mask = Image.open(path)
        assert mask.mode == "P"
        assert mask.size == size(path.parents[1] / "JPEGImages" / f"{path.stem}.jpg")
        assert mask.getpalette()[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
        assert mask.getpalette()[-3:] == [224, 224, 192]
        labels = np.asarray(mask)
        assert set(np.unique(labels)) <= {0, 255, *VOC_IDS}
        assert {0, 255} < set(np.unique(labels))
        # no pixel of one class touches a pixel of another: the rim lies between
        for one, two in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
            meet = (one != two) & (one != 255) & (two != 255)
            assert not meet.any()


def test_ade_masks_are_gray_with_stuff_objects_and_unlabeled_pixels(root: Path) -> None:
    folder = root / "ADEChallengeData2016"
    seen: set[int] = set()
    for split, short, count in (("training", "train", 4), ("validation", "val", 2)):
        stems = [f"ADE_{short}_{n:08d}" for n in range(1, count + 1)]
        for kind, end in (("images", "jpg"), ("annotations", "png")):
            names = sorted(path.name for path in (folder / kind / split).iterdir())
            assert names == [f"{stem}.{end}" for stem in stems]
        for stem in stems:
            mask = Image.open(folder / "annotations" / split / f"{stem}.png")
            assert mask.mode == "L"
            assert mask.size == size(folder / "images" / split / f"{stem}.jpg")
            seen |= set(np.unique(np.asarray(mask)).tolist())
    assert seen <= {0, *ADE_IDS, *ADE_STUFF.values()}
    assert 0 in seen
    assert seen & set(ADE_IDS)
    assert seen & set(ADE_STUFF.values())


def test_ade_tables_have_a_line_for_each_class_and_image(root: Path) -> None:
    folder = root / "ADEChallengeData2016"
    header, *lines = (folder / "objectInfo150.txt").read_text().splitlines()
    assert header.split("\t") == ["Idx", "Ratio", "Train", "Val", "Name"]
    rows = [line.split("\t") for line in lines]
    assert [int(row[0]) for row in rows] == list(range(1, 151))
    assert 0.5 < sum(float(row[1]) for row in rows) < 1  # the rest is unlabeled
    assert rows[ADE_STUFF["sky"] - 1][4] == "sky"
    scenes = (folder / "sceneCategories.txt").read_text().splitlines()
    assert len(scenes) == FEW.ade_train + FEW.ade_val


def test_cityscapes_instances_and_colors_agree_with_the_labels(root: Path) -> None:
    folder = root / "cityscapes"
    seen: set[int] = set()
    for split, count in (("train", FEW.cityscapes_train), ("val", FEW.cityscapes_val)):
        pictures = sorted((folder / "leftImg8bit" / split).rglob("*_leftImg8bit.png"))
        assert len(pictures) == count
        assert len(list((folder / "gtFine" / split).rglob("*.png"))) == 3 * count
        for picture in pictures:
            city, sequence, frame, _ = picture.stem.split("_")
            assert city == picture.parent.name
            assert len(sequence) == len(frame) == 6
            stem = folder / "gtFine" / split / city / f"{city}_{sequence}_{frame}_gtFine"
            labels = values(Path(f"{stem}_labelIds.png"))
            instances = values(Path(f"{stem}_instanceIds.png")).astype(int)
            assert values(picture).shape == (*labels.shape, 3)
            assert values(Path(f"{stem}_color.png")).shape == (*labels.shape, 4)
            counted = labels >= 24
            assert (instances[counted] // 1000 == labels[counted]).all()
            assert (instances[~counted] == labels[~counted]).all()
            seen |= set(np.unique(labels).tolist())
    assert {1, 3, 7, 8, 11, 23} <= seen
    assert max(seen) <= 33
    train, val = ({p.name for p in (folder / "gtFine" / s).iterdir()} for s in ("train", "val"))
    assert not train & val


def test_nothing_is_drawn_when_the_collection_is_there(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collection, "_tasks", lambda *_: pytest.fail("drew again"))
    synthesize(root, seed=3, amounts=FEW)
    marker = json.loads((root / MARKER).read_text())
    assert marker["seed"] == 3
    assert marker["amounts"]["voc_val"] == 2


def test_foreign_files_and_other_collections_are_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    before = digests(root)
    for folder in (tmp_path, root):
        with refused("--root"):
            synthesize(folder, seed=5, amounts=FEW)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert digests(root) == before


def test_an_interrupted_run_leaves_no_folder_and_the_next_completes(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "deep" / "data"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(collection.SETS, "ade", ("ADEChallengeData2016", interrupt))
        with pytest.raises(KeyboardInterrupt):
            synthesize(target, seed=3, amounts=FEW, processes=1)
    assert not target.exists()
    assert (tmp_path / "deep" / "data.partial").is_dir()
    target.mkdir()  # an empty folder is no obstacle
    synthesize(target, seed=3, amounts=FEW, processes=1)
    assert digests(target) == digests(root)
    assert [path.name for path in target.parent.iterdir()] == ["data"]


def test_amounts_refuse_an_empty_split() -> None:
    with refused("amounts.voc_val"):
        Amounts(voc_val=0)
    with refused("seed"):
        synthesize(Path("unused"), seed=-1)


def test_each_kind_fills_its_circle_and_its_texture_has_two_tones() -> None:
    for kind in KINDS:
        canvas = Canvas(np.zeros((100, 100, 3), np.float32))
        pose = Pose(50, 50, 40, np.eye(2, dtype=np.float32))
        alpha = canvas.coverage(pose.place(SILHOUETTES[kind.name]))
        assert 0.2 < alpha.sum() / (np.pi * 40**2) < 0.9, kind
        y, x = np.nonzero(alpha)
        assert np.hypot(x - 49.5, y - 49.5).max() < 44, kind
        rng = np.random.default_rng(0)
        tone = TEXTURES[kind.texture](*pose.coordinates(canvas, 15), rng)
        assert 0.25 < tone.mean() < 0.8, kind
        assert tone.std() > 0.3, kind
        assert mix(tone, np.float32([[0, 0, 0], [1, 1, 1]])).max() <= 1, kind


def test_a_thing_owns_the_pixels_it_covers_by_half() -> None:
    canvas = Canvas(np.zeros((8, 8, 3), np.float32))
    most, min_size = box(1, 1, 4.8, 3), box(1, 5, 4.1, 7)
    canvas.put(canvas.coverage([most]), np.ones(3, np.float32), 9)
    canvas.put(canvas.coverage([min_size]), np.ones(3, np.float32), 4)
    expected = np.zeros((8, 8), int)
    expected[1:3, 1:5] = 9
    expected[5:7, 1:4] = 4
    np.testing.assert_array_equal(canvas.labels, expected)
    assert 0 < canvas.pixels[5, 4, 0] < 0.5  # the rim of the image is smooth, that of the mask not
