import pytest

from vitlab.data import VOC2012, DataError, SegmentationSquare


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_the_root_may_be_the_folder_or_one_above(voc, below):
    data = VOC2012(str(voc / below))
    assert [len(data.samples(split)) for split in ("train", "val", "trainval")] == [3, 1, 4]
    samples = data.samples("val")
    assert samples.image(0) == "JPEGImages/2007_000033.jpg"
    assert samples.mask(0) == "SegmentationClass/2007_000033.png"
    folder = voc / "VOCdevkit/VOC2012"
    assert samples.files.where(samples.mask(0)) == str(folder / samples.mask(0))


def test_it_has_21_classes_in_the_official_order():
    data = VOC2012("anywhere")
    assert data.num_classes == len(set(data.classes)) == 21
    assert data.classes[0] == "background"
    assert data.classes[15] == "person"
    assert data.classes[20] == "tv/monitor"
    assert data.ignore == 255


def test_a_missing_list_is_named(voc):
    (voc / "VOCdevkit/VOC2012/ImageSets/Segmentation/trainval.txt").unlink()
    with pytest.raises(DataError, match=r"no .*trainval.txt; extract VOCtrainval_11-May-2012.tar"):
        VOC2012(str(voc)).samples("trainval")


def test_a_missing_image_is_named(voc):
    (voc / "VOCdevkit/VOC2012/JPEGImages/2007_000039.jpg").unlink()
    with pytest.raises(DataError, match=r"1 images missing below .*2007_000039\.jpg; extract"):
        VOC2012(str(voc)).samples("train")


def test_real_masks_hold_classes_and_void(real):
    dataset = VOC2012(str(real("voc_half"))).segmentation_dataset(
        "val", SegmentationSquare(32), limit=12
    )
    found = {value for i in range(len(dataset)) for value in dataset[i][1].unique().tolist()}
    assert {0, 255} < found <= {*range(21), 255}
