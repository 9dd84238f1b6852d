import numpy as np
import pytest

from vitlab.data import Cityscapes, DataError, SegmentationSquare

# labels.py of the authors' scripts, column by column: labelId of each trainId
TRAINED = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
VOID = [*range(7), 9, 10, 14, 15, 16, 18, 29, 30, 255]


def masks(root, ending="labelIds"):
    return sorted(root.glob(f"gtFine/*/*/*_gtFine_{ending}.png"))


def as_train_ids(root, stripe):
    """Masks as the authors' scripts would write them, beside the others."""
    for path in masks(root):
        made = path.with_name(path.name.replace("labelIds", "labelTrainIds"))
        stripe(made, [255, 0, 1, 2, 255, 18, 255])


def test_images_and_masks_are_paired_through_the_cities(cityscapes):
    samples = Cityscapes(str(cityscapes)).samples("val")
    assert len(samples) == 1
    stem = "val/munster/munster_000000_000019"
    assert samples.image(0) == f"leftImg8bit/{stem}_leftImg8bit.png"
    assert samples.mask(0) == f"gtFine/{stem}_gtFine_labelIds.png"
    assert samples.files.has(samples.mask(0))


def test_it_has_19_classes_and_a_place_for_every_label_id(cityscapes):
    data = Cityscapes(str(cityscapes))
    assert data.num_classes == len(set(data.classes)) == 19
    assert data.classes[0] == "road"
    assert data.classes[18] == "bicycle"
    values = data.mask_values
    assert set(values) == {*range(34), 255}
    assert sorted(v for v in values.values() if v != 255) == list(range(19))


def test_the_table_is_complete_for_all_256_values(cityscapes):
    table = Cityscapes(str(cityscapes)).segmentation_dataset("val", SegmentationSquare(16)).table
    expected = np.full(256, -1)
    expected[VOID] = 255
    expected[TRAINED] = range(19)
    assert np.array_equal(table, expected)


def test_train_ids_are_read_as_they_are_where_there_are_no_label_ids(cityscapes, stripe):
    expected = [
        Cityscapes(str(cityscapes)).segmentation_dataset(split, SegmentationSquare(16))[0][1]
        for split in ("train", "val")
    ]
    as_train_ids(cityscapes, stripe)
    for path in masks(cityscapes):
        path.unlink()
    data = Cityscapes(str(cityscapes))
    assert data.samples("val").mask(0).endswith("_gtFine_labelTrainIds.png")
    for split, mask in zip(("train", "val"), expected, strict=True):
        assert np.array_equal(data.segmentation_dataset(split, SegmentationSquare(16))[0][1], mask)
    expected_table = np.full(256, -1)
    expected_table[[*range(19), 255]] = [*range(19), 255]
    assert np.array_equal(
        data.segmentation_dataset("val", SegmentationSquare(16)).table, expected_table
    )


def test_label_ids_count_where_there_are_both(cityscapes, stripe):
    expected = Cityscapes(str(cityscapes)).segmentation_dataset("val", SegmentationSquare(16))[0][1]
    as_train_ids(cityscapes, stripe)
    data = Cityscapes(str(cityscapes))
    assert data.samples("val").mask(0).endswith("_gtFine_labelIds.png")
    assert np.array_equal(data.segmentation_dataset("val", SegmentationSquare(16))[0][1], expected)


def test_label_ids_named_as_train_ids_are_refused(cityscapes, stripe):
    for path in masks(cityscapes):
        path.rename(path.with_name(path.name.replace("labelIds", "labelTrainIds")))
    with pytest.raises(DataError, match=r"TrainIds.png holds \[29, 33\]; allowed are 0-18, 255"):
        Cityscapes(str(cityscapes)).segmentation_dataset("val", SegmentationSquare(16))[0]


def test_masks_of_one_kind_in_train_and_another_in_val_are_incomplete(cityscapes, stripe):
    as_train_ids(cityscapes, stripe)
    next(cityscapes.glob("gtFine/train/*/*_labelIds.png")).unlink()
    next(cityscapes.glob("gtFine/val/*/*_labelTrainIds.png")).unlink()
    with pytest.raises(DataError, match=r"1 masks missing .*munster_000000_000019_gtFine_label"):
        Cityscapes(str(cityscapes)).samples("val")


def test_pictures_that_are_no_scenes_are_passed_over(cityscapes, draw):
    draw(cityscapes / "leftImg8bit/val/munster/preview.png")
    draw(cityscapes / "leftImg8bit/val/munster/munster_000000_000019_rightImg8bit.png")
    assert len(Cityscapes(str(cityscapes)).samples("val")) == 1


def test_the_test_split_is_refused_since_its_masks_are_dummies(cityscapes):
    with pytest.raises(DataError, match=r"test split are dummies.*use train or val"):
        Cityscapes(str(cityscapes)).samples("test")


def test_real_label_ids_become_train_ids(real):
    dataset = Cityscapes(str(real("mini_layouts/cityscapes_256x128"))).segmentation_dataset(
        "val", SegmentationSquare(32)
    )
    found = set(dataset[0][1].unique().tolist())
    assert {0, 255} < found <= {*range(19), 255}
