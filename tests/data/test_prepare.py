"""Archives become the folders they hold, whatever happens on the way."""

import gzip
import hashlib
import io
import os
import shutil
import tarfile
import zipfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from vitlab.cli import main
from vitlab.data import ADE20K, VOC2012, Cityscapes, DataError, ImageNet, SegmentationSquare
from vitlab.data.prepare import prepare
from vitlab.data.preparing import packages, plan, workshop

DEVKIT = "ILSVRC2012_devkit_t12"
TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
VOC, SBD, ADE = "VOCtrainval_11-May-2012.tar", "benchmark.tgz", "ADEChallengeData2016.zip"
FOLDERS = (DEVKIT, "VOCdevkit", "benchmark_RELEASE", "ADEChallengeData2016")
FOLDERS += ("leftImg8bit", "gtFine")
MADE = "VOCdevkit/VOC2012/"  # where masks and a list are made besides


class Killed(BaseException):
    """Like the end of a process: nothing catches it."""


def tree(folder):
    """Content of all files below a folder, hidden ones too, by their path; links are followed."""
    paths = [
        Path(place, name) for place, _, names in os.walk(folder, followlinks=True) for name in names
    ]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def tar(files, mode="w"):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


def zipped(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def below(files, folder):
    return {name[len(folder) :]: data for name, data in files.items() if name.startswith(folder)}


@pytest.fixture
def extracted(imagenet, voc, ade, cityscapes, draw):
    """All data sets as their archives hold them, by path."""
    root = imagenet  # all four lie in one folder
    flat = sorted((root / "val").rglob("*.JPEG"))
    kit = root / DEVKIT / "data"
    kit.mkdir(parents=True)
    names = sorted(path.name for path in (root / "val").iterdir())
    truth = [names.index(path.parent.name) + 1 for path in flat]
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(map(str, truth)))
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")]
    rows = [(number, name, 0) for number, name in enumerate(names, start=1)]
    savemat(kit / "meta.mat", {"synsets": np.array(rows, dtype=kinds).reshape(-1, 1)})
    for number, path in enumerate(flat, start=1):
        path.rename(root / f"val/ILSVRC2012_val_{number:08d}.JPEG")
    for name in names:
        (root / "val" / name).rmdir()
    boundaries = root / "benchmark_RELEASE/dataset"
    (boundaries / "cls").mkdir(parents=True)
    lists = {"train": ["2008_000001", "2007_000032"], "val": ["2007_000033", "2008_000002"]}
    for split, members in lists.items():
        (boundaries / f"{split}.txt").write_text("\n".join(members) + "\n")
        for name in members:
            mask = np.random.default_rng(len(name)).integers(0, 21, (30, 40), dtype=np.uint8)
            savemat(boundaries / f"cls/{name}.mat", {"GTcls": {"Segmentation": mask}})
            draw(root / f"VOCdevkit/VOC2012/JPEGImages/{name}.jpg")
            draw(boundaries / f"img/{name}.jpg")
    files = tree(root)
    shutil.rmtree(root)
    root.mkdir()
    return files


@pytest.fixture
def archives(extracted):
    """The official archives of all data sets, by name."""
    classes = {}
    for name, data in below(extracted, "train/").items():
        classes.setdefault(name.partition("/")[0], {})[name.partition("/")[2]] = data
    parts = {
        name: {path: data for path, data in extracted.items() if path.startswith(f"{name}/")}
        for name in FOLDERS
    }
    return {
        TRAIN: tar({f"{wordnet}.tar": tar(files) for wordnet, files in classes.items()}),
        VAL: tar(below(extracted, "val/")),
        f"{DEVKIT}.tar.gz": tar(parts[DEVKIT], "w:gz"),
        VOC: tar(parts["VOCdevkit"]),
        SBD: tar(parts["benchmark_RELEASE"], "w:gz"),
        ADE: zipped(parts["ADEChallengeData2016"]),
        "leftImg8bit_trainvaltest.zip": zipped(parts["leftImg8bit"] | {"README": b"images"}),
        "gtFine_trainvaltest.zip": zipped(parts["gtFine"] | {"README": b"masks"}),
    }


@pytest.fixture
def place(tmp_path, archives):
    """Make a folder with some of the archives, all by default."""

    def make(name, *wanted):
        root = tmp_path / name
        root.mkdir()
        for archive in wanted or archives:
            (root / archive).write_bytes(archives[archive])
        return root

    return make


@pytest.fixture
def whole(place):
    """A folder with all archives, prepared without any trouble."""
    root = place("whole")
    prepare(root)
    return root


def content(data, split):
    """The decoded samples of a split, and their names."""
    samples = data.samples(split)
    names = [samples.image(index) for index in range(len(samples))]
    if samples.labels is not None:
        return names, samples.labels.tolist(), [samples.files.read(name) for name in names]
    pairs = data.segmented(split, SegmentationSquare(16))
    return names, [[part.tolist() for part in pairs[index]] for index in range(len(pairs))]


def all_content(root):
    """Of all data sets in a folder."""
    splits = {ImageNet: "", ADE20K: "", Cityscapes: "", VOC2012: "trainval"}
    found = {}
    for kind, more in splits.items():
        for split in ("train", "val", *more.split()):
            found[kind.__name__, split] = content(kind(str(root)), split)
    return found


def test_archives_become_the_folders_they_hold_bit_for_bit(whole, extracted, archives, capsys):
    made = tree(whole)
    assert {name: made.pop(name) for name in archives} == archives  # none deleted, none changed
    assert made.pop("README") == b"images"  # of two the first
    masks = [name for name in made if name.startswith(f"{MADE}SegmentationClassAug/")]
    assert len(masks) == 5
    for name in (*masks, f"{MADE}ImageSets/Segmentation/trainaug.txt"):
        del made[name]
    assert made == extracted
    prepare(whole, dry_run=True)
    assert "nothing to do" in capsys.readouterr().out


def test_vitlab_reads_the_same_from_archives_and_from_what_becomes_of_them(place):
    root = place("read")
    packed = all_content(root)
    prepare(root)
    for archive in [*root.glob("*.tar"), *root.glob("*.zip"), *root.glob("*gz")]:
        archive.unlink()
    assert all_content(root) == packed


def test_the_report_says_what_was_done_and_what_comes_next(place, archives):
    report = prepare(place("told"))
    text = str(report)
    assert f"{TRAIN} to {report.target}/train: 12 files, " in text
    assert "SBD: 5 masks to SegmentationClassAug, 5 names to ImageSets/Segmentation/" in text
    for folder in ("", "/VOCdevkit/VOC2012", "/ADEChallengeData2016"):
        assert f"next: vitlab data check --root {report.target}{folder}\n" in f"{text}\n"
    assert report.freeable == sum(map(len, archives.values()))


def test_a_second_time_does_nothing_and_says_so(whole, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in [whole, *whole.rglob("*")]}
    for name in ("replace", "rename", "mkdir", "unlink"):
        monkeypatch.setattr(os, name, None)
    report = prepare(whole)
    assert report.steps == ()
    assert str(report).startswith(f"{whole}: nothing to do\n")
    assert {path: path.stat().st_mtime_ns for path in [whole, *whole.rglob("*")]} == before


def test_a_dry_run_writes_nothing_and_counts_all(place, monkeypatch):
    root = place("dry")
    before = tree(root)
    report = prepare(root, dry_run=True)
    assert tree(root) == before
    assert os.listdir(root.parent) == [root.name]
    assert "12 files" in report.steps[0]
    assert any(step.startswith("SBD: masks to SegmentationClassAug") for step in report.steps)
    assert "would do" in str(report)
    assert "nothing was written" in str(report)


@pytest.mark.parametrize("above", ["ILSVRC/Data/CLS-LOC", "imagenet"])
def test_archives_lie_where_data_sets_do(place, above, extracted):
    root = place(above.replace("/", "_"), TRAIN, VAL)
    (root / above).mkdir(parents=True)
    for archive in (TRAIN, VAL):
        (root / archive).rename(root / above / archive)
    prepare(root)
    assert below(tree(root), f"{above}/train/") == below(extracted, "train/")


def test_an_archive_in_the_folder_it_holds_is_not_nested_into_it(place, extracted):
    root = place("ADEChallengeData2016", ADE)
    prepare(root)
    made = tree(root)
    del made[ADE]
    assert made == below(extracted, "ADEChallengeData2016/")
    assert prepare(root).steps == ()


class Knife:
    """Stands in for a function that moves a file; kills at its n-th call, before or after it."""

    def __init__(self, at, before):
        self.at, self.before, self.calls, self.written = at, before, 0, []

    def over(self, function):
        def move(source, target, *more):
            self.calls += 1
            if self.calls == self.at and self.before:
                if os.path.isfile(source):
                    os.truncate(source, os.path.getsize(source) // 2)  # as if it was being written
                raise Killed
            function(source, target, *more)
            if os.path.basename(source) == workshop.WRITING:
                self.written.append(target)
            if self.calls == self.at:
                raise Killed

        return move


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("at", range(1, 74, 5))
def test_killed_at_any_moment_it_ends_the_same(place, whole, at, before, monkeypatch):
    root, expected, knife = place("killed"), tree(whole), Knife(at, before)
    monkeypatch.setattr(os, "replace", knife.over(os.replace))
    monkeypatch.setattr(os, "rename", knife.over(os.rename))
    with pytest.raises(Killed):
        prepare(root)
    there = {name: data for name, data in tree(root).items() if ".vitlab" not in name}
    assert there.items() <= expected.items()  # no part of a file
    for folder in ("train", "val", "benchmark_RELEASE", "ADEChallengeData2016", "leftImg8bit"):
        assert below(there, f"{folder}/") in ({}, below(expected, f"{folder}/"))
    assert below(there, f"{MADE}SegmentationClassAug/") in (
        {},
        below(expected, f"{MADE}SegmentationClassAug/"),
    )
    prepare(root)
    assert tree(root) == expected
    assert len(knife.written) == len(set(knife.written))  # what was whole is not made again


def test_only_one_process_prepares_a_folder(place):
    root = place("shared", ADE)
    with (
        workshop.alone(root),
        pytest.raises(DataError, match=f"another process prepares {root}; wait"),
    ):
        prepare(root)


def test_an_extraction_that_stopped_is_completed(place, extracted, archives):
    root = place("stopped", TRAIN, ADE)
    with tarfile.open(root / TRAIN) as packed:
        packed.extractall(root / "train", filter="data")
    (root / TRAIN).unlink()
    inner = sorted((root / "train").glob("*.tar"))
    with tarfile.open(inner[0]) as packed:
        packed.extractall(inner[0].with_suffix(""), filter="data")
    partly = sorted(inner[0].with_suffix("").iterdir())
    partly[0].unlink()
    os.truncate(partly[1], 100)
    (root / "ADEChallengeData2016/images").mkdir(parents=True)
    with pytest.raises(DataError, match="an extraction that stopped"):
        ImageNet(str(root)).samples("train")
    report = prepare(root)
    assert "archives of single classes to " in report.steps[0]
    assert below(tree(root), "train/") == below(extracted, "train/")
    assert [path.name for path in sorted((root / "train_archives").iterdir())] == [
        path.name for path in inner
    ]
    assert len(ImageNet(str(root)).samples("train")) == 12
    assert prepare(root).steps == ()


def test_classes_beside_the_archive_of_all_are_completed_once(place, extracted):
    root = place("both", TRAIN)
    with tarfile.open(root / TRAIN) as packed:
        packed.extractall(root / "train", filter="data")
    prepare(root)
    assert below(tree(root), "train/") == below(extracted, "train/")
    assert len(list((root / "train_archives").iterdir())) == 3


def test_files_that_are_not_the_archives_stay_and_are_named(whole):
    changed = next((whole / "train").rglob("*.JPEG"))
    changed.write_bytes(b"smaller")
    report = prepare(whole)
    assert changed.read_bytes() == b"smaller"
    assert f"1 files are not those of {TRAIN}: train/" in report.notes[0]
    assert TRAIN not in {path.name for path in report.spent}


def test_sorted_validation_folders_are_left_alone(place, draw):
    root = place("sorted", VAL, ADE)
    draw(root / "val/n01440764/a.JPEG")
    report = prepare(root)
    assert report.notes == (
        f"{root / VAL} is left alone: {root / 'val'} is sorted into class folders",
    )
    assert [path.name for path in (root / "val").iterdir()] == ["n01440764"]


def test_what_is_extracted_to_another_usual_place_is_left_alone(place, whole, tmp_path):
    root = place("moved", VOC)
    shutil.copytree(whole / "VOCdevkit/VOC2012", root / "VOC2012")
    report = prepare(root)
    assert f"the data set is extracted in {root / 'VOC2012'}" in report.notes[0]
    assert not (root / "VOCdevkit").exists()


@pytest.mark.parametrize("name", [TRAIN, VAL, VOC, SBD, ADE, f"{DEVKIT}.tar.gz"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.6])
def test_a_cut_archive_is_named_and_nothing_is_written(place, name, part):
    root = place("cut", name)
    os.truncate(root / name, int(part * (root / name).stat().st_size))
    before = tree(root)
    with pytest.raises(DataError, match=f"{name} (is no whole archive|holds nothing).*download it"):
        prepare(root)
    assert tree(root) == before


def test_an_archive_cut_between_two_members_is_noticed(place, archives):
    root = place("cut", VAL)
    (root / VAL).write_bytes(archives[VAL].rstrip(b"\0") + bytes(300))
    size = (root / VAL).stat().st_size // 512 * 512
    os.truncate(root / VAL, size)
    with pytest.raises(DataError, match="no whole archive"):
        prepare(root)


def test_damage_that_shows_late_leaves_nothing_half_written(place, archives):
    root = place("late", ADE)
    data = bytearray(archives[ADE])
    data[len(data) // 2] ^= 255
    (root / ADE).write_bytes(data)
    with pytest.raises(DataError, match=f"{ADE} is no whole archive .*download it again"):
        prepare(root)
    assert sorted(os.listdir(root)) == [".vitlab", ADE]
    (root / ADE).write_bytes(archives[ADE])
    prepare(root)
    assert sorted(os.listdir(root)) == ["ADEChallengeData2016", ADE]


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out", ".vitlab/partial/a"])
@pytest.mark.parametrize("pack", [tar, zipped])
def test_a_member_that_leads_out_is_refused(place, name, pack):
    archive = {tar: VOC, zipped: ADE}[pack]
    root = place("evil", archive)
    top = archive.partition("trainval")[0].partition(".")[0]
    (root / archive).write_bytes(pack({f"{top}/a": b"a", name: b"evil"}))
    before = tree(root.parent)
    with pytest.raises(DataError, match=rf"holds a member named '{name}', which leads out"):
        prepare(root)
    assert tree(root.parent) == before


def test_links_and_devices_are_left_out_and_named(place, archives, extracted):
    root = place("links", VOC)
    with tarfile.open(root / VOC, "a") as archive:
        for name, kind in (("link", tarfile.SYMTYPE), ("pipe", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(f"VOCdevkit/{name}")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    report = prepare(root)
    assert f"links and devices in {VOC} are left out: VOCdevkit/link, VOCdevkit/p" in str(report)
    assert below(tree(root), "VOCdevkit/") == below(extracted, "VOCdevkit/")
    assert report.spent == ()


def test_a_full_disk_is_noticed_before_anything_is_written(place, monkeypatch):
    root, usage = place("full"), namedtuple("usage", "total used free")
    before = tree(root)
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda _: usage(9000, 0, 9000))
    with pytest.raises(DataError, match=r"has 9.0 kB free, .* needed; free some, or .*--out DIR"):
        prepare(root)
    assert tree(root) == before


def test_an_error_of_the_disk_says_that_it_goes_on(place, whole, monkeypatch):
    root = place("broken")

    def fail(source, target):
        raise OSError(28, "No space left on device", target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(DataError, match=r"No space .*goes on"):
            prepare(root)
    prepare(root)
    assert tree(root) == tree(whole)


def test_md5_sums_are_compared_if_asked_for(place, archives, monkeypatch):
    root = place("sums", VAL, "gtFine_trainvaltest.zip")
    before, given = tree(root), hashlib.md5(archives[VAL]).hexdigest()
    known = packages.MD5[VAL]
    with pytest.raises(DataError, match=f"sum {given}, the official archive {known}: .*download"):
        prepare(root, verify=True)
    assert tree(root) == before
    monkeypatch.setitem(packages.MD5, VAL, given)
    report = prepare(root, verify=True)
    assert "no md5 sum of theirs is published: gtFine_trainvaltest.zip" in report.notes[0]


def test_another_target_leaves_the_root_as_it_is(place, whole, tmp_path):
    root, out = place("source"), tmp_path / "target"
    before = tree(root)
    prepare(root, out)
    assert tree(root) == before
    expected = {name: data for name, data in tree(whole).items() if name not in before}
    assert tree(out) == expected
    assert prepare(root, out).steps == ()


def test_another_target_links_to_what_is_extracted(place, whole, tmp_path):
    root, out = place("half"), tmp_path / "target"
    for name in ("VOCdevkit", "train", "ADEChallengeData2016", "leftImg8bit"):
        shutil.copytree(whole / name, root / name)
    shutil.rmtree(root / MADE / "SegmentationClassAug")
    (root / MADE / "ImageSets/Segmentation/trainaug.txt").unlink()
    (root / ADE).unlink()
    before = tree(root)
    prepare(root, out)
    assert tree(root) == before
    for link in ("train", f"{MADE}JPEGImages", "ADEChallengeData2016", "leftImg8bit"):
        assert (out / link).is_symlink()
    expected = {name: data for name, data in tree(whole).items() if "/" in name}
    assert {name: data for name, data in tree(out).items() if "/" in name} == expected
    assert prepare(root, out).steps == ()
    assert all_content(out) == all_content(whole)


def test_a_link_makes_room_for_what_is_made_in_it_later(place, whole, archives, tmp_path):
    root, out = place("grows", ADE), tmp_path / "target"
    with tarfile.open(fileobj=io.BytesIO(archives[VOC])) as packed:
        packed.extractall(root, filter="data")
    prepare(root, out)
    assert (out / "VOCdevkit").is_symlink()
    (root / SBD).write_bytes(archives[SBD])
    before = tree(root)
    assert "1 links" not in str(prepare(root, out))
    assert tree(root) == before
    assert below(tree(out), "VOCdevkit/") == below(tree(whole), "VOCdevkit/")
    assert prepare(root, out).steps == ()


def test_what_is_not_whole_is_extracted_to_another_target(place, whole, extracted, tmp_path):
    root, out = place("gone", VOC, SBD, TRAIN), tmp_path / "target"
    for name in ("VOCdevkit", "benchmark_RELEASE", "train"):
        shutil.copytree(whole / name, root / name)
    prepare(root, out)
    assert sorted(path.name for path in out.iterdir() if path.is_symlink()) == sorted(
        ["VOCdevkit", "benchmark_RELEASE", "train"]
    )
    for lost in (
        f"{MADE}JPEGImages/2007_000032.jpg",
        "benchmark_RELEASE/dataset/cls/2008_000001.mat",
    ):
        (root / lost).unlink()
    next((root / "train").rglob("*.JPEG")).unlink()
    before = tree(root)
    prepare(root, out)
    assert tree(root) == before
    assert not any(path.is_symlink() for path in out.rglob("*"))
    assert tree(out / "VOCdevkit") == tree(whole / "VOCdevkit")
    assert prepare(root, out).steps == ()
    prepare(root)  # where it lies, what lacks comes back
    assert {name for name in extracted if name.startswith("VOC")} <= tree(root).keys()
    assert tree(root / "benchmark_RELEASE") == tree(whole / "benchmark_RELEASE")
    assert tree(out / "train") == tree(root / "train") == below(extracted, "train/")


@pytest.mark.parametrize("at", range(1, 52, 4))
def test_killed_with_another_target_it_ends_the_same(place, whole, tmp_path, at, monkeypatch):
    root, out, knife = place("source", *(TRAIN, SBD, ADE)), tmp_path / "target", Knife(at, False)
    for name in ("VOCdevkit", "val", "leftImg8bit", "gtFine"):
        shutil.copytree(whole / name, root / name)
    shutil.rmtree(root / MADE / "SegmentationClassAug")
    (root / MADE / "ImageSets/Segmentation/trainaug.txt").unlink()
    before = tree(root)
    with monkeypatch.context() as patch:
        for name in ("replace", "rename", "symlink"):
            patch.setattr(os, name, knife.over(getattr(os, name)))
        with pytest.raises(Killed):
            prepare(root, out)
    prepare(root, out)
    assert tree(root) == before
    expected = {name: data for name, data in tree(whole).items() if "/" in name}
    assert tree(out) == {name: data for name, data in expected.items() if DEVKIT not in name}
    assert prepare(root, out).steps == ()


def test_a_folder_that_cannot_be_written_names_the_way_out(place, monkeypatch):
    root = place("locked", ADE)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(DataError, match=f"{root} cannot be written .*; .* with --out DIR"):
        prepare(root)


def test_a_folder_without_data_says_what_to_put_there(tmp_path):
    with pytest.raises(DataError, match=f"holds neither .*: .*{TRAIN}"):
        prepare(tmp_path)
    with pytest.raises(DataError, match=r"there is no folder .*nowhere; give the one"):
        prepare(tmp_path / "nowhere")


def test_an_archive_of_another_content_is_refused(place):
    root = place("other", VOC)
    (root / VOC).write_bytes(tar({"something/else": b""}))
    with pytest.raises(DataError, match=r"holds nothing of VOCdevkit; .*download it again"):
        prepare(root)


def test_an_archive_that_a_browser_has_unpacked_is_read(place, archives, extracted):
    root = place("plain", SBD)
    (root / SBD).write_bytes(gzip.decompress(archives[SBD]))
    prepare(root)
    assert below(tree(root), "benchmark_RELEASE/") == below(extracted, "benchmark_RELEASE/")


def test_the_command_prepares(place, capsys):
    root = place("command", ADE)
    main(["data", "prepare", "--root", str(root), "--dry_run", "true"])
    assert "would do" in capsys.readouterr().out
    main(["data", "prepare", "--root", str(root)])
    assert (root / "ADEChallengeData2016").is_dir()
