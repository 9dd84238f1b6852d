from pathlib import Path

import numpy as np
import pytest
import torch

from vitlab.data import (
    ADE20K,
    VOC2012,
    CenterCrop,
    Cityscapes,
    DataError,
    Folder,
    ImageNet,
    SegmentationSquare,
    read_image,
    read_mask,
)


def mask_path(dataset) -> Path:
    """The file of the first mask."""
    return Path(dataset.samples.files.where(dataset.samples.mask(0)))


def test_labeled_images_are_center_crops_with_their_class(imagenet):
    dataset = ImageNet(str(imagenet)).classification_dataset("val", 32)
    assert [dataset[i][1] for i in range(len(dataset))] == [0, 0, 1, 1, 2, 2]
    image = read_image(imagenet / "val/n02102040/n02102040_1.JPEG")
    assert torch.equal(dataset[3][0], CenterCrop(32)(image)[0][0])


def test_a_limit_takes_as_many_of_each_class_and_always_the_same(imagenet):
    data = ImageNet(str(imagenet))
    picked = data.classification_dataset("train", 16, limit=6)
    assert sorted(picked[i][1] for i in range(6)) == [0, 0, 1, 1, 2, 2]
    again = ImageNet(str(imagenet), seed=5).classification_dataset("train", 16, limit=6)
    assert (picked.samples.images == again.samples.images).all()
    assert np.bincount(data.classification_dataset("train", 16, limit=4).labels).tolist() == [
        2,
        1,
        1,
    ]
    assert (
        len(data.classification_dataset("train", 16, limit=99))
        == len(data.classification_dataset("train", 16))
        == 12
    )


def test_a_limit_of_masks_is_deterministic(voc):
    data = VOC2012(str(voc))
    first, again = (
        data.segmentation_dataset("train", SegmentationSquare(16), limit=2).samples
        for _ in range(2)
    )
    assert len(first) == 2
    assert (first.masks == again.masks).all()


def test_a_negative_limit_is_refused(voc):
    with pytest.raises(DataError, match="limit -1 is negative; use 0"):
        VOC2012(str(voc)).segmentation_dataset("train", SegmentationSquare(16), limit=-1)


def test_masks_keep_their_own_size_and_images_are_whole(voc):
    image, mask = VOC2012(str(voc)).segmentation_dataset("val", SegmentationSquare(16))[0]
    assert image.shape == (3, 16, 16)
    assert mask.shape == (30, 40)
    assert mask.dtype == torch.uint8
    assert image.dtype == torch.uint8


@pytest.mark.parametrize(
    ("layout", "kind", "expected"),
    [
        ("voc", VOC2012, {0: 0, 15: 15, 20: 20, 255: 255}),
        ("ade", ADE20K, {0: 255, 1: 0, 2: 1, 150: 149}),
        ("cityscapes", Cityscapes, {0: 255, 7: 0, 8: 1, 11: 2, 29: 255, 33: 18, 255: 255}),
        ("dense_folder", Folder, {0: 0, 1: 255, 2: 1}),
    ],
)
def test_mask_values_become_train_ids_once(request, layout, kind, expected):
    dataset = kind(str(request.getfixturevalue(layout))).segmentation_dataset(
        "val", SegmentationSquare(16)
    )
    raw = read_mask(mask_path(dataset))
    assert dict(zip(raw.flat, dataset[0][1].numpy().flat, strict=True)) == expected


@pytest.mark.parametrize(
    ("layout", "kind", "value", "allowed"),
    [
        ("voc", VOC2012, 21, "0-20, 255"),
        ("ade", ADE20K, 255, "0-150"),
        ("cityscapes", Cityscapes, 34, "0-33, 255"),
        ("dense_folder", Folder, 3, "0-2, 255"),
    ],
)
def test_a_value_out_of_range_names_file_and_value(request, stripe, layout, kind, value, allowed):
    dataset = kind(str(request.getfixturevalue(layout))).segmentation_dataset(
        "val", SegmentationSquare(16)
    )
    path = stripe(mask_path(dataset), [0, value])
    with pytest.raises(DataError, match=rf"{path.name} holds \[{value}\]; allowed are {allowed};"):
        dataset[0]


def test_a_mask_of_another_size_names_both_files_and_sizes(voc, stripe):
    dataset = VOC2012(str(voc)).segmentation_dataset("val", SegmentationSquare(16))
    stripe(mask_path(dataset), [0], size=(40, 31))
    expected = r"2007_000033.jpg is 40 x 30 but its mask .*2007_000033.png is 40 x 31"
    with pytest.raises(DataError, match=expected):
        dataset[0]


def test_a_dataset_without_labels_or_masks_names_those_that_have_them(voc, imagenet):
    with pytest.raises(DataError, match="VOC2012 has no image labels; use ImageNet or Folder"):
        VOC2012(str(voc)).classification_dataset("val", 16)
    with pytest.raises(DataError, match="ImageNet has no masks; use VOC2012, ADE20K, Cityscapes"):
        ImageNet(str(imagenet)).segmentation_dataset("val", SegmentationSquare(16))
