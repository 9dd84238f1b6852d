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


def array(values: np.ndarray, kind: str = "u1") -> bytes:
    """A numpy array as Python 2 pickled it in 2009: protocol 2, data in a str."""
    rows, columns = values.shape
    made = b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n"
    made += number(0) + b"\x85" + value_of("b") + b"\x87R"  # (ndarray, (0,), "b")
    described = b"cnumpy\ndtype\n" + value_of(kind) + number(0) + number(1) + b"\x87R"
    described += b"(" + number(3) + value_of("|") + b"NNN" + number(-1) * 2 + number(0) + b"tb"
    state = b"(" + number(1) + number(rows) + number(columns) + b"\x86" + described + b"\x89"
    return made + state + value_of(values.tobytes().decode("latin1")) + b"tb"


def value_of(value) -> bytes:
    """The opcodes of a value; those of Python 2 for a str. Bytes are opcodes already."""
    match value:
        case bytes():
            return value
        case int():
            return number(value)
        case str():
            return b"T" + struct.pack("<i", len(value)) + value.encode("latin1")
        case np.ndarray():
            return array(value)
        case dict():
            return (
                b"}(" + b"".join(value_of(part) for item in value.items() for part in item) + b"u"
            )
        case _:
            return b"](" + b"".join(map(value_of, value)) + b"e"


def pickled(**entries) -> bytes:
    """A file of a dictionary."""
    return b"\x80\x02" + value_of(entries) + b"."


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
        about = {"batch_label": "batch 1 of 5", "filenames": [f"{row}.png" for row in range(COUNT)]}
        (folder / name).write_bytes(pickled(data=part, labels=labels, **about))
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
    names = [f"kind {number:03d}" for number in range(100)]
    (folder / "meta").write_bytes(pickled(fine_label_names=names))
    return folder


def packed(folder, name):
    archive = folder.parent / name
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, folder.name)
    shutil.rmtree(folder)
    return archive


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


def test_cifar_100_has_the_fine_labels(cifar100):
    packed(cifar100, "cifar-100-python.tar.gz")
    data = CIFAR100(str(cifar100.parent))
    assert data.num_classes == 100
    assert data.samples("train").labels[:3].tolist() == [0, 7, 14]
    assert len(data.samples("val")) == COUNT


def test_files_written_again_by_python_3_are_read(cifar10, pixels):
    file = cifar10 / "data_batch_2"
    content = {"data": pixels[:COUNT], "labels": [1] * COUNT}
    for protocol in (2, 4):
        file.write_bytes(pickle.dumps(content, protocol=protocol))
        assert CIFAR10(str(cifar10)).samples("train").labels[6:12].tolist() == [1] * COUNT


class Evil:
    def __reduce__(self):
        return print, ("owned",)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Evil()),
        pickle.dumps({"data": Evil(), "labels": []}),
        b"\x80\x02cos\nsystem\n" + value_of("true") + b"\x85R.",
        b"\x80\x02cnumpy\nload\n" + value_of("x") + b"\x85R.",
        b"\x80\x02c_codecs\nencode\n" + value_of("x") + value_of("zlib") + b"\x86R.",
        b"\x80\x02cnumpy\ndtype\n}(" + value_of("name") + value_of("x") + b"ub.",
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
    "objects": pickled(data=array(ROWS, kind="O8"), labels=[]),
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
    field = "data.root" if fault == "other labels" else "data_batch_3"
    with refused(field, DataError):
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


def found(root, severity="error"):
    return "\n".join(each.text for each in check(root).findings if each.severity == severity)


def test_check_recognizes_both_sets_wherever_they_lie(cifar10, cifar100, tmp_path):
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
            assert {split: text.split()[0] for split, text in report.splits.items()} == {
                "train": "30",
                "val": "6",
            }
            assert not report.errors
        packed(folder, archive)
        report = check(alone)
        assert report.dataset == f"{name}, in its archive"
        assert not report.errors


def test_check_says_what_is_not_original_and_how_many_are_there(cifar10):
    warnings = found(cifar10, "warning")
    assert "7 files of" in warnings
    assert "not the original ones by their MD5: data_batch_1" in warnings
    assert "train holds 30 of 50,000 images" in warnings
    (cifar10 / "cifar-10-python.tar.gz").write_bytes(b"")
    assert "lies beside its files, and is not read" in found(cifar10, "note")


def test_check_finds_the_faults_of_cifar(cifar10, cifar100, tmp_path):
    assert "holds several datasets: CIFAR10 in" in found(tmp_path)
    deep = tmp_path / "a/cifar-10-batches-py"
    deep.parent.mkdir()
    inner = cifar10.rename(tmp_path / "inner")
    deep.mkdir()
    inner = inner.rename(deep / "cifar-10-batches-py")
    assert f"CIFAR10 lies in {inner}, not in {deep.parent}" in found(deep.parent)  # twice extracted
    (inner / "data_batch_3").unlink()
    assert "lacks data_batch_3; extract cifar-10-python.tar.gz again" in found(inner)
    (inner / "data_batch_1").unlink()
    assert "looks like CIFAR-10, but lacks data_batch_1 or test_batch" in found(inner)
    (cifar100 / "meta").write_bytes(pickled(fine_label_names=["a"] * 20))
    assert "names 20 classes, not 100" in found(cifar100)
    binary = tmp_path / "binary"
    binary.mkdir()
    (binary / "data_batch_1.bin").write_bytes(b"")
    assert "is the binary version of CIFAR; vitlab reads the Python version" in found(binary)
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "cifar-100-python.tar.gz").write_bytes(b"\x1f\x8b")
    assert "is no whole archive" in found(cut)


def test_one_set_given_for_the_other_is_named(cifar10, cifar100):
    with pytest.raises(DataError, match="it looks like CIFAR10: use the class CIFAR10"):
        CIFAR100(str(cifar10)).samples("train")
    with pytest.raises(DataError, match="it looks like CIFAR100: use the class CIFAR100"):
        CIFAR10(str(cifar100)).samples("train")


def test_tiny_imagenet_is_named_and_its_remedy_works(tmp_path, draw):
    names = ("n01443537", "n01882714")
    root = tmp_path / "tiny"
    for number, name in enumerate(names):
        for index in range(2):
            draw(root / f"train/{name}/images/{name}_{index}.JPEG")
        draw(root / f"val/images/val_{number}.JPEG")
    rows = "".join(f"val_{i}.JPEG\t{name}\t0\t0\t9\t9\n" for i, name in enumerate(names))
    (root / "val/val_annotations.txt").write_text(rows)
    text = found(root)
    assert "is Tiny-ImageNet as it is distributed" in text
    subprocess.run(["bash", "-e", "-c", text.partition("\n")[2]], check=True)
    report = check(root)
    assert not report.errors
    assert report.dataset.startswith("ImageNet, training images in class folders, val in class")
    assert ImageNet(str(root)).samples("val").labels.tolist() == [0, 1]
