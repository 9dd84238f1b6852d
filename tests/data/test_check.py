"""Each known fault of a dataset has its own message; a sound one has none."""

import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image
from refusals import check_wording

from vitlab.cli import main
from vitlab.data import ADE20K, VOC2012, Cityscapes, DataError, Folder, ImageNet, SegmentationSquare
from vitlab.data.check import check

VOC, ADE = "VOCdevkit/VOC2012", "ADEChallengeData2016"
KINDS = {
    "imagenet": (ImageNet, "ImageNet, extracted, val in class folders"),
    "flat_imagenet": (ImageNet, "ImageNet, extracted, val flat"),
    "voc": (VOC2012, "VOC2012, extracted, without SBD"),
    "ade": (ADE20K, "ADE20K, extracted"),
    "cityscapes": (Cityscapes, "Cityscapes, extracted, labelIds"),
    "dense_folder": (Folder, "Folder, extracted, images and masks"),
    "tmp_path": (Folder, ""),
}


def errors(root) -> str:
    return "\n".join(finding.text for finding in check(root).errors)


def load(kind, root) -> None:
    """Read all samples of a dataset in training and validation."""
    data = kind(str(root))
    for split in ("train", "val"):
        if data.samples(split).masks is not None:
            dataset = data.segmentation_dataset(split, SegmentationSquare(16))
            dataset.check()
            for index in range(len(dataset)):
                dataset[index]


@pytest.fixture
def flat_imagenet(imagenet, flatten):
    flatten(imagenet)
    return imagenet


@pytest.mark.parametrize("kind", [kind for kind, (_, name) in KINDS.items() if name])
def test_a_sound_dataset_is_recognized_and_has_no_error(kind, request, draw, drawn):
    root = request.getfixturevalue(kind)
    if kind == "ade":
        draw(root / ADE / "images/ADE/training/home/a.jpg")  # another folder is no fault
    for deep in (False, True):
        report = check(root, deep)
        assert report.dataset == KINDS[kind][1]
        assert not report.errors
        assert {"train", "val"} <= set(report.splits)
    drawn_alike = drawn / {"voc": "VOCdevkit", "ade": ADE}.get(kind, kind)
    assert not drawn_alike.exists() or not check(drawn_alike, deep=True).errors
    assert "holds several datasets: ImageNet in" in errors(drawn)


def rename(old, new):
    return lambda root: (root / old).rename(root / new)


def numbered(split):
    """Replace the names of the class folders by their numbers."""
    return lambda root: [
        folder.rename(root / split / str(number))
        for number, folder in enumerate(sorted((root / split).iterdir()), start=1)
    ]


def remove(place):
    def act(root):
        for path in root.glob(place):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return act


def change(place, made):
    """Replace every image at the place by what is made of it."""

    def act(root):
        for path in root.glob(place):
            with Image.open(path) as image:
                changed = made(image)
            changed.save(path)

    return act


def values(place, found):
    return change(place, lambda mask: Image.fromarray(np.resize(np.uint8(found), mask.size[::-1])))


def add_line(place, line):
    return lambda root: (root / place).write_text(f"{(root / place).read_text()}{line}\n")


def copy(old, new):
    def act(root):
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(next(root.glob(old)), root / new)

    return act


def link(place, target):
    return lambda root: (root / place).symlink_to(target)


def both(*acts):
    return lambda root: [act(root) for act in acts]


def in_another_order(root):
    """Validation images in the folders of other classes than the devkit's, which lies beside."""
    names = ["n01440764", "n02102040", "n03000684"]
    for number, path in enumerate(sorted((root / "val").iterdir())):
        folder = root / "val" / names[(number // 2 + 1) % 3]
        folder.mkdir(exist_ok=True)
        path.rename(folder / path.name)


def half_extracted(root):
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as packed:
        for name in ("n01440764", "n02102040", "n03000684", "n03888257"):
            packed.addfile(tarfile.TarInfo(f"{name}.tar"))


def leftover(root):
    with tarfile.open(root / "train/n04000000.tar", "w") as packed:
        packed.add(root / "train/n01440764/n01440764_0.JPEG", "n04000000_0.JPEG")


def relabeled(name, place="*"):
    def act(root):
        for path in sorted(root.glob(f"gtFine/{place}/*/*.png")):
            path.rename(path.with_name(path.name.replace("labelIds", name)))

    return act


SECOND = "aachen/aachen_000001_000019"
MASK = f"{VOC}/SegmentationClass/*_000032.png"
LISTS = f"{VOC}/ImageSets/Segmentation"
FULL_ADE = "ADE20K_2021_17_01/images/ADE/training"
FAULTS = {
    "imagenet": {
        "val-folders-numbered": numbered("val"),
        "train-folders-numbered": numbered("train"),
        "fewer-classes-than-the-archive": half_extracted,
        "archive-without-class-folder": leftover,
        "stray-folder": copy("train/*/*0.JPEG", "train/misc/a.JPEG"),
        "class-only-in-val": copy("val/*/*0.JPEG", "val/n9/a.JPEG"),
        "image-in-the-wrong-class": copy("train/n01440764/*", "train/n02102040/n01440764_9.JPEG"),
        "empty-class": remove("train/n02102040/*"),
        "val-that-is-no-folder": both(remove("val"), link("val", "val")),
    },
    "flat_imagenet": {  # of validation images in one folder, with the devkit
        "val-in-another-order": in_another_order,
        "val-without-labels": remove("ILSVRC2012_devkit_t12"),
        "missing-image": remove("val/*_00000004.JPEG"),
        "missing-class": remove("train/n02102040"),
        "folders-and-images": lambda root: (root / "val/n02102040").mkdir(),
        "kaggle-list-cut": both(
            remove("ILSVRC2012_devkit_t12"),
            lambda root: (root / "LOC_val_solution.csv").write_text("Id,Boxes\na,n0 1\nb,"),
        ),
    },
    "voc": {
        "colored-mask": change(MASK, lambda mask: mask.convert("RGB")),
        "value-21": values(MASK, [0, 21]),
        "mask-of-another-size": change(MASK, lambda mask: mask.resize((20, 15))),
        "mask-missing": remove(MASK),
        "image-missing": remove(f"{VOC}/JPEGImages/*_000032.jpg"),
        "val-image-in-train": add_line(f"{LISTS}/train.txt", "2007_000033"),
        "image-listed-twice": add_line(f"{LISTS}/train.txt", "2007_000032"),
        "list-that-is-no-text": lambda root: (root / LISTS / "val.txt").write_bytes(b"\xff\xfex"),
        "half-an-SBD": lambda root: (root / "benchmark_RELEASE").mkdir(),
        "no-masks": remove(f"{VOC}/SegmentationClass"),
        "voc2007": rename(VOC, "VOCdevkit/VOC2007"),
    },
    "ade": {
        "labels-reduced-before": values(f"{ADE}/annotations/training/*.png", [0, 149, 255]),
        "image-missing": remove(f"{ADE}/images/training/*1.jpg"),
        "no-annotations": remove(f"{ADE}/annotations"),
        "another-name": rename(ADE, "scenes"),
    },
    "cityscapes": {
        "train-ids-named-labelIds": values("gtFine/*/*/*labelIds.png", [0, 5, 18, 255]),
        "one-mask-of-train-ids": both(
            copy("leftImg8bit/train/*/*.png", f"leftImg8bit/train/{SECOND}_leftImg8bit.png"),
            copy("gtFine/train/*/*.png", f"gtFine/train/{SECOND}_gtFine_labelIds.png"),
            values(f"gtFine/train/{SECOND}_gtFine_labelIds.png", [0, 7, 18, 255]),
        ),
        "labelIds-named-train-ids": relabeled("labelTrainIds"),
        "both-kinds-of-ids": relabeled("labelTrainIds", "train"),
        "no-val-images": remove("leftImg8bit/val/*/*.png"),
        "no-val-image-folder": remove("leftImg8bit/val"),
        "city-without-images": copy(
            "gtFine/train/*/*", "gtFine/train/bochum/bochum_000000_000019_gtFine_labelIds.png"
        ),
        "no-gtFine": remove("gtFine"),
        "only-gtCoarse": rename("gtFine", "gtCoarse"),
        "only-colored-masks": relabeled("color"),
    },
    "dense_folder": {
        "image-missing": remove("images/train/0.jpg"),
        "no-class-names": remove("classes.json"),
    },
    "tmp_path": {
        "an empty folder": lambda root: None,
        "no folder": lambda root: root.rmdir(),
        "other files": lambda root: (root / "notes").mkdir(),
        "full ADE20K": lambda root: (root / FULL_ADE).mkdir(parents=True),
    },
}
HARMLESS = {  # what is there can be read
    "imagenet fewer-classes-than-the-archive",
    "imagenet image-in-the-wrong-class",
    "voc half-an-SBD",
    "ade image-missing",
    "cityscapes city-without-images",
    "dense_folder image-missing",
}


@pytest.mark.parametrize(
    ("kind", "fault"), [(kind, fault) for kind, faults in FAULTS.items() for fault in faults]
)
def test_each_fault_has_its_message_and_is_refused_in_loading(kind, fault, request):
    root = request.getfixturevalue(kind)
    FAULTS[kind][fault](root)
    found = errors(root)
    assert found
    check_wording(found.replace(str(root), "FOLDER"))
    if f"{kind} {fault}" in HARMLESS:
        load(KINDS[kind][0], root)
    else:
        with pytest.raises(DataError) as refusal:
            load(KINDS[kind][0], root)
        check_wording(f"{refusal.value.field}: {refusal.value}")


@pytest.mark.parametrize(
    ("kind", "given"), [("cityscapes", "gtFine"), ("voc", f"{VOC}/JPEGImages"), ("imagenet", "..")]
)
def test_the_folder_to_give_is_named_where_it_is_another(kind, given, request, tmp_path_factory):
    alone = tmp_path_factory.mktemp("alone") / "set"  # not beside the sets of other tests
    root = request.getfixturevalue(kind).rename(alone)
    assert f"{KINDS[kind][0].__name__} lies in {root}" in errors(root / given)


def test_a_deep_check_sees_all_files_and_the_command_ends_with_one_for_errors(
    imagenet, draw, capsys, pack
):
    for i in range(100):
        draw(imagenet / f"train/n01440764/n01440764_{i}.JPEG", size=(8, 8), seed=i)
    main(["data", "check", "--root", str(imagenet)])
    assert "errors: 0" in capsys.readouterr().out
    broken = imagenet / "train/n01440764/n01440764_18.JPEG"
    broken.write_bytes(broken.read_bytes()[:-40])
    ((listed,),) = [finding.files for finding in check(imagenet, deep=True).errors]
    assert str(broken) in listed
    before = pack.contents(imagenet)
    with pytest.raises(SystemExit) as ended:
        main(["data", "check", "--root", str(imagenet), "--deep"])
    assert ended.value.code == 1
    assert broken.name in capsys.readouterr().out
    assert pack.contents(imagenet) == before


FIRST = "train/n01440764/n01440764_0.JPEG"
NOTED = {
    "PNG-named-JPEG": lambda root: Image.new("RGB", (9, 9)).save(root / FIRST, "PNG"),
    "CMYK": lambda root: Image.new("CMYK", (9, 9)).save(root / FIRST),
    "link-to-itself": link("train/n01440764/n01440764_9.JPEG", "n01440764_9.JPEG"),
    "empty-image": lambda root: (root / "val/n01440764/n01440764_0.JPEG").write_bytes(b""),
    "no-val": remove("val"),
}


@pytest.mark.parametrize("kind", NOTED)
def test_a_deep_check_reports_odd_bad_and_repeated_images(imagenet, kind):
    NOTED[kind](imagenet)
    found = [(each.severity, each.text, *each.files) for each in check(imagenet, True).findings]
    check_wording(str(found).replace(str(imagenet), "FOLDER"))
