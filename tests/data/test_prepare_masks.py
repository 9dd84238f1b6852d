"""Masks of VOC 2012 that hold colors, and those of SBD, become images of indices."""

import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from vitlab.data import VOC2012, DataError, SegmentationSquare, read_mask
from vitlab.data.prepare import prepare
from vitlab.data.preparing.voc import palette

LIST = "ImageSets/Segmentation/trainaug.txt"


class Killed(BaseException):
    """Like the end of a process: nothing catches it."""


@pytest.fixture
def folder(voc):
    return voc / "VOCdevkit/VOC2012"


@pytest.fixture
def boundaries(voc, folder, draw):
    """SBD beside VOC: one image of VOC's train, one of its val, two others."""
    dataset = voc / "benchmark_RELEASE/dataset"
    (dataset / "cls").mkdir(parents=True)
    lists = {"train": ["2008_000002", "2007_000032"], "val": ["2007_000033", "2008_000001"]}
    for split, names in lists.items():
        (dataset / f"{split}.txt").write_text("\n".join(names) + "\n")
        for seed, name in enumerate(names):
            mask = np.random.default_rng(seed).integers(0, 21, (30, 40), dtype=np.uint8)
            savemat(dataset / f"cls/{name}.mat", {"GTcls": {"Segmentation": mask}})
            draw(folder / f"JPEGImages/{name}.jpg", seed=seed)
    return dataset


def contents(root):
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def trainaug(root):
    """Images, and decoded pairs, of trainaug."""
    data = VOC2012(str(root))
    samples, pairs = data.samples("trainaug"), data.segmented("trainaug", SegmentationSquare(32))
    names = [samples.image(index) for index in range(len(samples))]
    return names, [[part.tolist() for part in pairs[index]] for index in range(len(pairs))]


def color(folder, mode="RGB"):
    """Save masks with the colors that viewers show."""
    for path in sorted((folder / "SegmentationClass").glob("*.png")):
        image = Image.fromarray(palette()[read_mask(path)])
        image.convert(mode).save(path)


def test_trainaug_is_the_same_from_matlab_files_and_from_what_becomes_of_them(voc, boundaries):
    before, files = trainaug(voc), contents(voc)
    prepare(voc)
    assert trainaug(voc) == before
    assert contents(voc).items() >= files.items()
    boundaries.parent.rename(voc / "away")
    shutil.rmtree(voc / "away")
    assert trainaug(voc) == before


def test_masks_of_sbd_are_indices_and_those_of_voc_the_very_files(voc, folder, boundaries):
    prepare(voc)
    made = sorted(path.stem for path in (folder / "SegmentationClassAug").iterdir())
    assert (folder / LIST).read_text().splitlines() == made
    assert made == ["2007_000032", "2007_000039", "2007_000063", "2008_000001", "2008_000002"]
    own = folder / "SegmentationClass/2007_000032.png"
    assert (folder / "SegmentationClassAug/2007_000032.png").read_bytes() == own.read_bytes()
    with Image.open(folder / "SegmentationClassAug/2008_000001.png") as image:
        assert image.mode == "P"
    mask = read_mask(folder / "SegmentationClassAug/2008_000001.png")
    np.testing.assert_array_equal(mask, read_mask(boundaries / "cls/2008_000001.mat"))


def test_masks_that_are_there_stay(voc, folder, boundaries, stripe):
    own = stripe(folder / "SegmentationClassAug/2008_000001.png", [3])
    before = own.read_bytes()
    report = prepare(voc)
    assert report.steps[0].startswith("SBD: 4 masks to SegmentationClassAug, 5 names to ")
    assert own.read_bytes() == before
    assert prepare(voc).steps == ()


def test_a_list_of_the_user_stays_and_its_names_count(voc, folder, boundaries):
    (folder / "ImageSets/Segmentation/train_aug.txt").write_text("2008_000002\n2007_000039\n")
    assert prepare(voc).steps == ("SBD: 2 masks to SegmentationClassAug",)
    assert not (folder / LIST).exists()
    (folder / LIST).write_text("2007_000033\n")
    with pytest.raises(DataError, match="1 images of val are in"):
        prepare(voc)


def test_a_broken_matlab_file_is_named(voc, folder, boundaries):
    broken = boundaries / "cls/2008_000002.mat"
    os.truncate(broken, 150)
    with pytest.raises(DataError, match=rf"{broken.name}.*extract SBD's benchmark.tgz again"):
        prepare(voc)
    assert not (folder / "SegmentationClassAug").exists()
    mask = np.full((30, 40), 21, np.uint8)
    savemat(broken, {"GTcls": {"Segmentation": mask}})
    with pytest.raises(DataError, match=rf"{broken.name} holds \[21\]; allowed are 0-20, 255;"):
        prepare(voc)


def test_a_source_that_was_replaced_meanwhile_is_read_again(voc, folder, boundaries, monkeypatch):
    last = boundaries / "cls/2008_000002.mat"
    content = last.read_bytes()
    last.write_bytes(b"")
    with pytest.raises(DataError):
        prepare(voc)
    last.write_bytes(content)
    first = boundaries / "cls/2008_000001.mat"
    savemat(first, {"GTcls": {"Segmentation": np.full((30, 40), 7, np.uint8)}})
    prepare(voc)
    assert np.unique(read_mask(folder / "SegmentationClassAug/2008_000001.png")) == [7]


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colors_become_the_indices_they_stand_for(voc, folder, mode):
    masks = {path.name: read_mask(path) for path in (folder / "SegmentationClass").iterdir()}
    color(folder, mode)
    colored = contents(folder / "SegmentationClass")
    with pytest.raises(DataError, match="holds one class index per pixel"):
        VOC2012(str(voc)).segmented("train", SegmentationSquare(32))[0]
    report = prepare(voc)
    assert "4 masks from colors to indices" in report.steps[0]
    assert contents(folder / "SegmentationClassRGB") == colored
    for name, mask in masks.items():
        np.testing.assert_array_equal(read_mask(folder / "SegmentationClass" / name), mask)
    assert prepare(voc).steps == ()


def test_masks_of_indices_among_colored_ones_stay_as_they_are(voc, folder):
    plain = folder / "SegmentationClass/2007_000039.png"
    before = plain.read_bytes()
    color(folder)
    plain.write_bytes(before)
    assert "3 masks from colors to indices" in prepare(voc).steps[0]
    assert plain.read_bytes() == before


@pytest.mark.parametrize("value", [(1, 2, 3), (64, 128, 64)])  # the second is that of index 21+
def test_a_color_that_stands_for_no_class_is_refused(voc, folder, value):
    color(folder)
    path = folder / "SegmentationClass/2007_000063.png"
    with Image.open(path) as image:
        image.load()
    image.putpixel((5, 2), value)
    image.save(path)
    before = contents(folder)
    text = f"2007_000063.png has the color {[*value, 255]} (red, green, blue, opacity) at row 2, c"
    with pytest.raises(DataError, match=re.escape(text)):
        prepare(voc)
    after = {name: data for name, data in contents(folder).items() if ".vitlab" not in name}
    assert after == before


def test_the_place_for_colored_masks_may_not_be_taken(voc, folder):
    color(folder)
    (folder / "SegmentationClassRGB").mkdir()
    with pytest.raises(DataError, match=r"SegmentationClassRGB, .* is taken; move it away"):
        prepare(voc)


@pytest.mark.parametrize("at", range(1, 15))
@pytest.mark.parametrize("before", [True, False])
def test_killed_at_any_moment_the_masks_are_the_same(
    voc, folder, boundaries, tmp_path_factory, monkeypatch, at, before
):
    color(folder)
    expected = tmp_path_factory.mktemp("expected") / "voc"
    shutil.copytree(voc, expected)
    prepare(expected)
    calls = 0

    def cut(function):
        def move(source, target):
            nonlocal calls
            calls += 1
            if calls == at and before:
                raise Killed
            function(source, target)
            if calls == at:
                raise Killed

        return move

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", cut(os.replace))
        patch.setattr(os, "rename", cut(os.rename))
        with pytest.raises(Killed):
            prepare(voc)
    for name in ("SegmentationClass", "SegmentationClassAug"):
        visible = folder / name
        assert not visible.exists() or len(list(visible.iterdir())) in (4, 5)
    prepare(voc)
    assert contents(voc) == contents(expected)


def test_a_dry_run_says_what_an_exchange_lacks(voc, folder, monkeypatch):
    color(folder)
    rename, calls = os.rename, []

    def cut(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise Killed
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", cut)
        with pytest.raises(Killed):
            prepare(voc)
    assert not (folder / "SegmentationClass").exists()
    before = contents(voc)
    assert "exchange that stopped" in prepare(voc, dry_run=True).steps[0]
    assert contents(voc) == before
    prepare(voc)
    assert len(VOC2012(str(voc)).segmented("train", SegmentationSquare(32))) == 3


def test_another_target_gets_the_masks_and_links_to_the_rest(
    voc, folder, boundaries, tmp_path_factory
):
    out = tmp_path_factory.mktemp("other")
    expected = tmp_path_factory.mktemp("expected") / "voc"
    color(folder)
    shutil.copytree(voc, expected)
    prepare(expected)
    before = contents(voc)
    steps = prepare(voc, out).steps
    assert ["links" in steps[0], "colors" in steps[1], "SBD: 5" in steps[2]] == [True] * 3
    assert contents(voc) == before
    assert (out / "VOCdevkit/VOC2012/JPEGImages").is_symlink()
    assert trainaug(out) == trainaug(expected)
    assert prepare(voc, out).steps == ()


@pytest.mark.parametrize("root", ["VOCdevkit", "VOCdevkit/VOC2012"])
def test_another_target_for_a_folder_below_finds_sbd_above(
    voc, folder, boundaries, tmp_path_factory, root
):
    out = tmp_path_factory.mktemp("other")
    before = contents(voc)
    prepare(voc / root, out)
    assert contents(voc) == before
    assert trainaug(out)[1] == trainaug(voc)[1]
    assert prepare(voc / root, out).steps == ()
