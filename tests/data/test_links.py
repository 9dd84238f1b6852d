"""Links to themselves, to a folder above or to nowhere: listing ends, reading says what it is."""

import os
import shutil

import pytest

from vitlab.data import (
    ADE20K,
    VOC2012,
    DataError,
    Folder,
    ImageNet,
    MultiCrop,
    SegmentationSquare,
    UnreadableImage,
)
from vitlab.data.storage import FolderTree, Listing

VIEWS = MultiCrop(16, 8, 2)


def test_a_link_that_is_no_folder_counts_as_a_file(tmp_path):
    (tmp_path / "itself").symlink_to("itself")
    (tmp_path / "nowhere").symlink_to("missing")
    (tmp_path / "up").symlink_to("..")
    (tmp_path / "file").touch()
    (tmp_path / "linked").symlink_to("file")
    files = FolderTree(tmp_path)
    assert files.listing() == Listing(["up"], ["file", "itself", "linked", "nowhere"])
    assert files.listing("itself") is files.listing("nowhere") is files.listing("linked") is None
    assert files.listing("itself/deeper") is None
    assert files.read("linked") == b""
    with pytest.raises(OSError, match="symbolic links"):
        files.read("itself")
    with pytest.raises(FileNotFoundError):
        files.read("nowhere")


@pytest.fixture
def linked(imagenet):
    """ImageNet with three links in a class folder."""
    folder = imagenet / "train/n02102040"
    (folder / "itself.JPEG").symlink_to("itself.JPEG")
    (folder / "nowhere.JPEG").symlink_to("missing.JPEG")
    (folder / "up").symlink_to("..")
    return imagenet


@pytest.mark.parametrize("kind", [ImageNet, Folder])
def test_links_in_a_class_folder_are_listed_and_replaced(linked, kind):
    data = kind(str(linked), global_batch_size=14, transform=VIEWS, num_workers=0)
    assert len(data.samples("train")) == 12 + 2
    (batch,) = data.train_dataloader()
    assert sorted(path.rpartition("/")[2].split(" ")[0] for path in {*batch.unreadable}) == [
        "itself.JPEG",
        "nowhere.JPEG",
    ]
    assert batch.labels.bincount().tolist() == [4, 5, 5]  # the next in order stands in


@pytest.mark.parametrize(("name", "reason"), [("itself", "symbolic links"), ("nowhere", "No such")])
def test_the_reason_is_that_of_the_system(linked, name, reason):
    data = ImageNet(
        str(linked), transform=VIEWS, num_workers=0, max_unreadable=0, global_batch_size=1
    )
    samples = data.samples("train")
    index = next(i for i in range(len(samples)) if name in samples.image(i))
    dataset = data.train_dataloader().dataset
    with pytest.raises(UnreadableImage, match=reason) as caught:
        dataset._read(index)
    assert caught.value.path == str(linked / samples.image(index))
    with pytest.raises(DataError, match=rf"1 images cannot be read.*(?s:.*){reason}"):
        dataset[0, index]


def test_a_mask_that_leads_nowhere_is_replaced_with_its_image(ade):
    mask = ade / "ADEChallengeData2016/annotations/validation/ADE_val_00000001.png"
    mask.unlink()
    mask.symlink_to(mask.name)
    dataset = ADE20K(str(ade)).segmentation_dataset("val", SegmentationSquare(16))
    with pytest.warns(UserWarning, match=r"cannot read .*ADE_val_00000001\.png .*symbolic links"):
        dataset[0]
    dataset.check()  # such a pair is for the loader to replace


def test_a_folder_above_among_the_classes_is_refused(imagenet):
    (imagenet / "train/up").symlink_to("..")
    with pytest.raises(DataError, match=r"no WordNet id such as n01440764: up"):
        ImageNet(str(imagenet)).samples("train")
    with pytest.raises(DataError, match=r"class folder .*train/up holds no image directly in it"):
        Folder(str(imagenet)).samples("train")


@pytest.mark.parametrize("name", ["train", "val"])
def test_a_split_that_is_a_link_to_itself_is_missing(imagenet, name):
    shutil.rmtree(imagenet / name)
    (imagenet / name).symlink_to(name)
    expected = "is not laid out as ImageNet" if name == "train" else "there is no folder .*val"
    with pytest.raises(DataError, match=expected):
        ImageNet(str(imagenet)).samples("val")


def test_a_root_that_is_a_link_to_itself_is_missing(tmp_path):
    (tmp_path / "root").symlink_to("root")
    with pytest.raises(DataError, match=r"there is no folder .*root; set its root"):
        ImageNet(str(tmp_path / "root")).samples("train")


def test_linked_folders_and_files_are_as_good_as_others(imagenet, tmp_path_factory):
    root = tmp_path_factory.mktemp("links")
    (root / "val").symlink_to(imagenet / "val")
    for folder in (imagenet / "train").iterdir():
        (root / "train" / folder.name).mkdir(parents=True)
        for file in folder.iterdir():
            (root / "train" / folder.name / file.name).symlink_to(file)
    for split in ("train", "val"):
        linked, whole = (ImageNet(str(place)).samples(split) for place in (root, imagenet))
        assert linked.images.tolist() == whole.images.tolist()
        assert linked.files.read(linked.image(3)) == whole.files.read(whole.image(3))


@pytest.mark.parametrize("target", ["nowhere", "ILSVRC2012_img_train.tar", "."])
def test_an_archive_that_is_a_bad_link_is_none(imagenet, target):
    shutil.rmtree(imagenet / "train")
    (imagenet / "ILSVRC2012_img_train.tar").symlink_to(target)
    with pytest.raises(DataError, match="is not laid out as ImageNet"):
        ImageNet(str(imagenet)).samples("train")


def test_a_linked_archive_is_read(voc, pack, tmp_path_factory):
    expected = VOC2012(str(voc)).samples("val")
    root = tmp_path_factory.mktemp("links")
    packed = pack.tar(voc / "x.tar", pack.contents(voc / "VOCdevkit", "VOCdevkit/"))
    (root / "VOCtrainval_11-May-2012.tar").symlink_to(os.path.relpath(packed, root))
    samples = VOC2012(str(root)).samples("val")
    assert samples.files.read(samples.mask(0)) == expected.files.read(expected.mask(0))
