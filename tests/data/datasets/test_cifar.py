"""CIFAR's own files, drawn small; a pickle is never trusted."""

import pickle
import shutil
import struct
import subprocess
import tarfile

import numpy as np
import pytest
from refusals import refused

from vitlab.data import CIFAR10, CIFAR100, DataError, ImageNet, ResizeRandomCrop
from vitlab.data.check import check
from vitlab.data.datasets.cifar import unpickled

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
COUNT = 6


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def opcodes(value, kind: str = "u1") -> bytes:
    """The opcodes of a value as Python 2 pickled it in 2009: protocol 2, a str where data are."""
    match value:
        case int():
            return number(value)
        case str() | bytes():
            text = value if isinstance(value, bytes) else value.encode()
            return b"T" + struct.pack("<i", len(text)) + text
        case dict():
            return b"}(" + b"".join(opcodes(x, kind) for kv in value.items() for x in kv) + b"u"
        case list():
            return b"](" + b"".join(map(opcodes, value)) + b"e"
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
    made += number(0) + b"\x85" + opcodes("b") + b"\x87R"  # (ndarray, (0,), "b")
    described = b"cnumpy\ndtype\n" + opcodes(kind) + number(0) + number(1) + b"\x87R"
    described += b"(" + number(3) + opcodes("|") + b"NNN" + number(-1) * 2 + number(0) + b"tb"
    state = b"(" + number(1) + b"".join(map(number, value.shape)) + b"\x86" + described + b"\x89"
    return made + state + opcodes(value.tobytes()) + b"tb"


def pickled(kind: str = "u1", **entries) -> bytes:
    """A file of a dictionary; arrays are of this kind."""
    return b"\x80\x02" + opcodes(entries, kind) + b"."


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (5 * COUNT, 3072), dtype=np.uint8)


@pytest.fixture
def cifar10(tmp_path, pixels):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for index, name in enumerate(names):
        part = pixels[index * COUNT % len(pixels) :][:COUNT]
        labels = [(index + row) % 10 for row in range(COUNT)]
        content = pickled(data=part, labels=labels, batch_label="1 of 5", filenames=["a", "b"])
        (folder / name).write_bytes(content)
    (folder / "batches.meta").write_bytes(pickled(label_names=NAMES, num_vis=3072))
    return folder


@pytest.fixture
def cifar100(tmp_path, pixels):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name, part in (("train", pixels), ("test", pixels[:COUNT])):
        fine = [(7 * row) % 100 for row in range(len(part))]
        coarse = [value // 5 for value in fine]
        (folder / name).write_bytes(pickled(data=part, fine_labels=fine, coarse_labels=coarse))
    (folder / "meta").write_bytes(pickled(fine_label_names=[f"kind {i}" for i in range(100)]))
    return folder


def packed(folder, name):
    archive = folder.parent / name
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, folder.name)
    shutil.rmtree(folder)
    return archive


def found(root, severity="error"):
    return "\n".join(each.text for each in check(root).findings if each.severity == severity)


@pytest.mark.parametrize("where", ["folder", "above", "archive"])
def test_images_and_labels_are_those_of_the_files(cifar10, pixels, where):
    root = cifar10 if where == "folder" else cifar10.parent
    if where == "archive":
        packed(cifar10, "cifar-10-python.tar.gz")
    data = CIFAR10(
        str(root), global_batch_size=4, transform=ResizeRandomCrop(32, 32, flip=0), num_workers=0
    )
    assert data.classes == tuple(NAMES)
    assert (len(data.samples("train")), len(data.samples("val"))) == (30, 6)
    assert data.samples("train").labels[:8].tolist() == [0, 1, 2, 3, 4, 5, 1, 2]
    probed = data.classification_dataset("train", 32, crop=1.0)
    for row in (0, 7, 29):
        image, label = probed[row]
        assert image.flatten().tolist() == pixels[row].tolist()
        assert label == data.samples("train").labels[row]
    assert "cifar" in data.samples("train").files.where("00003.ppm")
    batch = next(iter(data.train_dataloader()))
    assert batch.views[0].shape == (1, 4, 3, 32, 32)
    assert batch.labels.shape == (4,)


def test_cifar_100_has_the_fine_labels_and_files_of_python_3_are_read(cifar10, cifar100, pixels):
    for protocol in (2, 4):
        content = pickle.dumps({"data": pixels[:COUNT], "labels": [1] * COUNT}, protocol=protocol)
        (cifar10 / "data_batch_2").write_bytes(content)
        assert CIFAR10(str(cifar10)).samples("train").labels[6:12].tolist() == [1] * COUNT
    packed(cifar100, "cifar-100-python.tar.gz")
    data = CIFAR100(str(cifar100.parent))
    assert data.num_classes == 100
    assert data.samples("train").labels[:3].tolist() == [0, 7, 14]
    assert len(data.samples("val")) == COUNT
    for kind, other in ((CIFAR100, CIFAR10), (CIFAR10, CIFAR100)):
        if kind is CIFAR10:
            (cifar10 / "test_batch").rename(cifar10 / "aside")
        with pytest.raises(DataError, match=f"it looks like {other.__name__}: use the class"):
            kind(str(cifar10 if kind is CIFAR100 else cifar100.parent)).samples("train")


class Evil:
    def __reduce__(self):
        return print, ("owned",)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Evil()),
        pickle.dumps({"data": Evil(), "labels": []}),
        b"\x80\x02cos\nsystem\n" + opcodes("true") + b"\x85R.",
        b"\x80\x02cnumpy\nload\n" + opcodes("x") + b"\x85R.",
        b"\x80\x02c_codecs\nencode\n" + opcodes("x") + opcodes("zlib") + b"\x86R.",
        b"\x80\x02cnumpy\ndtype\n}(" + opcodes("name") + opcodes("x") + b"ub.",
        b"\x80\x02cnumpy\nndarray\n" + number(2**30) + b"\x85\x85R.",
        b"\x80\x02}(U",
        b"",
    ],
)
def test_a_pickle_with_anything_but_arrays_is_refused_unrun(cifar10, content, capsys):
    with pytest.raises(Exception):  # noqa: B017, PT011, damage fails in any way
        unpickled(content)
    (cifar10 / "data_batch_3").write_bytes(content)
    with refused("data_batch_3", DataError, wording=False) as caught:
        CIFAR10(str(cifar10)).samples("train")
    assert "is refused: it is damaged, or holds more than numbers" in str(caught.value)
    assert "owned" not in capsys.readouterr().out


ROWS = np.zeros((6, 3072), np.uint8)
WRONG = {
    "a missing file": None,
    "a list": b"\x80\x02].",
    "no data": pickled(labels=[1]),
    "short rows": pickled(data=ROWS[:2, :5], labels=[1, 2]),
    "objects": pickled("O8", data=ROWS, labels=[]),
    "cut rows": pickled(data=ROWS, labels=[]).replace(
        number(6) + number(3072), number(9) + number(3072)
    ),
    "fewer labels": pickled(data=ROWS, labels=[1] * 5),
    "other labels": pickled(data=ROWS, labels=[10] * 6),
}


@pytest.mark.parametrize("fault", WRONG)
def test_damaged_files_are_refused_with_their_name(cifar10, fault):
    (cifar10 / "data_batch_3").unlink()
    if WRONG[fault] is not None:
        (cifar10 / "data_batch_3").write_bytes(WRONG[fault])
    with refused("data_batch_3", DataError):
        CIFAR10(str(cifar10)).samples("train")


def test_missing_names_a_cut_archive_and_a_missing_root_are_refused(cifar10, tmp_path):
    meta = (cifar10 / "batches.meta").read_bytes()
    (cifar10 / "batches.meta").write_bytes(pickled(num_vis=1))
    with refused("batches.meta", DataError):
        CIFAR10(str(cifar10)).samples("train")
    (cifar10 / "batches.meta").write_bytes(meta)
    archive = packed(cifar10, "cifar-10-python.tar.gz")
    archive.write_bytes(archive.read_bytes()[:2000])
    with refused(archive.name, DataError):
        CIFAR10(str(tmp_path)).samples("train")
    archive.unlink()
    with refused("data.root", DataError):
        CIFAR10(str(tmp_path)).samples("train")


def test_check_recognizes_both_sets_wherever_they_lie(cifar10, cifar100, tmp_path):
    assert "holds several datasets: CIFAR10 in" in found(tmp_path)
    for folder, name, archive in (
        (cifar10, "CIFAR10", "cifar-10-python.tar.gz"),
        (cifar100, "CIFAR100", "cifar-100-python.tar.gz"),
    ):
        alone = tmp_path / name
        alone.mkdir()
        folder = folder.rename(alone / folder.name)
        for root in (folder, alone):
            report = check(root, deep=True)
            assert report.dataset == f"{name}, extracted"
            counts = {split: text.split()[0] for split, text in report.splits.items()}
            assert counts == {"train": "30", "val": "6"}
            assert not report.errors
        packed(folder, archive)
        report = check(alone)
        assert report.dataset == f"{name}, in archives"
        assert not report.errors


def test_check_finds_the_faults_of_cifar(cifar10, cifar100, tmp_path):
    warnings = found(cifar10, "warning")
    assert "7 files of" in warnings
    assert "not the original ones by their MD5: data_batch_1" in warnings
    assert "train holds 30 of 50,000 images" in warnings
    (cifar100 / "meta").write_bytes(pickled(fine_label_names=["a"] * 20))
    assert "names 20 classes, not 100" in found(cifar100)
    deep = tmp_path / "a/cifar-10-batches-py"
    deep.mkdir(parents=True)
    inner = cifar10.rename(deep / "cifar-10-batches-py")  # extracted twice
    assert f"CIFAR10 lies in {inner}, not in {deep.parent}" in found(deep.parent)
    for name, message in (
        ("data_batch_3", "lacks data_batch_3; extract cifar-10-python.tar.gz again"),
        ("data_batch_1", "looks like CIFAR10, but lacks data_batch_1"),
    ):
        (inner / name).unlink()
        assert message in found(inner)
    for name, message in (
        ("data_batch_1.bin", "binary or the Matlab version of CIFAR; vitlab reads the Python"),
        ("cifar-100-python.tar.gz", "is no whole archive"),
    ):
        (tmp_path / name[:5]).mkdir()
        (tmp_path / name[:5] / name).write_bytes(b"\x1f\x8b")
        assert message in found(tmp_path / name[:5])


def test_tiny_imagenet_is_named_and_its_remedy_works(tmp_path, draw):
    names, root = ("n01443537", "n01882714"), tmp_path / "tiny"
    for number, name in enumerate(names):
        draw(root / f"train/{name}/images/{name}_0.JPEG")
        draw(root / f"val/images/val_{number}.JPEG")
    rows = "".join(f"val_{i}.JPEG\t{name}\t0\t0\t9\t9\n" for i, name in enumerate(names))
    (root / "val/val_annotations.txt").write_text(rows)
    text = found(root)
    assert "is Tiny-ImageNet as it is distributed" in text
    subprocess.run(["bash", "-e", "-c", text.partition("\n")[2]], check=True)
    assert not found(root)
    assert ImageNet(str(root)).samples("val").labels.tolist() == [0, 1]
