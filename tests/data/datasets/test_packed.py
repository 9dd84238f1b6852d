"""Data sets in the archives of their authors are the same as extracted."""

import gc
import io
import shutil
import tarfile
import zipfile

import pytest
from refusals import refused

from vitlab.data import ADE20K, VOC2012, Cityscapes, DataError, ImageNet, MultiCrop

TRAIN, KIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_devkit_t12"
VOC, ADE = "VOCtrainval_11-May-2012.tar", "ADEChallengeData2016.zip"
KINDS = {
    "imagenet": ImageNet,
    "voc": VOC2012,
    "ade": ADE20K,
    "ade_deflated": ADE20K,
    "cityscapes": Cityscapes,
}


@pytest.fixture
def both(tmp_path_factory, request, pack, flatten):
    """Folders of an extracted data set, and of its archives as its authors pack them."""

    def of(kind: str):
        source = request.getfixturevalue(kind.partition("_")[0])
        target = tmp_path_factory.mktemp("packed")
        if kind == "imagenet":
            flatten(source)
            inner = {  # one archive of an archive for each class
                f"{folder.name}.tar": pack.tar(io.BytesIO(), pack.contents(folder)).getvalue()
                for folder in sorted((source / "train").iterdir())
            }
            pack.tar(target / TRAIN, inner)
            pack.tar(target / "ILSVRC2012_img_val.tar", pack.contents(source / "val"))
            with tarfile.open(target / f"{KIT}.tar.gz", "w:gz") as kit:
                kit.add(source / KIT, KIT)
        elif kind == "voc":
            with tarfile.open(target / VOC, "w") as archive:
                archive.add(source / "VOCdevkit", "VOCdevkit")  # with its folders
        elif kind == "cityscapes":
            for folder in ("leftImg8bit", "gtFine"):
                members = pack.contents(source / folder, f"{folder}/") | {"README": b"read me"}
                pack.zip(target / f"{folder}_trainvaltest.zip", members)
        else:
            packing = zipfile.ZIP_DEFLATED if kind == "ade_deflated" else zipfile.ZIP_STORED
            pack.zip(target / ADE, pack.contents(source), packing)
        return source, target

    return of


def data_of(kind, root, **changes):
    changes = {"global_batch_size": 1, "transform": MultiCrop(16, 8, 2), "num_workers": 0} | changes
    return KINDS[kind](str(root), **changes)


def contents_of(kind, root) -> list[list]:
    """Samples of each split, with the contents of their files."""
    data = data_of(kind, root)
    found: list[list] = [[data.classes, data.mask_values]]
    for split in ("train", "val"):
        samples = data.samples(split)
        names = [samples.image(i) for i in range(len(samples))]
        if samples.masks is not None:
            names += [samples.mask(i) for i in range(len(samples))]
        found.append([split, str(samples.labels), *((n, samples.files.read(n)) for n in names)])
    return found


def batches_of(data, start=None) -> list[tuple]:
    """Contents of the batches of an epoch."""
    loader = data.train_dataloader()
    if start:
        loader.multiprocessing_context = start
    found = [
        (batch.unreadable, str(batch.labels), *(stack.tolist() for stack in batch.views))
        for batch in loader
    ]
    del loader
    gc.collect()  # ends the workers here, not in a later test
    return found


@pytest.mark.slow  # the new processes import everything anew
def test_new_processes_read_archives(both):
    source, target = both("imagenet")
    data = data_of("imagenet", target, num_workers=2)
    assert batches_of(data_of("imagenet", source)) == batches_of(data, "spawn")


@pytest.mark.parametrize("kind", KINDS)
def test_archives_hold_the_samples_of_the_folder_and_yield_to_it(both, cache, kind):
    source, target = both(kind)
    before = sorted(target.rglob("*"))
    expected = contents_of(kind, source)
    assert contents_of(kind, target) == expected
    if kind == "imagenet":
        data = data_of(kind, target, num_workers=2)
        data.samples("train").files.read(data.samples("train").image(0))  # opens the archive
        assert batches_of(data_of(kind, source)) == batches_of(data)
    assert sorted(target.rglob("*")) == before  # nothing is written beside what is small
    assert not cache.exists()
    shutil.copytree(source, target, dirs_exist_ok=True)
    for archive in [*target.glob("*.tar"), *target.glob("*.zip")]:
        archive.write_bytes(b"not looked at")
    assert contents_of(kind, target) == expected


@pytest.mark.parametrize(("kind", "name"), [("imagenet", f"{KIT}.tar.gz"), ("ade", ADE)])
def test_a_cut_archive_is_named(both, kind, name):
    _, target = both(kind)
    content = (target / name).read_bytes()
    (target / name).write_bytes(content[: 300 if name.endswith("gz") else 3000])
    with refused(name, DataError):
        data_of(kind, target).samples("val")
