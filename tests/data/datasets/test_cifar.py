"""CIFAR's own files, drawn small; a pickle is never trusted."""

import pickle
import shutil
import struct
import subprocess
import tarfile

import numpy as np
import pytest
from refusals import check_wording, refused

from vitlab.data import CIFAR10, CIFAR100, DataError, ImageNet, ResizeRandomCrop
from vitlab.data.check import check

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
COUNT = 6
PIXELS = np.random.default_rng(0).integers(0, 256, (5 * COUNT, 3072), dtype=np.uint8)


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
def cifar10(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for index, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        part = PIXELS[index * COUNT % len(PIXELS) :][:COUNT]
        labels = [(index + row) % 10 for row in range(COUNT)]
        content = pickled(data=part, labels=labels, batch_label="1 of 5", filenames=["a", "b"])
        (folder / name).write_bytes(content)
    (folder / "batches.meta").write_bytes(pickled(label_names=NAMES, num_vis=3072))
    return folder


@pytest.fixture
def cifar100(tmp_path):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name, part in (("train", PIXELS), ("test", PIXELS[:COUNT])):
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
def test_images_and_labels_are_those_of_the_files(cifar10, where):
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
        assert image.flatten().tolist() == PIXELS[row].tolist()
        assert label == data.samples("train").labels[row]
    assert next(iter(data.train_dataloader())).views[0].shape == (1, 4, 3, 32, 32)
    report = check(root, deep=True)
    assert report.dataset == f"CIFAR10, {'in archives' if where == 'archive' else 'extracted'}"
    counts = {split: text.split()[0] for split, text in report.splits.items()}
    assert counts == {"train": "30", "val": "6"}
    assert not report.errors


def test_cifar_100_has_the_fine_labels_and_files_of_python_3_are_read(cifar10, cifar100):
    for protocol in (2, 4):
        content = pickle.dumps({"data": PIXELS[:COUNT], "labels": [1] * COUNT}, protocol=protocol)
        (cifar10 / "data_batch_2").write_bytes(content)
        assert CIFAR10(str(cifar10)).samples("train").labels[6:12].tolist() == [1] * COUNT
    assert check(cifar100).dataset == "CIFAR100, extracted"
    assert "holds several datasets: CIFAR10 in" in found(cifar10.parent)
    packed(cifar100, "cifar-100-python.tar.gz")
    data = CIFAR100(str(cifar100.parent))
    assert data.num_classes == 100
    assert data.samples("train").labels[:3].tolist() == [0, 7, 14]
    assert len(data.samples("val")) == COUNT
    with pytest.raises(DataError, match="it looks like CIFAR10: use the class"):
        CIFAR100(str(cifar10)).samples("train")
    (cifar10 / "test_batch").unlink()
    with pytest.raises(DataError, match="it looks like CIFAR100: use the class"):
        CIFAR10(str(cifar10.parent)).samples("train")


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
    (cifar10 / "data_batch_3").write_bytes(content)
    with refused("data_batch_3", DataError, wording=False) as caught:
        CIFAR10(str(cifar10)).samples("train")
    assert "is refused: it is damaged, or holds more than numbers" in str(caught.value)
    assert "owned" not in capsys.readouterr().out


ROWS = np.zeros((6, 3072), np.uint8)
WRONG = {
    "data_batch_3": [
        b"\x80\x02].",  # a list
        pickled(labels=[1]),
        pickled(data=ROWS[:2, :5], labels=[1, 2]),
        pickled("O8", data=ROWS, labels=[]),
        # rows that are cut
        pickled(data=ROWS, labels=[]).replace(number(6) + number(3072), number(9) + number(3072)),
        pickled(data=ROWS, labels=[1] * 5),
        pickled(data=ROWS, labels=[10] * 6),
        None,  # a missing file
    ],
    "batches.meta": [pickled(num_vis=1)],
}


@pytest.mark.parametrize("name", WRONG)
def test_damaged_files_are_refused_with_their_name(cifar10, tmp_path, name):
    for content in WRONG[name]:
        (cifar10 / name).unlink() if content is None else (cifar10 / name).write_bytes(content)
        with refused(name, DataError):
            CIFAR10(str(cifar10)).samples("train")
    archive = packed(cifar10, "cifar-10-python.tar.gz")
    archive.write_bytes(archive.read_bytes()[:2000])
    with refused(archive.name, DataError):
        CIFAR10(str(tmp_path)).samples("train")
    archive.unlink()
    with refused("data.root", DataError):
        CIFAR10(str(tmp_path)).samples("train")


def test_check_finds_the_faults_of_cifar(cifar10, cifar100, tmp_path):
    check_wording(found(cifar10, "warning"))
    (cifar100 / "meta").write_bytes(pickled(fine_label_names=["a"] * 20))
    assert "names 20 classes, not 100" in found(cifar100)
    deep = tmp_path / "a/cifar-10-batches-py"
    deep.mkdir(parents=True)
    inner = cifar10.rename(deep / "cifar-10-batches-py")  # extracted twice
    assert f"CIFAR10 lies in {inner}, not in {deep.parent}" in found(deep.parent)
    for name in ("data_batch_3", "data_batch_1"):
        (inner / name).unlink()
        check_wording(found(inner))
    for name in ("data_batch_1.bin", "cifar-100-python.tar.gz"):
        (tmp_path / name[:5]).mkdir()
        (tmp_path / name[:5] / name).write_bytes(b"\x1f\x8b")
        check_wording(found(tmp_path / name[:5]))


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
