"""Own datasets that are not what they seem, one row a case: the same in check and in scoring."""

import json
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

from vitlab.data import DataError, Folder, ImageNet, SegmentationWhole
from vitlab.data.check import check, recognize
from vitlab.data.profile import check_scores
from vitlab.data.samples import spread

SIZE = (16, 12)  # width, height
NAMES = {"classes": ["a", "b", "c"]}


def image(path: Path, seed=0, dtype=np.uint8, high: int = 256, flag: int = 0, of=SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (*of[::-1], 3) if dtype == np.uint8 else of[::-1]
    pixels = (np.random.default_rng(seed).random(shape) * high).astype(dtype)
    exif = Image.Exif()
    exif[0x0112] = flag
    Image.fromarray(pixels).save(path, **({"exif": exif} if flag else {}))


def mask(path: Path, values, seed: int = 0, size=SIZE, dtype=np.uint8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).choice(np.array(values, dtype), size[::-1])
    Image.fromarray(pixels).save(path)


def dense(
    train=(0, 1, 2),
    val=(0, 1, 2),
    names=NAMES,
    images="images/{}",
    masks="masks/{}",
    name="{}.png",
    splits=("train", "val"),
    size=SIZE,
    dtype=np.uint8,
    **picture,
):
    """A maker of a set with masks."""

    def make(root: Path) -> None:
        for split, values in zip(splits, (train, val), strict=True):
            for i in range(3):
                image(root / images.format(split) / f"{i}.jpg", i + 9 * len(split), **picture)
                mask(root / masks.format(split) / name.format(i), values, i, size, dtype)
        (root / "classes.json").write_text(json.dumps(names))

    return make


def classes(kinds=("cat", "dog"), splits=("train", "val"), ending="jpg", more=(), **picture):
    """A maker of class folders, with `more` files, of which masks say so by their name."""

    def make(root: Path) -> None:
        for split in splits:
            for kind in kinds:
                for i in range(2):
                    seed = crc32(f"{split} {kind} {i}".encode())
                    image(root / split / kind / f"{i}.{ending}", seed, **picture)
        for number, name in enumerate(more):
            drawn = (mask, ([0, 1],)) if "mask" in name else (image, (2000 + number,))
            drawn[0](root / name, *drawn[1])

    return make


def moved(make, folder):
    return lambda root: make(root / folder)


def files(*names):
    """A maker of pictures, or of empty files where the name has another ending."""

    def make(root: Path) -> None:
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            image(root / name) if name.endswith("jpg") else (root / name).write_text("{}")

    return make


TWO = {"classes": ["background", "object"]}
GOOD = {
    "masks": dense(),
    "classes": classes(),
    "values 0 and 255 by name": dense((0, 255), (0, 255), {**TWO, "values": [0, 255]}),
    "values from 1": dense((1, 2, 3), (1, 2, 3), {**NAMES, "values": [1, 2, 3]}),
    "an ignored class": dense(names={**NAMES, "ignore_index": 2}),
    "folders within splits": dense(images="{}/images", masks="{}/masks"),
    "training and valid": dense(splits=("training", "valid")),
    "Train and validation": classes(splits=("Train", "validation")),
    "TIFF": classes(ending="tif"),
    "TIFF among JPEG": classes(more=("train/cat/x.tif", "val/dog/y.TIFF")),
    "16 bits in full": classes(ending="png", dtype=np.uint16, high=65536),
    "masks in TIFF": dense(name="{}.tif"),
    "masks in PNG of capitals": dense(name="{}.PNG"),
    "masks in 16 bits": dense(dtype=np.uint16),
    "masks on stored pixels, flag 3": dense(flag=3),
    "masks on stored pixels, flag 6": dense(flag=6),
    "masks on turned pixels": dense(flag=6, size=SIZE[::-1]),
}
REFUSED = {  # words of the reason
    "0 and 255": (dense((0, 255), (0, 255), TWO), "show one class, 'background'", '"values"'),
    "all void in val": (dense(val=(255,)), "of split 'val' are void"),
    "all void in train": (dense(train=(255,)), "of split 'train' are void"),
    "one class in masks": (dense((0,), (0,)), "show one class, 'a'"),
    "one class in val": (dense(val=(1,)), "split 'val' show one class, 'b'"),
    "no class in common": (
        dense((0, 1), (2, 3), {"classes": [*"abcd"]}),
        "train shows a, b, val shows c, d",
    ),
    "a value beyond": (dense((1, 2, 3), (1, 2, 3)), "allowed are 0-2, 255", '"values"'),
    "one class folder": (classes(["all"]), "show one class, 'all'"),
    "images and labels": (dense(images="{}/images", masks="{}/labels"), "beside a folder of im"),
    "inputs and targets": (
        dense(images="{}/x", masks="{}/y"),
        "train/y holds masks by its content",
    ),
    "masks among images": (
        classes(ending="png", more=("train/cat/0_mask.png", "train/dog/1_mask_2.png")),
        "2 of 6 images",
        "0_mask",
    ),
    "masks of other names": (dense(name="{}_mask.png"), "masks/train/0.png", "0_mask.png"),
    "names of two lines": (dense(name="{}\nerrors: 0.png"), r"0\nerrors: 0.png"),
    "masks in JPEG": (dense(name="{}.jpg"), "holds 3 .jpg files", "endings of masks"),
    "12 of 16 bits": (
        classes(ending="png", dtype=np.uint16, high=4096),
        "nearly black",
        "multiply all values by 16",
    ),
    "12 of 16 bits in TIFF": (classes(ending="tif", dtype=np.uint16, high=4096), "by 16"),
    "floats": (classes(ending="tif", dtype=np.float32, high=1), "not 8 or 16 bits"),
    "two images of one mask": (
        lambda root: (dense()(root), image(root / "images/train/0.png")),
        "named more than once",
    ),
    "no val": (classes(splits=("train",)), "has no split 'val'"),
    "val and validation": (classes(splits=("train", "val", "validation")), "either could be val"),
    "no splits": (files("images/0.jpg", "masks/0.jpg"), "images holds 1 .jpg files"),
    "no class folders": (files("train/0.jpg"), "has no class folders; it holds 1 .jpg files"),
    "images one folder lower": (
        classes(["cat/images", "dog/images"]),
        "cat holds no image directly in it; it holds the folders images",
    ),
    "one folder lower": (moved(classes(), "data/set"), "lie in ROOT/data/set, not in ROOT"),
    "one folder lower, masks": (moved(dense(), "data"), "lie in ROOT/data, not in ROOT"),
    "COCO": (files("annotations/instances_val2017.json", "val2017/1.jpg"), "COCO's format"),
    "Oxford Pets": (
        files("annotations/list.txt", "annotations/trimaps/a.jpg", "images/a.jpg"),
        "annotations: the folders trimaps and 1 .txt files; images: 1 .jpg files",
    ),
    "VOC's folders of one's own": (files("JPEGImages/a.jpg"), "JPEGImages: 1 .jpg files"),
    **{
        f"classes.json: {field}": (dense(names={**NAMES, field: value}), "classes.json", why)
        for field, value, why in [
            ("classes", 3, "valid array"),
            ("classes", [], "at least 1"),
            ("classes", ["a", "b", "a"], "a more than once"),
            ("classes", [{"name": "a"}], "valid string"),
            ("classes", [""], "at least 1 character"),
            ("classes", [str(i) for i in range(300)], "at most 255"),
            ("ignore_index", "2", "valid integer"),
            ("ignore_index", 256, "less than or equal to 255"),
            ("values", [0, 1], "2 values for 3 classes"),
            ("values", [0, 1, 1], "1 more than once"),
            ("ignored", 2, "Unexpected"),
            ("x\nerrors: 0", 2, r"(x\nerrors: 0: "),
        ]
    },
}
POOR = {  # the remark
    "a class that no pixel shows": (dense((0, 1), (0, 1)), "no masks of train or val: c"),
    "a class not learned": (dense((0, 1)), "not learned: c"),
    "a class not scored": (dense(val=(0, 1)), "not scored: c"),
    "shifted values": (dense((0, 1), (1, 2)), "shifted by 1"),
    "mostly void": (dense((0, 1, 2) + 60 * (255,)), "more than 90 % of the pixels of train"),
    "files left out": (
        classes(more=("train/cat/x.gif", "train/cat/y.gif")),
        "files beside the 4 images are not read: 2 .gif",
    ),
    "a folder left out": (classes(more=("train/cat/more/x.jpg",)), "not read: train/cat/more"),
}


def scored(root: Path) -> list[str]:
    """What `evaluate` and `fit` do before they start."""
    data = recognize(root)
    data.samples("train")
    return check_scores(data, "train")


@pytest.mark.parametrize("case", GOOD)
def test_a_good_set_gives_no_alarm(tmp_path, case):
    GOOD[case](tmp_path)
    for deep in (False, True):
        found = check(tmp_path, deep)
        assert {each.severity for each in found.findings} <= {"note"}, found.findings
        assert {"train", "val"} <= found.splits.keys()
    assert scored(tmp_path) == []


@pytest.mark.parametrize("case", REFUSED)
def test_a_score_that_means_nothing_is_refused_by_all(tmp_path, case):
    make, *words = REFUSED[case]
    make(tmp_path)
    found = [each for each in check(tmp_path).findings if each.severity != "note"]
    assert found
    # without labels it can be trained on
    assert found[0].severity == ("warning" if case == "one class folder" else "error")
    with pytest.raises(DataError) as refusal:
        scored(tmp_path)
    for word in words:
        assert word.replace("ROOT", str(tmp_path)) in str(refusal.value)
    assert "archive" not in str(refusal.value) + str(found)


@pytest.mark.parametrize("case", POOR)
def test_what_makes_a_score_poor_is_said_by_all(tmp_path, case):
    make, word = POOR[case]
    make(tmp_path)
    remarks = scored(tmp_path)
    assert any(word in each for each in remarks)
    assert any("shifted" in each for each in remarks) == ("shifted" in word)
    for deep in (False, True):
        found = check(tmp_path, deep)
        assert not found.errors
        assert any(word in each.text for each in found.findings if each.severity == "warning")


def test_all_masks_are_read_where_a_sample_shows_one_class(tmp_path):
    rare = next(index for index in range(70) if index not in spread(70))
    for split in ("train", "val"):
        for i in range(70):
            image(tmp_path / f"images/{split}/{i:02d}.jpg", i + 100 * (split == "val"))
            mask(tmp_path / f"masks/{split}/{i:02d}.png", [0, 1] if i == rare else [0])
    (tmp_path / "classes.json").write_text(json.dumps(TWO))
    data = Folder(str(tmp_path))
    dataset = data.segmentation_dataset("val", SegmentationWhole(0))
    counts, looked = dataset.check()
    assert counts[1] > 0
    assert 64 < looked < 71
    assert check_scores(data, "train") == []
    mask(tmp_path / f"masks/val/{rare:02d}.png", [0])
    with pytest.raises(DataError, match="all 70 masks of split 'val' show one class"):
        check_scores(data, "train")


def test_images_are_turned_only_where_their_masks_are(tmp_path):
    square = (12, 12)
    for flag, of, size, turned in (
        (6, SIZE, SIZE, False),
        (3, SIZE, SIZE, False),
        (6, SIZE, SIZE[::-1], True),
        (6, square, square, False),  # whose shape tells nothing
    ):
        root = tmp_path / f"{flag}{turned}{of}"
        dense(flag=flag, size=size, of=of)(root)
        dataset = Folder(str(root)).segmentation_dataset("train", SegmentationWhole(0))
        pixels = dataset[0].image.permute(1, 2, 0).numpy()
        with Image.open(root / "images/train/0.jpg") as stored:
            expected = np.array(stored)
        expected = np.rot90(expected, -1) if turned else expected
        assert abs(pixels.astype(int) - expected).max() <= 1


def test_a_split_by_another_name_is_not_scored_with_itself(tmp_path):
    classes()(tmp_path)
    data = Folder(str(tmp_path), train_split="training", val_split="Train")
    assert data.classes == ("cat", "dog")
    with pytest.raises(DataError, match="in both train_split"):
        check_scores(data, data.train_split)


def test_huge_pictures_end_no_check(tmp_path, monkeypatch):
    classes(more=("train/cat/x.tif",))(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    assert "train/cat/x.tif (Image size" in str(check(tmp_path).errors)


def test_own_sets_carry_the_name_of_their_folder(tmp_path):
    assert Folder(str(tmp_path / "seeds")).dataset_name == "seeds"
    assert Folder(str(tmp_path / "VOC2012")).dataset_name == "VOC2012 (own folder)"
    assert ImageNet(str(tmp_path / "seeds")).dataset_name == "ImageNet"
