import pytest

from vitlab.data import ADE20K, SegmentationSquare


@pytest.mark.parametrize("below", ["", "ADEChallengeData2016"])
def test_the_root_may_be_the_folder_or_the_one_above(ade, below):
    data = ADE20K(str(ade / below))
    samples = data.samples("val")
    assert len(samples) == len(data.samples("train")) == 2
    assert samples.image(0) == "images/validation/ADE_val_00000001.jpg"
    assert samples.mask(0) == "annotations/validation/ADE_val_00000001.png"


def test_names_come_from_the_datasets_own_list(ade):
    assert ADE20K(str(ade)).classes[:2] == ("class 1", "class 2")
    rows = ["Idx\tRatio\tTrain\tVal\tStuff\tName"]
    rows += [f"{i}\t0.1\t9\t1\t1\tthing {i}, item {i}" for i in range(1, 151)]
    (ade / "ADEChallengeData2016/objectInfo150.txt").write_text("\n".join(rows))
    data = ADE20K(str(ade))
    assert data.classes[0] == "thing 1"
    assert len(data.classes) == data.num_classes == 150


def test_real_masks_are_reduced_once(real):
    data = ADE20K(str(real("mini_layouts")))
    assert data.classes[:3] == ("wall", "building", "sky")
    dataset = data.segmentation_dataset("val", SegmentationSquare(32))
    found = {value for i in range(len(dataset)) for value in dataset[i][1].unique().tolist()}
    assert 0 in found  # wall is in almost every image; 255 would be all if reduced twice
    assert found <= {*range(150), 255}
