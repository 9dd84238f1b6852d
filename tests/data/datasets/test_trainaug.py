"""VOC's training images with those of SBD: the official set, VOC's masks first, no leak."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refused
from scipy.io import savemat

from vitlab.data import VOC2012, DataError, SegmentationSquare, read_mask

# VOC: train 32, 39, 63; val 33. SBD has some of each, and 101 to 103 of its own
SBD_TRAIN = ["2007_000032", "2008_000101", "2008_000102"]
SBD_VAL = ["2007_000033", "2008_000103"]
OFFICIAL = [f"2007_0000{i}" for i in (32, 39, 63)] + [f"2008_000{i}" for i in (101, 102, 103)]


def matrix(name: str) -> np.ndarray:
    """A mask that belongs to one image of SBD only; unlike VOC's, it has no void."""
    return np.full((30, 40), int(name[-3:]) % 20 + 1, dtype=np.uint8)


def matlab(path: Path, mask: np.ndarray) -> None:
    """A mask as SBD keeps it: a struct with the mask and its borders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    borders = np.empty((20, 1), dtype=object)
    for i in range(20):
        borders[i, 0] = np.zeros((30, 40), dtype=np.uint8)
    present = np.unique(mask[mask > 0]).reshape(-1, 1)
    content = {"Segmentation": mask, "Boundaries": borders, "CategoriesPresent": present}
    savemat(path, {"GTcls": content}, do_compression=True)


@pytest.fixture
def sbd(voc, draw) -> Path:
    """SBD beside VOC, which has the photographs of two of its three own images."""
    folder = voc / "benchmark_RELEASE/dataset"
    for name in SBD_TRAIN + SBD_VAL:
        matlab(folder / f"cls/{name}.mat", matrix(name))
        draw(folder / f"img/{name}.jpg", seed=int(name[-3:]))
    for name in ("2008_000101", "2008_000102"):
        shutil.copy(folder / f"img/{name}.jpg", voc / f"VOCdevkit/VOC2012/JPEGImages/{name}.jpg")
    for split, names in (("train", SBD_TRAIN), ("val", SBD_VAL)):
        (folder / f"{split}.txt").write_text("\n".join(names) + "\n")
    return folder


@pytest.fixture
def aug(voc, draw) -> Path:
    """The masks of SBD as images, as segmentation code bases pass them around: those of VOC too."""
    folder = voc / "VOCdevkit/VOC2012"
    for name in {*OFFICIAL, *SBD_VAL}:
        path = folder / f"SegmentationClassAug/{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(matrix(name)).save(path)
        if name.startswith("2008"):
            draw(folder / f"JPEGImages/{name}.jpg", seed=int(name[-3:]))
    return folder


def names_of(samples) -> list[str]:
    return [Path(samples.image(i)).stem for i in range(len(samples))]


def assert_official(data: VOC2012) -> None:
    """The six images, each with its own mask: VOC's for its own, else SBD's."""
    samples = data.samples("trainaug")
    assert sorted(names_of(samples)) == OFFICIAL
    dataset = data.segmentation_dataset("trainaug", SegmentationSquare(16))
    for i, name in enumerate(names_of(samples)):
        mask = dataset[i][1].numpy()
        if name.startswith("2007"):
            own = data.folder / f"SegmentationClass/{name}.png"
            assert samples.mask(i) == f"SegmentationClass/{name}.png"
            assert np.array_equal(mask, read_mask(own))
            assert 255 in mask
        else:
            assert np.array_equal(mask, matrix(name))


def test_it_is_the_training_images_of_both_without_those_that_are_scored(voc, sbd):
    data = VOC2012(str(voc))
    assert_official(data)
    official = {*SBD_TRAIN, *SBD_VAL, *data.listed("train")} - {*data.listed("val")}
    samples = data.samples("trainaug")
    assert {*names_of(samples)} == official
    images = {Path(samples.image(i)).stem: samples.image(i) for i in range(len(samples))}
    assert images["2008_000101"] == "JPEGImages/2008_000101.jpg"
    assert images["2008_000103"] == "img/2008_000103.jpg"  # which VOC lacks
    assert samples.files.where("img/2008_000103.jpg") == str(sbd / "img/2008_000103.jpg")
    assert all(samples.files.read(image) for image in images.values())


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("VOCdevkit/VOC2012", "SBD"),
        ("VOCdevkit", "sbd"),
        ("", "sbd"),
        ("..", "benchmark_RELEASE/dataset"),
    ],
)
def test_sbd_may_lie_in_beside_or_above_voc(voc, sbd, tmp_path_factory, place, name):
    root = tmp_path_factory.mktemp("root") / "data"
    shutil.move(voc / "VOCdevkit", root / "VOCdevkit")
    shutil.move(sbd, root / place / name)
    assert_official(VOC2012(str(root)))


LINES = ["{0}", "/JPEGImages/{0}.jpg /SegmentationClassAug/{0}.png", "  {0}  "]


def test_masks_that_were_made_images_do_without_sbd_and_lists_of_names(voc, aug):
    assert_official(VOC2012(str(voc)))
    for line, name in zip(LINES, ("trainaug", "train_aug", "trainaug"), strict=True):
        lines = "".join(line.format(each) + "\n" for each in OFFICIAL)
        file = aug / f"ImageSets/Segmentation/{name}.txt"
        file.write_text(lines + "\n")  # masks of others lie there too
        data = VOC2012(str(voc))
        assert_official(data)
        assert names_of(data.samples("trainaug")) == OFFICIAL  # in the order of the list
        file.unlink()
    file.write_text("\n".join(OFFICIAL[:4]))
    assert names_of(VOC2012(str(voc)).samples("trainaug")) == OFFICIAL[:4]


def test_a_list_goes_with_masks_of_sbd_itself(voc, sbd):
    path = voc / "VOCdevkit/VOC2012/ImageSets/Segmentation/trainaug.txt"
    path.write_text("\n".join(OFFICIAL))
    assert_official(VOC2012(str(voc)))


def test_lists_with_an_image_that_is_scored_are_refused(voc, aug):
    lists = aug / "ImageSets/Segmentation"
    for line in LINES:
        lines = "\n".join(line.format(name) for name in [*OFFICIAL, "2007_000033"])
        (lists / "trainaug.txt").write_text(lines)
        with refused("data.root", DataError):
            VOC2012(str(voc)).samples("trainaug")
    (lists / "train.txt").write_text((lists / "trainval.txt").read_text())
    with refused("data.root", DataError):
        VOC2012(str(voc)).samples("train")


def test_without_sbd_or_with_a_part_of_it_the_fault_is_named(voc, sbd):
    shutil.move(sbd, voc / "aside")
    with refused("data.root", DataError):  # benchmark_RELEASE is there, but not whole
        VOC2012(str(voc)).samples("trainaug")
    sbd.parent.rmdir()
    with refused("data.root", DataError):
        VOC2012(str(voc)).samples("trainaug")
    shutil.move(voc / "aside", sbd)
    for lost in ("cls", "img"):
        path = next((sbd / lost).glob("2008_000103.*"))
        content = path.read_bytes()
        path.unlink()
        with refused("data.root", DataError):
            VOC2012(str(voc)).samples("trainaug")
        path.write_bytes(content)


def test_a_damaged_matrix_is_replaced_by_the_next_sample(voc, sbd):
    path = sbd / "cls/2008_000101.mat"
    path.write_bytes(path.read_bytes()[:200])
    data = VOC2012(str(voc))
    place = names_of(data.samples("trainaug")).index("2008_000101")
    with pytest.warns(UserWarning, match=r"cannot read .*2008_000101\.mat"):
        _, mask = data.segmentation_dataset("trainaug", SegmentationSquare(16))[place]
    assert np.array_equal(mask.numpy(), matrix("2008_000102"))


def test_voc_in_its_archive_goes_with_sbd_beside_it(voc, sbd, pack):
    expected = VOC2012(str(voc)).samples("trainaug")
    pack.tar(voc / "VOCtrainval_11-May-2012.tar", pack.contents(voc / "VOCdevkit", "VOCdevkit/"))
    shutil.rmtree(voc / "VOCdevkit")
    data = VOC2012(str(voc))
    samples = data.samples("trainaug")
    assert samples.images.tolist() == expected.images.tolist()
    assert samples.masks.tolist() == expected.masks.tolist()
    assert all(
        data.segmentation_dataset("trainaug", SegmentationSquare(16))[i][1].shape == (30, 40)
        for i in range(6)
    )
