"""Data sets in the archives of their authors are the same as extracted."""

import gc
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from refusals import refused

from vitlab.data import (
    ADE20K,
    VOC2012,
    Cityscapes,
    DataError,
    ImageNet,
    MultiCrop,
    VisionDataModule,
)

VIEWS = MultiCrop(16, 8, 2)
TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
VOC, ADE = "VOCtrainval_11-May-2012.tar", "ADEChallengeData2016.zip"
SCENES, FINE = "leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"
KINDS: dict[str, type[VisionDataModule]] = {
    "imagenet": ImageNet,
    "voc": VOC2012,
    "ade": ADE20K,
    "ade_deflated": ADE20K,
    "cityscapes": Cityscapes,
}


def pack_train(pack, source: Path, target: Path) -> None:
    """One archive of an archive for each class."""
    inner = {}
    for folder in sorted((source / "train").iterdir()):
        pack.tar(target / "inner", pack.contents(folder))
        inner[f"{folder.name}.tar"] = (target / "inner").read_bytes()
    (target / "inner").unlink()
    pack.tar(target / TRAIN, inner)


@pytest.fixture
def packed(tmp_path_factory, pack, flatten) -> Callable[[str, Path], Path]:
    """Pack an extracted data set as its authors do; returns the folder of the archives."""

    def of(kind: str, source: Path) -> Path:
        target = tmp_path_factory.mktemp("packed")
        if kind == "imagenet":
            flatten(source)
            pack_train(pack, source, target)
            pack.tar(target / VAL, pack.contents(source / "val"))
            with tarfile.open(target / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as kit:
                kit.add(source / "ILSVRC2012_devkit_t12", "ILSVRC2012_devkit_t12")
        elif kind == "voc":
            with tarfile.open(target / VOC, "w") as archive:
                archive.add(source / "VOCdevkit", "VOCdevkit")  # with its folders
        elif kind == "cityscapes":
            for name in (SCENES, FINE):
                folder = name.partition("_")[0]
                about = {"README": b"read me", "license.txt": b"terms"}
                pack.zip(target / name, pack.contents(source / folder, f"{folder}/") | about)
        else:
            packing = zipfile.ZIP_DEFLATED if kind == "ade_deflated" else zipfile.ZIP_STORED
            pack.zip(target / ADE, pack.contents(source), packing)
        return target

    return of


def both(kind: str, request, packed) -> tuple[Path, Path]:
    """Folders of the extracted data set and of its archives."""
    source = request.getfixturevalue(kind.partition("_")[0])
    return source, packed(kind, source)


def data_of(kind: str, root: Path, **changes) -> VisionDataModule:
    arguments = {"global_batch_size": 1, "transform": VIEWS, "num_workers": 0} | changes
    return KINDS[kind](str(root), **arguments)


def contents_of(data: VisionDataModule) -> list[list]:
    """Samples of each split, with the contents of their files."""
    found: list[list] = [[data.classes, data.mask_values]]
    for split in (split for split in data.splits if split != "trainaug"):
        samples = data.samples(split)
        names = [samples.image(i) for i in range(len(samples))]
        if samples.masks is not None:
            names += [samples.mask(i) for i in range(len(samples))]
        labels = None if samples.labels is None else samples.labels.tolist()
        found.append([split, labels, *((name, samples.files.read(name)) for name in names)])
    return found


def batches_of(data: VisionDataModule, epoch: int = 0, start: str | None = None) -> list[tuple]:
    """Contents of the batches of an epoch."""
    loader = data.train_dataloader()
    loader.batch_sampler.set_epoch(epoch)
    if start:
        loader.multiprocessing_context = start
    found = [
        (batch.unreadable, str(batch.labels), *(stack.tolist() for stack in batch.views))
        for batch in loader
    ]
    if data.num_workers:
        del loader
        gc.collect()  # ends the workers here, not in a later test
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_archives_hold_the_samples_of_the_folder(request, packed, cache, kind):
    source, target = both(kind, request, packed)
    before = sorted(target.rglob("*"))
    assert contents_of(data_of(kind, source)) == contents_of(data_of(kind, target))
    assert sorted(target.rglob("*")) == before  # nothing is written beside what is small
    assert not cache.exists()


@pytest.mark.parametrize(
    ("kind", "workers", "start"),
    [
        ("imagenet", 2, None),
        ("ade_deflated", 0, None),
        # the new processes import everything anew
        pytest.param("imagenet", 2, "spawn", marks=pytest.mark.slow),
    ],
)
def test_archives_give_the_batches_of_the_folder(request, packed, kind, workers, start):
    source, target = both(kind, request, packed)
    extracted = data_of(kind, source)
    data = data_of(kind, target, num_workers=workers)
    data.samples("val")  # has the archive opened before the workers start
    data.samples("train").files.read(data.samples("train").image(0))
    for epoch in (0, 1):
        assert batches_of(extracted, epoch) == batches_of(data, epoch, start)


def test_archives_of_all_classes_in_the_training_folder_are_read(imagenet, pack):
    expected = contents_of(data_of("imagenet", imagenet))
    for folder in sorted((imagenet / "train").iterdir()):
        pack.tar(folder.with_suffix(".tar"), pack.contents(folder))
        shutil.rmtree(folder)
    assert contents_of(data_of("imagenet", imagenet)) == expected


@pytest.mark.parametrize("kind", ["voc", "ade", "cityscapes", "imagenet"])
def test_an_extracted_folder_is_used_rather_than_the_archive_beside_it(request, packed, kind):
    source, target = both(kind, request, packed)
    for archive in target.glob("*.*"):
        if not archive.name.endswith(".gz"):
            shutil.copytree(source, target, dirs_exist_ok=True)
            archive.write_bytes(b"not looked at")
    assert contents_of(data_of(kind, source)) == contents_of(data_of(kind, target))


@pytest.mark.parametrize(
    ("kind", "name"),
    [("imagenet", TRAIN), ("imagenet", "ILSVRC2012_devkit_t12.tar.gz"), ("voc", VOC), ("ade", ADE)],
)
def test_a_cut_archive_is_named(request, packed, kind, name):
    _, target = both(kind, request, packed)
    archive = target / name
    archive.write_bytes(archive.read_bytes()[: 300 if name.endswith("gz") else 3000])
    with refused(name, DataError):
        data_of(kind, target).samples("val")


def test_a_damaged_member_is_replaced_by_the_next_image_and_named(ade, packed):
    target = packed("ade", ade)
    content = bytearray((target / ADE).read_bytes())
    name = "images/training/ADE_train_00000001.jpg"
    content[content.index(name.encode()) + 200] ^= 0xFF
    (target / ADE).write_bytes(bytes(content))
    ((unreadable, *_),) = batches_of(data_of("ade", target, global_batch_size=2))
    assert len(unreadable) == 1
    assert f"{ADE}:ADEChallengeData2016/{name}" in unreadable[0]
    assert "wrong checksum" in unreadable[0]
