import pytest

from vitlab.data import DataError, Folder, MultiCrop, SegmentationSquare


def test_class_folders_of_any_name_are_labels(imagenet, draw):
    (imagenet / "train/n02102040").rename(imagenet / "train/dog")
    (imagenet / "val/n02102040").rename(imagenet / "val/dog")
    data = Folder(str(imagenet))
    assert data.classes == ("dog", "n01440764", "n03000684")
    assert data.ignore is None
    assert data.samples("val").labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_the_ignored_class_of_masks_gets_no_index(dense_folder):
    data = Folder(str(dense_folder))
    assert data.classes == ("sky", "road")
    assert data.num_classes == 2
    assert data.ignore == 255
    assert data.mask_values == {0: 0, 1: 255, 2: 1, 255: 255}
    assert len(data.segmentation_dataset("train", SegmentationSquare(16))) == 2


def test_masks_without_an_ignored_class_keep_their_values(dense_folder):
    (dense_folder / "classes.json").write_text('{"classes": ["sky", "void", "road"]}')
    assert Folder(str(dense_folder)).mask_values == {0: 0, 1: 1, 2: 2, 255: 255}


def test_images_of_masks_serve_for_training_without_labels(dense_folder):
    data = Folder(
        str(dense_folder), global_batch_size=2, transform=MultiCrop(16, 8, 1), num_workers=0
    )
    (batch,) = data.train_dataloader()
    assert batch.labels is None


@pytest.mark.parametrize("split", ["test", "valid"])
def test_an_unknown_split_lists_the_folders_there_are(dense_folder, split):
    with pytest.raises(DataError, match=f"no split '{split}'; use one of train, val"):
        Folder(str(dense_folder)).samples(split)


def test_a_missing_class_list_is_asked_for(dense_folder):
    (dense_folder / "classes.json").unlink()
    with pytest.raises(DataError, match=r'no .*classes.json.*write one such as \{"classes"'):
        _ = Folder(str(dense_folder)).num_classes


def test_an_unknown_entry_of_the_class_list_is_refused(dense_folder):
    (dense_folder / "classes.json").write_text('{"classes": ["a"], "ignore": 2}')
    with pytest.raises(
        DataError, match=r"holds classes, ignore; allowed are classes .* and ignore_"
    ):
        _ = Folder(str(dense_folder)).classes


def test_a_mask_is_needed_for_each_image(dense_folder):
    (dense_folder / "masks/val/1.png").unlink()
    with pytest.raises(DataError, match=r"1 masks missing .*masks/val/1\.png"):
        Folder(str(dense_folder)).samples("val")


def test_images_without_class_folders_are_refused_with_a_remedy(tmp_path, draw):
    draw(tmp_path / "train/a.jpg")
    with pytest.raises(DataError, match="train has no class folders; sort its images"):
        Folder(str(tmp_path)).samples("train")


def test_a_real_set_of_driving_scenes_is_read(real):
    data = Folder(str(real("camvid_half")))
    assert [len(data.samples(split)) for split in ("train", "val")] == [367, 101]
    assert data.num_classes == 11
    found = set(data.segmentation_dataset("val", SegmentationSquare(32))[0][1].unique().tolist())
    assert found <= {*range(11), 255}
