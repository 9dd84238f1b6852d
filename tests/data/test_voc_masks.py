"""VOC's training images with those of SBD, and `vitlab data voc-masks`, which converts masks."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refused
from scipy.io import savemat

from vitlab.atomic_io import write_bytes
from vitlab.cli import main
from vitlab.data import VOC2012, DataError, SegmentationSquare, read_mask
from vitlab.data.voc_masks import index_colored_masks, palette, write_trainaug

LIST = "ImageSets/Segmentation/trainaug.txt"
# VOC: train 32, 39, 63; val 33. SBD has some of each, and 101 to 103 of its own
SBD_TRAIN = ["2007_000032", "2008_000101", "2008_000102"]
SBD_VAL = ["2007_000033", "2008_000103"]
OFFICIAL = [f"2007_0000{i}" for i in (32, 39, 63)] + [f"2008_000{i}" for i in (101, 102, 103)]


def matrix(name: str) -> np.ndarray:
    """A mask that belongs to one image of SBD only; unlike VOC's, it has no void."""
    return np.full((30, 40), int(name[-3:]) % 20 + 1, dtype=np.uint8)


def matlab(path: Path, mask: np.ndarray) -> None:
    """A mask as SBD keeps it: a struct with the mask and more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"Segmentation": mask, "CategoriesPresent": np.unique(mask).reshape(-1, 1)}
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


def refuse(root, split="trainaug"):
    with refused("data.root", DataError):
        VOC2012(str(root)).samples(split)


@pytest.fixture
def folder(voc):
    return voc / "VOCdevkit/VOC2012"


def assert_official(root: Path, names=OFFICIAL) -> None:
    """The six images, each with its own mask: VOC's for its own, else SBD's."""
    data = VOC2012(str(root))
    samples = data.samples("trainaug")
    assert [Path(samples.image(i)).stem for i in range(len(samples))] == names
    dataset = data.segmentation_dataset("trainaug", SegmentationSquare(16))
    for i, name in enumerate(names):
        mask, own = dataset[i][1].numpy(), f"SegmentationClass/{name}.png"
        if name.startswith("2007"):
            assert samples.mask(i) == own
            assert np.array_equal(mask, read_mask(data.folder / own))
        else:
            assert np.array_equal(mask, matrix(name))


def test_it_is_the_training_images_of_both_without_those_that_are_scored(voc, sbd):
    assert_official(voc)
    samples = VOC2012(str(voc)).samples("trainaug")
    assert [samples.image(i) for i in (3, 5)] == [
        "JPEGImages/2008_000101.jpg",
        "img/2008_000103.jpg",  # which VOC lacks
    ]
    assert samples.files.where("img/2008_000103.jpg") == str(sbd / "img/2008_000103.jpg")
    for lost in ("cls/2008_000103.mat", "img/2008_000103.jpg"):
        (sbd / lost).rename(voc / "aside")
        refuse(voc)
        (voc / "aside").rename(sbd / lost)
    shutil.rmtree(sbd)
    refuse(voc)  # benchmark_RELEASE is there, but not whole
    sbd.parent.rmdir()
    refuse(voc)


@pytest.mark.parametrize(
    ("place", "name"),
    [("VOCdevkit/VOC2012", "SBD"), ("VOCdevkit", "sbd"), ("..", "benchmark_RELEASE/dataset")],
)
def test_sbd_may_lie_in_beside_or_above_voc(voc, sbd, tmp_path_factory, place, name):
    root = tmp_path_factory.mktemp("root") / "data"
    shutil.move(voc / "VOCdevkit", root / "VOCdevkit")
    shutil.move(sbd, root / place / name)
    assert_official(root)
    (root / "VOCdevkit/VOC2012" / LIST).write_text("\n".join(OFFICIAL))  # says the same
    assert_official(root)


LINES = ["{0}", "/JPEGImages/{0}.jpg /SegmentationClassAug/{0}.png", "  {0}  "]


def test_masks_that_were_made_images_do_without_sbd_and_lists_of_names(voc, folder, draw):
    (folder / "SegmentationClassAug").mkdir()
    for name in {*OFFICIAL, *SBD_VAL}:  # as segmentation code bases pass them around
        Image.fromarray(matrix(name)).save(folder / f"SegmentationClassAug/{name}.png")
        if name.startswith("2008"):
            draw(folder / f"JPEGImages/{name}.jpg", seed=int(name[-3:]))
    assert_official(voc)
    lists = folder / "ImageSets/Segmentation"
    for line, name in zip(LINES, ("trainaug", "train_aug", "trainaug"), strict=True):
        lines = "".join(line.format(each) + "\n" for each in OFFICIAL[::-1])
        (lists / f"{name}.txt").write_text(lines + "\n")
        assert_official(voc, OFFICIAL[::-1])  # in the order of the list
        (lists / f"{name}.txt").write_text(lines + line.format("2007_000033"))
        refuse(voc)
        (lists / f"{name}.txt").unlink()
    (lists / "train.txt").write_text((lists / "trainval.txt").read_text())
    refuse(voc, "train")


def test_voc_in_its_archive_goes_with_sbd_beside_it(voc, sbd, pack):
    expected = VOC2012(str(voc)).samples("trainaug")
    own = expected.files.read(expected.mask(0))
    pack.tar(voc / "VOCtrainval_11-May-2012.tar", pack.contents(voc / "VOCdevkit", "VOCdevkit/"))
    shutil.rmtree(voc / "VOCdevkit")
    samples = VOC2012(str(voc)).samples("trainaug")
    assert samples.images.tolist() == expected.images.tolist()
    assert samples.masks.tolist() == expected.masks.tolist()
    assert samples.files.read(samples.mask(0)) == own


def color(folder, mode="RGB"):
    """Save masks with the colors that viewers show."""
    for path in sorted((folder / "SegmentationClass").glob("*.png")):
        Image.fromarray(palette()[read_mask(path)]).convert(mode).save(path)


def test_trainaug_is_the_same_from_matlab_files_and_from_png_files(
    voc, folder, sbd, capsys, pack, stripe
):
    shutil.copy(sbd / "img/2008_000103.jpg", folder / "JPEGImages")
    files = pack.contents(voc)
    main(["data", "voc-masks", "--root", str(voc)])
    printed = capsys.readouterr().out
    assert "0 masks converted" in printed
    assert "6 masks written" in printed
    assert pack.contents(voc).items() >= files.items()
    made = folder / "SegmentationClassAug"
    own = stripe(made / "2008_000101.png", [3]).read_bytes()  # masks and lists stay
    (folder / LIST).rename(folder / "ImageSets/Segmentation/train_aug.txt")
    (made / "2008_000102.png").unlink()
    assert write_trainaug(folder) == 1
    assert (made / "2008_000101.png").read_bytes() == own
    assert not (folder / LIST).exists()
    (made / "2008_000101.png").unlink()
    assert write_trainaug(folder) == 1
    shutil.rmtree(sbd.parent)
    assert_official(voc)
    assert sorted(path.stem for path in made.iterdir()) == OFFICIAL
    with Image.open(made / "2008_000101.png") as image:
        assert image.mode == "P"


def test_a_broken_matlab_file_is_named_and_the_next_call_completes(folder, sbd):
    broken = sbd / "cls/2008_000103.mat"
    content = broken.read_bytes()
    broken.write_bytes(content[:150])
    with refused("benchmark.tgz", DataError, wording=False):  # scipy's reason
        write_trainaug(folder)
    savemat(broken, {"GTcls": {"Segmentation": np.full((30, 40), 21, np.uint8)}})
    with refused("benchmark.tgz", DataError):
        write_trainaug(folder)
    assert not (folder / LIST).exists()
    broken.write_bytes(content)
    assert write_trainaug(folder) == 1
    assert (folder / LIST).exists()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colors_become_their_indices(voc, folder, mode, capsys, pack):
    masks = {path.name: read_mask(path) for path in (folder / "SegmentationClass").iterdir()}
    plain = folder / "SegmentationClass/2007_000039.png"
    before = plain.read_bytes()
    color(folder, mode)
    plain.write_bytes(before)
    colored = pack.contents(folder / "SegmentationClass")
    main(["data", "voc-masks", "--root", str(voc)])
    assert "3 masks converted" in capsys.readouterr().out
    assert {**pack.contents(folder / "SegmentationClassRGB"), plain.name: before} == colored
    assert plain.read_bytes() == before
    for name, mask in masks.items():
        np.testing.assert_array_equal(read_mask(folder / "SegmentationClass" / name), mask)
    assert index_colored_masks(folder) == 0
    color(folder, mode)
    (folder / "SegmentationClassRGB/2007_000032.png").write_bytes(b"mine")
    with refused("SegmentationClassRGB", DataError):  # which is not overwritten
        index_colored_masks(folder)


def test_colors_of_no_class_and_folders_without_voc_are_refused(folder, pack, tmp_path, capsys):
    color(folder)
    path = folder / "SegmentationClass/2007_000063.png"
    for value in ((1, 2, 3), (64, 128, 64)):  # the second is index 21 and above
        image = Image.open(path).copy()
        image.putpixel((5, 2), value)
        image.save(path)
        before = pack.contents(folder / "SegmentationClass")
        with refused("2007_000063.png", DataError):
            index_colored_masks(folder)
        assert pack.contents(folder / "SegmentationClass") == before
    shutil.rmtree(folder)
    with pytest.raises(SystemExit):
        main(["data", "voc-masks", "--root", str(tmp_path)])
    assert "tar -xf VOCtrainval_11-May-2012.tar" in capsys.readouterr().err


@pytest.mark.parametrize("at", [0, 1, 2, 7])
def test_killed_at_any_file_the_next_call_completes(folder, monkeypatch, at, pack):
    color(folder)
    colored, calls = pack.contents(folder / "SegmentationClass"), []

    def cut(path, content):
        calls.append(path)
        if len(calls) > at:
            raise KeyboardInterrupt
        write_bytes(path, content)

    with monkeypatch.context() as patch:
        patch.setattr("vitlab.data.voc_masks.write_bytes", cut)
        with pytest.raises(KeyboardInterrupt):
            index_colored_masks(folder)
    index_colored_masks(folder)
    assert pack.contents(folder / "SegmentationClassRGB") == colored
    masks = map(read_mask, (folder / "SegmentationClass").iterdir())
    assert all({*np.unique(mask)} == {0, 15, 20, 255} for mask in masks)
