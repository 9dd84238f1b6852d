"""VOC masks that hold colors, and SBD's MATLAB masks, become PNG files of class indices."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refused
from scipy.io import savemat

from vitlab.cli import main
from vitlab.data import VOC2012, DataError, SegmentationSquare, read_mask
from vitlab.data.voc_masks import index_colored_masks, palette, write_trainaug

LIST = "ImageSets/Segmentation/trainaug.txt"


@pytest.fixture
def folder(voc):
    return voc / "VOCdevkit/VOC2012"


@pytest.fixture
def sbd(voc, folder, draw):
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
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def trainaug(root):
    """Images, and decoded pairs, of trainaug."""
    data = VOC2012(str(root))
    samples, pairs = (
        data.samples("trainaug"),
        data.segmentation_dataset("trainaug", SegmentationSquare(32)),
    )
    names = [samples.image(index) for index in range(len(samples))]
    return names, [[part.tolist() for part in pairs[index]] for index in range(len(pairs))]


def color(folder, mode="RGB"):
    """Save masks with the colors that viewers show."""
    for path in sorted((folder / "SegmentationClass").glob("*.png")):
        Image.fromarray(palette()[read_mask(path)]).convert(mode).save(path)


def test_trainaug_is_the_same_from_matlab_files_and_from_png_files(voc, folder, sbd, capsys):
    before, files = trainaug(voc), contents(voc)
    main(["data", "voc-masks", "--root", str(voc)])
    printed = capsys.readouterr().out
    assert "0 masks converted" in printed
    assert "5 masks written" in printed
    assert contents(voc).items() >= files.items()
    shutil.rmtree(sbd.parent)
    assert trainaug(voc) == before
    made = sorted(path.stem for path in (folder / "SegmentationClassAug").iterdir())
    assert (folder / LIST).read_text().splitlines() == made
    own = folder / "SegmentationClass/2007_000032.png"
    assert (folder / "SegmentationClassAug/2007_000032.png").read_bytes() == own.read_bytes()
    with Image.open(folder / "SegmentationClassAug/2008_000001.png") as image:
        assert image.mode == "P"


def test_existing_masks_and_lists_stay(folder, sbd, stripe):
    own = stripe(folder / "SegmentationClassAug/2008_000001.png", [3])
    (folder / "ImageSets/Segmentation/train_aug.txt").write_text("2008_000001\n2007_000039\n")
    before = own.read_bytes()
    assert write_trainaug(folder) == 1
    assert own.read_bytes() == before
    assert not (folder / LIST).exists()
    assert write_trainaug(folder) == 0


def test_a_broken_matlab_file_is_named_and_the_next_call_completes(folder, sbd):
    broken = sbd / "cls/2008_000002.mat"
    content = broken.read_bytes()
    broken.write_bytes(content[:150])
    with refused("benchmark.tgz", DataError, wording=False):  # scipy's reason
        write_trainaug(folder)
    savemat(broken, {"GTcls": {"Segmentation": np.full((30, 40), 21, np.uint8)}})
    with refused("benchmark.tgz", DataError):
        write_trainaug(folder)
    assert not (folder / LIST).exists()
    broken.write_bytes(content)
    assert write_trainaug(folder) == 1
    assert (folder / LIST).exists()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colors_become_their_indices(voc, folder, mode, capsys):
    masks = {path.name: read_mask(path) for path in (folder / "SegmentationClass").iterdir()}
    plain = folder / "SegmentationClass/2007_000039.png"
    before = plain.read_bytes()
    color(folder, mode)
    plain.write_bytes(before)
    colored = contents(folder / "SegmentationClass")
    with refused(kind=DataError, wording=False):
        VOC2012(str(voc)).segmentation_dataset("train", SegmentationSquare(32))[0]
    main(["data", "voc-masks", "--root", str(voc)])
    assert "3 masks converted" in capsys.readouterr().out
    assert contents(folder / "SegmentationClassRGB") == colored
    assert plain.read_bytes() == before
    for name, mask in masks.items():
        np.testing.assert_array_equal(read_mask(folder / "SegmentationClass" / name), mask)
    assert index_colored_masks(folder) == 0


@pytest.mark.parametrize("value", [(1, 2, 3), (64, 128, 64)])  # the second is index 21 and above
def test_a_color_of_no_class_is_refused(folder, value):
    color(folder)
    path = folder / "SegmentationClass/2007_000063.png"
    image = Image.open(path).copy()
    image.putpixel((5, 2), value)
    image.save(path)
    before = contents(folder / "SegmentationClass")
    with refused("2007_000063.png", DataError, wording=False) as info:
        index_colored_masks(folder)
    assert f"{[*value, 255]} (red, green, blue, opacity) at row 2, column 5" in str(info.value)
    assert contents(folder / "SegmentationClass") == before


def test_an_existing_folder_of_colored_masks_is_not_overwritten(folder):
    color(folder)
    (folder / "SegmentationClassRGB").mkdir()
    with refused("SegmentationClassRGB", DataError):
        index_colored_masks(folder)


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("before", [True, False])
def test_killed_at_either_rename_the_next_call_completes(folder, monkeypatch, at, before):
    color(folder)
    colored, calls, rename = contents(folder / "SegmentationClass"), [], Path.rename

    def cut(self, target):
        calls.append(self)
        if len(calls) == at + 1 and before:
            raise KeyboardInterrupt
        rename(self, target)
        if len(calls) == at + 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", cut)
        with pytest.raises(KeyboardInterrupt):
            index_colored_masks(folder)
    index_colored_masks(folder)
    assert contents(folder / "SegmentationClassRGB") == colored
    assert len(contents(folder / "SegmentationClass")) == 4
    assert not (folder / ".SegmentationClass").exists()


def test_a_folder_without_extracted_voc_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["data", "voc-masks", "--root", str(tmp_path)])
    assert "tar -xf VOCtrainval_11-May-2012.tar" in capsys.readouterr().err
