import pytest

from vitlab.data import Cityscapes, DataError


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


def test_the_test_split_is_refused_since_its_masks_are_dummies(cityscapes):
    with pytest.raises(DataError, match=r"test split are dummies.*use train or val"):
        Cityscapes(str(cityscapes)).samples("test")


def test_real_label_ids_become_train_ids(real):
    dataset = Cityscapes(str(real("mini_layouts/cityscapes_256x128"))).segmented("val", 32)
    found = set(dataset[0][1].unique().tolist())
    assert {0, 255} < found <= {*range(19), 255}
