"""Datasets in their original layouts: files, classes, mask values; wrong folders are named."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from refusals import refused

from vitlab.data import (
    ADE20K,
    VOC2012,
    Cityscapes,
    DataError,
    Folder,
    ImageNet,
    MultiCrop,
    SegmentationSquare,
)

REAL = Path(__file__).parents[4] / "shared/data"
KINDS = {"imagenet": ImageNet, "voc": VOC2012, "ade": ADE20K, "cityscapes": Cityscapes}
SQUARE = SegmentationSquare(16)
# labels.py of the authors' scripts, column by column: labelId of each trainId of Cityscapes
TRAINED = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
VOID = [*range(7), 9, 10, 14, 15, 16, 18, 29, 30, 255]


def refuse(data, split, field="data.root"):
    with refused(field, DataError):
        data.samples(split)


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_roots_and_splits_are_refused(request, tmp_path_factory, kind):
    empty = tmp_path_factory.mktemp("empty")
    refuse(KINDS[kind](str(empty / "nowhere")), "train")
    (empty / "loop").symlink_to("loop")
    refuse(KINDS[kind](str(empty / "loop")), "train")
    refuse(KINDS[kind](str(empty)), "train")
    root = request.getfixturevalue(kind)
    refuse(KINDS[kind](str(root)), "validation", "split")
    for other in KINDS.values():
        if other is not KINDS[kind]:  # the folder of another dataset is recognized
            refuse(other(str(root)), "train")


def test_classes_of_imagenet_are_sorted_wordnet_ids(imagenet):
    for path in (".DS_Store", "n02102040/._n02102040_1.JPEG"):
        (imagenet / "train" / path).touch()  # hidden files are no classes and no images
    data = ImageNet(str(imagenet))
    assert data.classes == ("n01440764", "n02102040", "n03000684")
    assert data.num_classes == 3
    for split, count in (("train", 12), ("val", 6)):
        samples = data.samples(split)
        assert samples is data.samples(split)
        assert len(samples) == count
        for i in range(count):
            assert (imagenet / samples.image(i)).is_file()
            assert samples.image(i).split("/")[:2] == [split, data.classes[samples.labels[i]]]


@pytest.mark.parametrize("above", ["ILSVRC/Data/CLS-LOC", "imagenet"])
def test_flat_validation_takes_its_labels_from_the_devkit_or_from_kaggle(
    imagenet, flatten, tmp_path_factory, above
):
    names = flatten(imagenet)
    root = tmp_path_factory.mktemp("above")
    shutil.copytree(imagenet, root / above)
    samples = ImageNet(str(root)).samples("val")
    assert samples.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert samples.image(0) == "val/ILSVRC2012_val_00000001.JPEG"
    devkit = root / above / "ILSVRC2012_devkit_t12"
    for content in (b"", bytes(300), b"\x80\x04."):
        (devkit / "data/meta.mat").write_bytes(content)
        with refused(devkit.name, DataError, wording=False):
            ImageNet(str(root)).samples("val")
    shutil.rmtree(devkit)
    boxes = [f"ILSVRC2012_val_{i + 1:08d},{names[i // 2]} 1 2 3 4" for i in range(6)]
    text = "ImageId,PredictionString\n" + "\n".join(boxes) + "\n\n"
    (root / "LOC_val_solution.csv").write_text(text)
    assert ImageNet(str(root)).samples("val").labels.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_voc_has_21_classes_and_its_lists(voc, below):
    (file,) = (voc / "VOCdevkit/VOC2012/ImageSets/Segmentation").glob("val.txt")
    file.write_text(file.read_text("utf-8-sig"), "utf-8-sig")  # as editors write it
    data = VOC2012(str(voc / below))
    assert data.num_classes == len(set(data.classes)) == 21
    assert [data.classes[i] for i in (0, 15, 20)] == ["background", "person", "tv/monitor"]
    assert [len(data.samples(split)) for split in ("train", "val", "trainval")] == [3, 1, 4]
    samples = data.samples("val")
    assert samples.image(0) == "JPEGImages/2007_000033.jpg"
    assert samples.mask(0) == "SegmentationClass/2007_000033.png"
    mask = voc / "VOCdevkit/VOC2012/SegmentationClass/2007_000033.png"
    assert samples.files.where(samples.mask(0)) == str(mask)


@pytest.mark.parametrize("below", ["", "ADEChallengeData2016"])
def test_ade20k_has_its_folders_and_names(ade, below):
    data = ADE20K(str(ade / below))
    samples = data.samples("val")
    assert len(samples) == len(data.samples("train")) == 2
    assert samples.image(0) == "images/validation/ADE_val_00000001.jpg"
    assert samples.mask(0) == "annotations/validation/ADE_val_00000001.png"
    assert data.classes[:2] == ("class 1", "class 2")
    rows = ["Idx\tRatio\tTrain\tVal\tStuff\tName"]
    rows += [f"{i}\t0.1\t9\t1\t1\tthing {i}, item {i}" for i in range(1, 151)]
    (ade / "ADEChallengeData2016/objectInfo150.txt").write_text("\n".join(rows))
    data = ADE20K(str(ade))
    assert data.classes[0] == "thing 1"
    assert len(data.classes) == data.num_classes == 150


def test_cityscapes_has_19_classes_and_a_place_for_every_label_id(cityscapes, draw):
    draw(cityscapes / "leftImg8bit/val/munster/preview.png")  # is passed over
    data = Cityscapes(str(cityscapes))
    samples, stem = data.samples("val"), "val/munster/munster_000000_000019"
    assert len(samples) == 1
    assert samples.image(0) == f"leftImg8bit/{stem}_leftImg8bit.png"
    assert samples.mask(0) == f"gtFine/{stem}_gtFine_labelIds.png"
    assert data.num_classes == len(set(data.classes)) == 19
    assert (data.classes[0], data.classes[18]) == ("road", "bicycle")
    expected = dict.fromkeys(VOID, 255) | {value: index for index, value in enumerate(TRAINED)}
    assert data.mask_values == expected
    refuse(data, "test", "split")


def test_train_ids_of_cityscapes_are_read_where_there_are_no_label_ids(cityscapes, stripe):
    def first():
        return Cityscapes(str(cityscapes)).segmentation_dataset("val", SQUARE)[0][1]

    expected = first()
    masks = sorted(cityscapes.glob("gtFine/*/*/*_gtFine_labelIds.png"))
    for path in masks:  # as the authors' scripts would write them, beside the others
        made = path.with_name(path.name.replace("labelIds", "labelTrainIds"))
        stripe(made, [255, 0, 1, 2, 255, 18, 255])
    assert np.array_equal(first(), expected)  # label ids count where there are both
    for path in masks:
        path.unlink()
    assert np.array_equal(first(), expected)
    train_ids = {index: index for index in (*range(19), 255)}
    assert Cityscapes(str(cityscapes)).mask_values == train_ids


def test_class_folders_of_any_name_are_labels(imagenet, tmp_path_factory, draw):
    for split in ("train", "val"):
        (imagenet / split / "n02102040").rename(imagenet / split / "dog")
    data = Folder(str(imagenet))
    assert data.classes == ("dog", "n01440764", "n03000684")
    assert data.mask_values == {}
    assert data.samples("val").labels.tolist() == [0, 0, 1, 1, 2, 2]
    root = tmp_path_factory.mktemp("flat")
    draw(root / "train/a.jpg")
    refuse(Folder(str(root)), "train")


def test_the_ignored_class_of_masks_gets_no_index(dense_folder):
    data = Folder(
        str(dense_folder), global_batch_size=2, transform=MultiCrop(16, 8, 1), num_workers=0
    )
    assert data.classes == ("sky", "road")
    assert data.num_classes == 2
    assert data.mask_values == {0: 0, 1: 255, 2: 1, 255: 255}
    assert len(data.segmentation_dataset("train", SQUARE)) == 2
    assert next(iter(data.train_dataloader())).labels is None
    refuse(data, "test", "split")
    (dense_folder / "classes.json").write_text('{"classes": ["sky", "void", "road"]}')
    assert Folder(str(dense_folder)).mask_values == {0: 0, 1: 1, 2: 2, 255: 255}


BAD = ['{"classes": ["a"], "ignore": 2}', '{"classes": 3}', "["]
BAD += ['{"classes": ["a"], "ignore_index": "2"}', None]


def test_bad_class_lists_are_refused(dense_folder):
    file = dense_folder / "classes.json"
    for content in BAD:
        file.write_text(content) if content else file.unlink()
        with refused("classes.json", DataError):
            _ = Folder(str(dense_folder)).classes


def test_bad_links_in_a_class_folder_are_listed_and_replaced(imagenet):
    folder = imagenet / "train/n02102040"
    for name, target in (("itself.JPEG", "itself.JPEG"), ("nowhere.JPEG", "missing"), ("up", "..")):
        (folder / name).symlink_to(target)
    data = ImageNet(
        str(imagenet), global_batch_size=14, transform=MultiCrop(16, 8, 2), num_workers=0
    )
    assert len(data.samples("train")) == 12 + 2
    (batch,) = data.train_dataloader()
    names = sorted(path.rpartition("/")[2].split(" ")[0] for path in {*batch.unreadable})
    assert names == ["itself.JPEG", "nowhere.JPEG"]
    assert str(folder / "itself.JPEG") in str(batch.unreadable)
    assert batch.labels.bincount().tolist() == [4, 5, 5]  # the next in order takes their place


def test_linked_files_and_archives_are_as_good_as_others(imagenet, pack, tmp_path_factory):
    linked, packed = (tmp_path_factory.mktemp(name) for name in ("linked", "packed"))
    (packed / "train").mkdir()
    for folder in sorted((imagenet / "train").iterdir()):
        (linked / "train" / folder.name).mkdir(parents=True)
        for file in folder.iterdir():
            (linked / "train" / folder.name / file.name).symlink_to(file)
        archive = pack.tar(imagenet / f"{folder.name}.x", pack.contents(folder))
        link = packed / f"train/{folder.name}.tar"
        link.symlink_to(os.path.relpath(archive, link.parent))
    whole = ImageNet(str(imagenet)).samples("train")
    for root in (linked, packed):
        found = ImageNet(str(root)).samples("train")
        assert found.images.tolist() == whole.images.tolist()
        assert found.files.read(found.image(3)) == whole.files.read(whole.image(3))
    shutil.rmtree(packed / "train")
    for target in ("nowhere", "ILSVRC2012_img_train.tar", "."):  # a bad link is no archive
        (packed / "ILSVRC2012_img_train.tar").unlink(missing_ok=True)
        (packed / "ILSVRC2012_img_train.tar").symlink_to(target)
        refuse(ImageNet(str(packed)), "train")


@pytest.mark.skipif(not REAL.is_dir(), reason="no shared/data beside the repository")
def test_real_datasets_are_read():
    data = ImageNet(str(REAL / "imagenette_96"))
    assert [len(data.samples(split)) for split in ("train", "val")] == [9171, 3903]
    assert data.classification_dataset("val", 64, limit=10)[3][1] == 3
    data = Folder(str(REAL / "camvid_half"))
    assert [len(data.samples(split)) for split in ("train", "val")] == [367, 101]
    for kind, root, always, classes in (
        (ADE20K, "mini_layouts", {0}, 150),  # wall is in almost every image; 255 if reduced twice
        (VOC2012, "voc_half", {0, 255}, 21),
        (Cityscapes, "mini_layouts/cityscapes_256x128", {0, 255}, 19),
        (Folder, "camvid_half", set(), 11),
    ):
        dataset = kind(str(REAL / root)).segmentation_dataset(
            "val", SegmentationSquare(32), limit=12
        )
        found = {value for i in range(len(dataset)) for value in dataset[i][1].unique().tolist()}
        assert always <= found <= {*range(classes), 255}
