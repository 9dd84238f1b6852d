"""What all datasets say about a wrong folder."""

import shutil

import pytest

from vitlab.data import ADE20K, VOC2012, Cityscapes, DataError, Folder, ImageNet

KINDS = {"imagenet": ImageNet, "voc": VOC2012, "ade": ADE20K, "cityscapes": Cityscapes}


@pytest.mark.parametrize("kind", [*KINDS.values(), Folder])
def test_a_missing_root_is_named(tmp_path, kind):
    with pytest.raises(DataError, match=r"there is no folder .*nowhere; set its root"):
        kind(str(tmp_path / "nowhere")).samples("train")


@pytest.mark.parametrize("kind", KINDS.values())
def test_an_empty_root_says_what_is_expected(tmp_path, kind):
    expected = rf"not laid out as {kind.__name__}; expected .* in it .*; set its root"
    with pytest.raises(DataError, match=expected):
        kind(str(tmp_path)).samples("train")


@pytest.mark.parametrize("given", KINDS)
@pytest.mark.parametrize("wanted", KINDS)
def test_the_folder_of_another_dataset_is_recognized(request, given, wanted):
    if given == wanted:
        return
    root = request.getfixturevalue(given)
    expected = f"looks like {KINDS[given].__name__}: use the class {KINDS[given].__name__}"
    with pytest.raises(DataError, match=expected):
        KINDS[wanted](str(root)).samples("train")


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_split_lists_those_there_are(request, kind):
    data = KINDS[kind](str(request.getfixturevalue(kind)))
    with pytest.raises(DataError, match=r"has no split 'validation'; use one of train, val"):
        data.samples("validation")


@pytest.mark.parametrize("kind", ["voc", "ade", "cityscapes"])
def test_an_image_without_a_mask_is_named(request, kind):
    data = KINDS[kind](str(request.getfixturevalue(kind)))
    mask = data.folder / data.samples("val").mask(0)
    mask.unlink()
    expected = rf"1 masks missing below .*{mask.name}; extract the archive again"
    with pytest.raises(DataError, match=expected):
        KINDS[kind](str(data.root)).samples("val")


@pytest.mark.parametrize("kind", ["ade", "cityscapes"])
def test_an_empty_split_is_an_error(request, kind):
    data = KINDS[kind](str(request.getfixturevalue(kind)))
    for image in data.folder.glob("images/validation/*"):
        image.unlink()
    shutil.rmtree(data.folder / "leftImg8bit/val/munster", ignore_errors=True)
    with pytest.raises(DataError, match=r"split 'val' of .* is empty; check the download"):
        data.samples("val")


def test_files_are_listed_once(ade):
    data = ADE20K(str(ade))
    assert data.samples("val") is data.samples("val")
