"""Each known fault of a dataset has its own message; a sound one has none."""

import re
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image
from refusals import check_wording
from scipy.io import savemat

from vitlab.cli import main
from vitlab.data import Cityscapes, DataError, SegmentationSquare
from vitlab.data.check import check

VOC = "VOCdevkit/VOC2012"
ADE = "ADEChallengeData2016"


def errors(root, deep=False) -> str:
    return "\n".join(finding.text for finding in check(root, deep).errors)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("imagenet", "ImageNet, training images in class folders, val in class folders"),
        ("voc", "VOC2012, extracted, without SBD"),
        ("ade", "ADE20K, 150 classes, extracted"),
        ("cityscapes", "Cityscapes, labelIds, extracted"),
        ("dense_folder", "Folder, images and masks"),
    ],
)
@pytest.mark.parametrize("deep", [False, True])
def test_a_sound_dataset_is_recognized_and_has_no_error(kind, name, deep, request):
    report = check(request.getfixturevalue(kind), deep)
    assert report.dataset == name
    assert not report.errors
    assert {"train", "val"} <= set(report.splits)


def test_the_drawn_collection_is_sound_one_by_one_and_refused_as_a_whole(drawn):
    for folder in ("imagenet", "VOCdevkit", ADE, "cityscapes"):
        assert not check(drawn / folder, deep=True).errors, folder
    assert "holds several datasets: ImageNet in" in errors(drawn)


def test_two_datasets_in_one_folder_are_named(voc, draw, stripe):
    for place, kind in (("training", "train"), ("validation", "val")):
        draw(voc / VOC / f"images/{place}/ADE_{kind}_00000001.jpg")
        stripe(voc / VOC / f"annotations/{place}/ADE_{kind}_00000001.png", [0, 1])
    assert "several datasets: VOC2012 in" in errors(voc / VOC)
    assert "ADE20K in" in errors(voc / VOC)


def rename(old, new):
    return lambda root: (root / old).rename(root / new)


def remove(place):
    return lambda root: next(root.glob(place)).unlink()


def recolor(place):
    def act(root):
        for path in root.glob(place):
            Image.open(path).convert("RGB").save(path)

    return act


def values(place, found):
    def act(root):
        for path in root.glob(place):
            with Image.open(path) as mask:
                width, height = mask.size
            Image.fromarray(np.resize(np.uint8(found), (height, width))).save(path)

    return act


def resize(place):
    def act(root):
        path = next(root.glob(place))
        Image.open(path).resize((20, 15)).save(path)

    return act


def add_line(place, line):
    def act(root):
        with open(root / place, "a") as file:
            file.write(line + "\n")

    return act


def copy(old, new):
    def act(root):
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(next(root.glob(old)), root / new)

    return act


def numbered(root):
    for number, folder in enumerate(sorted((root / "val").iterdir()), start=1):
        folder.rename(root / "val" / str(number))


def numbered_train(root):
    for number, folder in enumerate(sorted((root / "train").iterdir()), start=1):
        folder.rename(root / "train" / str(number))


def devkit_order(root):
    """Validation images in folders, by an order that the ground truth contradicts."""
    folder = root / "ILSVRC2012_devkit_t12/data"
    folder.mkdir(parents=True)
    names = sorted(path.name for path in (root / "train").iterdir())
    rows = [(number, name, 0) for number, name in enumerate(names, start=1)]
    kinds = [("ILSVRC2012_ID", object), ("WNID", object), ("num_children", object)]
    savemat(folder / "meta.mat", {"synsets": np.array(rows, kinds)[:, None]})
    truth = []
    for number, name in enumerate(names, start=1):
        for path in sorted((root / "val" / name).iterdir()):
            truth.append(str(number % len(names) + 1))
            path.rename(path.with_name(f"ILSVRC2012_val_{len(truth):08d}.JPEG"))
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(truth))


def half_extracted(root):
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as packed:
        for name in ("n01440764", "n02102040", "n03000684", "n03888257"):
            inner = root / f"{name}.tar"
            with tarfile.open(inner, "w"):
                pass
            packed.add(inner, inner.name)
            inner.unlink()


def leftover(root):
    image = root / "train/n01440764/n01440764_0.JPEG"
    with tarfile.open(root / "train/n04000000.tar", "w") as packed:
        packed.add(image, "n04000000_0.JPEG")


def flat_validation(root):
    for path in sorted(root.glob("val/*/*")):
        path.rename(path.parents[1] / path.name)
    for path in root.glob("val/*/"):
        path.rmdir()


def relabeled(name):
    def act(root):
        for path in sorted(root.glob("gtFine/*/*/*.png")):
            path.rename(path.with_name(path.name.replace("labelIds", name)))

    return act


def remove_folder(place):
    return lambda root: shutil.rmtree(root / place)


IMAGENET_FAULTS = {
    "val-folders-numbered": numbered,
    "train-folders-numbered": numbered_train,
    "val-in-the-devkits-order": devkit_order,
    "fewer-classes-than-the-archive": half_extracted,
    "archive-without-class-folder": leftover,
    "stray-folder": copy("train/*/*0.JPEG", "train/misc/a.JPEG"),
    "class-only-in-val": copy("val/*/*0.JPEG", "val/n9/a.JPEG"),
    "image-in-the-wrong-class": copy("train/n01440764/*", "train/n02102040/n01440764_9.JPEG"),
    "empty-class": lambda root: [path.unlink() for path in root.glob("train/n02102040/*")],
    "val-without-labels": flat_validation,
}
MASK = f"{VOC}/SegmentationClass/*_000032.png"
VOC_FAULTS = {
    "colored-mask": recolor(MASK),
    "value-21": values(MASK, [0, 21]),
    "mask-of-another-size": resize(MASK),
    "mask-missing": remove(MASK),
    "image-missing": remove(f"{VOC}/JPEGImages/*_000032.jpg"),
    "val-image-in-train": add_line(f"{VOC}/ImageSets/Segmentation/train.txt", "2007_000033"),
    "image-listed-twice": add_line(f"{VOC}/ImageSets/Segmentation/train.txt", "2007_000032"),
    "list-missing": remove(f"{VOC}/ImageSets/Segmentation/val.txt"),
    "no-masks": remove_folder(f"{VOC}/SegmentationClass"),
    "voc2007": rename(VOC, "VOCdevkit/VOC2007"),
}
ADE_FAULTS = {
    "labels-reduced-before": values(f"{ADE}/annotations/training/*.png", [0, 149, 255]),
    "value-151": values(f"{ADE}/annotations/training/*.png", [0, 151]),
    "colored-mask": recolor(f"{ADE}/annotations/training/*1.png"),
    "mask-missing": remove(f"{ADE}/annotations/training/*1.png"),
    "image-missing": remove(f"{ADE}/images/training/*1.jpg"),
    "no-annotations": remove_folder(f"{ADE}/annotations"),
}
CITYSCAPES_FAULTS = {
    "train-ids-named-labelIds": values("gtFine/*/*/*labelIds.png", [0, 5, 18, 255]),
    "labelIds-named-train-ids": relabeled("labelTrainIds"),
    "value-40": values("gtFine/train/*/*labelIds.png", [7, 40]),
    "mask-missing": remove("gtFine/val/*/*labelIds.png"),
    "no-val-images": remove("leftImg8bit/val/*/*.png"),
    "no-gtFine": remove_folder("gtFine"),
    "only-gtCoarse": rename("gtFine", "gtCoarse"),
    "only-colored-masks": relabeled("color"),
}
FOLDER_FAULTS = {
    "mask-missing": remove("masks/train/0.png"),
    "image-missing": remove("images/train/0.jpg"),
    "no-class-names": remove("classes.json"),
    "value-3": values("masks/train/0.png", [3]),
}
FAULTS = {
    "imagenet": IMAGENET_FAULTS,
    "voc": VOC_FAULTS,
    "ade": ADE_FAULTS,
    "cityscapes": CITYSCAPES_FAULTS,
    "dense_folder": FOLDER_FAULTS,
}


@pytest.mark.parametrize(
    ("kind", "fault"), [(kind, fault) for kind, faults in FAULTS.items() for fault in faults]
)
def test_each_fault_has_its_message(kind, fault, request):
    root = request.getfixturevalue(kind)
    FAULTS[kind][fault](root)
    found = errors(root)
    assert found
    check_wording(found.replace(str(root), "FOLDER"))


def test_other_files_beside_the_splits_are_no_fault(ade):
    copy(f"{ADE}/images/training/*1.jpg", f"{ADE}/images/ADE/training/home/a.jpg")(ade)
    assert not errors(ade)


@pytest.mark.parametrize(
    ("kind", "given", "told"),
    [
        ("ade", "", "ADE20K lies in"),
        ("cityscapes", "leftImg8bit", "Cityscapes lies in"),
        ("voc", f"{VOC}/JPEGImages", "VOC2012 lies in"),
        ("imagenet", "train", "ImageNet lies in"),
    ],
)
def test_the_folder_to_give_is_named_where_it_is_another(kind, given, told, request):
    root = request.getfixturevalue(kind)
    if kind == "ade":
        (root / ADE).rename(root / "scenes")
    found = errors(root / given)
    assert told in found
    assert "give --root" in found


def test_one_mask_of_the_wrong_ids_is_told_among_others(cityscapes, stripe):
    place = "gtFine/train/aachen/aachen_000001_000019_gtFine_labelIds.png"
    shutil.copy(
        next(cityscapes.glob("leftImg8bit/train/*/*.png")),
        cityscapes / "leftImg8bit/train/aachen/aachen_000001_000019_leftImg8bit.png",
    )
    stripe(cityscapes / place, [0, 7, 18, 255])
    assert f"{place} is called labelIds but holds train ids" in errors(cityscapes)
    with pytest.raises(DataError, match=r"aachen_000001.* is called labelIds but holds train ids"):
        Cityscapes(str(cityscapes)).segmentation_dataset("train", SegmentationSquare(16)).check()


def test_masks_whose_city_has_no_images_are_told(cityscapes):
    shutil.copytree(cityscapes / "gtFine/train/aachen", cityscapes / "gtFine/train/bochum")
    assert "1 masks of train have no image: gtFine/train/bochum" in errors(cityscapes)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("\n", None),
        ("ILSVRC2012_val_00000007,", "line 8 of .*LOC_val_solution.csv is cut"),
        ("empty", "LOC_val_solution.csv holds no labels"),
    ],
)
def test_kaggles_file_may_hold_blank_lines_but_not_cut_ones(imagenet, rows, message):
    lines = ["ImageId,PredictionString"]
    for path in sorted(imagenet.glob("val/*/*")):
        name = f"ILSVRC2012_val_{len(lines):08d}"
        lines.append(f"{name},{path.parent.name} 1 2 3 4")
        path.rename(imagenet / f"val/{name}.JPEG")
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
    content = "" if rows == "empty" else "\n".join([*lines, rows])
    (imagenet / "LOC_val_solution.csv").write_text(content)
    found = errors(imagenet)
    assert not found if message is None else re.search(message, found)


def test_lists_that_are_no_text_and_half_an_sbd_are_named(voc):
    (voc / "benchmark_RELEASE").mkdir()
    assert "SBD in" in errors(voc)
    (voc / VOC / "ImageSets/Segmentation/val.txt").write_bytes("x".encode("utf-16"))
    assert "val.txt as text" in errors(voc)


def test_a_broken_file_is_listed_and_only_deep_checks_see_all(imagenet, draw):
    for i in range(100):
        draw(imagenet / f"train/n01440764/n01440764_{i}.JPEG", size=(8, 8), seed=i)
    assert not check(imagenet).errors
    unseen = imagenet / "train/n01440764/n01440764_18.JPEG"
    unseen.write_bytes(unseen.read_bytes()[:-40])
    listed = [file for finding in check(imagenet, deep=True).errors for file in finding.files]
    assert len(listed) == 1
    assert str(unseen) in listed[0]


@pytest.mark.parametrize("content", [b"", b"<html>"])
def test_an_empty_or_foreign_file_is_listed(voc, content):
    (voc / VOC / "JPEGImages/2007_000032.jpg").write_bytes(content)
    report = check(voc)
    assert any("2007_000032.jpg" in file for finding in report.errors for file in finding.files)


def test_pictures_in_train_and_val_are_told_by_a_deep_check(imagenet):
    shutil.copy(
        imagenet / "train/n01440764/n01440764_0.JPEG", imagenet / "val/n01440764/copied.JPEG"
    )
    found = [finding for finding in check(imagenet, deep=True).findings if finding.files]
    assert "are there twice" in found[0].text
    assert "train/n01440764/n01440764_0.JPEG = val/n01440764/copied.JPEG" in found[0].files


def test_odd_but_readable_images_are_only_noted(imagenet, draw):
    png = draw(imagenet / "train/n01440764/a.png")
    png.rename(png.with_name("n01440764_0.JPEG"))
    Image.new("CMYK", (9, 9)).save(imagenet / "train/n01440764/n01440764_1.JPEG", "JPEG")
    report = check(imagenet, deep=True)
    notes = " ".join(finding.text for finding in report.findings if finding.severity == "note")
    assert not report.errors
    assert "1 PNG files named .jpeg" in notes
    assert "1 CMYK images" in notes


def test_a_folder_of_nothing_known_says_what_is_known(tmp_path):
    assert "is empty; extract a dataset" in errors(tmp_path)
    (tmp_path / "notes").mkdir()
    assert "is no dataset that vitlab knows; it holds notes; known are" in errors(tmp_path)
    assert "there is no folder" in errors(tmp_path / "nowhere")


def test_the_full_ade20k_is_told_apart(tmp_path, draw):
    draw(tmp_path / "ADE20K_2021_17_01/images/ADE/training/home/ADE_train_00000001.jpg")
    assert "full ADE20K with more than 3,000 classes" in errors(tmp_path)


def test_a_link_to_its_own_parent_does_not_trap_the_check(imagenet):
    (imagenet / "train/n01440764/loop").symlink_to(imagenet)
    (imagenet / "train/n01440764/n01440764_9.JPEG").symlink_to("n01440764_9.JPEG")
    found = [file for finding in check(imagenet, deep=True).errors for file in finding.files]
    assert len(found) == 1
    assert "symbolic links" in found[0]


def test_the_command_ends_with_one_for_errors_and_changes_nothing(voc, capsys):
    before = sorted(voc.rglob("*"))
    main(["data", "check", "--root", str(voc)])
    assert "no errors" in capsys.readouterr().out
    (voc / VOC / "SegmentationClass/2007_000032.png").unlink()
    before.remove(voc / VOC / "SegmentationClass/2007_000032.png")
    with pytest.raises(SystemExit) as ended:
        main(["data", "check", "--root", str(voc), "--deep"])
    assert ended.value.code == 1
    assert "2007_000032.png" in capsys.readouterr().out
    assert sorted(voc.rglob("*")) == before
