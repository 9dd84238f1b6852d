import os
import time
from pathlib import Path

import pytest
import torch
from refusals import refused
from safetensors import SafetensorError

import vitlab.evaluation.cache as module
from vitlab.encoders import Pixels
from vitlab.evaluation.cache import SUFFIX, cached
from vitlab.evaluation.protocols import DenseKNN

TABLE = {"x": torch.arange(1000.0), "y": torch.zeros(0, 3, dtype=torch.uint8)}


def never():
    pytest.fail("it was there and must not be made again")


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


def test_a_table_is_made_once_and_read_afterwards(tmp_path):
    folder = tmp_path / "a" / "b"
    assert cached(folder, {"weights": "w"}, lambda: TABLE) is TABLE
    read = cached(folder, {"weights": "w"}, never)
    assert torch.equal(read["x"], TABLE["x"])
    assert read["y"].shape == (0, 3)
    other = {"x": torch.ones(2)}
    assert cached(folder, {"weights": "v"}, lambda: other) is other
    assert len(files(folder)) == 2
    assert cached(None, {}, lambda: TABLE) is TABLE
    (file, _) = files(folder)
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.warns(UserWarning, match="cannot be used and is made again"):
        assert all(cached(folder, {"weights": name}, lambda: TABLE) for name in "wv")
    for name in "wv":
        cached(folder, {"weights": name}, never)
    (tmp_path / "file").touch()
    with refused("--cache"):
        cached(tmp_path / "file" / "cache", {}, never)


def test_the_least_recently_used_table_leaves_though_it_is_mapped(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LIMIT", 13_000)  # three tables
    for name in "abc":
        cached(tmp_path, {"n": name}, lambda: TABLE)
        time.sleep(0.01)
    mapped = cached(tmp_path, {"n": "b"}, never)
    os.utime(files(tmp_path)[0])
    for name in "ac":  # used again, so that b is the oldest
        cached(tmp_path, {"n": name}, never)
        time.sleep(0.01)
    cached(tmp_path, {"n": "d"}, lambda: TABLE)
    assert len(files(tmp_path)) == 3
    for name in "acd":
        cached(tmp_path, {"n": name}, never)
    assert torch.equal(mapped["x"], TABLE["x"])


FULL = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("error", [FULL, OSError(28, "No space left on device"), None])
def test_a_full_disk_keeps_nothing_and_the_evaluation_goes_on(tmp_path, monkeypatch, error):
    def full(_, path, *rest):
        path.write_bytes(b"half")
        raise error

    if error is None:
        monkeypatch.setattr(module, "LIMIT", 10)
    else:
        monkeypatch.setattr(module, "save_file", full)
    with pytest.warns(UserWarning, match=rf"{tmp_path} cannot be written, .* goes on without"):
        assert cached(tmp_path, {"n": "b"}, lambda: TABLE) is TABLE
    assert list(tmp_path.iterdir()) == []


def test_features_are_read_for_the_same_weights_and_files_alone(make, context, tmp_path):
    class Counted(Pixels):
        calls = 0

        def walk(self, images):
            Counted.calls += len(images) > 1  # neither the image of a key
            return super().walk(images)

    data, work = make(), context(batch_size=8, cache=tmp_path / "cache")

    def table(patch=16, data=data, size=64, hook=None, **settings):
        encoder = Counted(patch)
        if hook:
            encoder.register_forward_pre_hook(hook)
        return DenseKNN(size=size, **settings).table(encoder, data, "val", work)

    first = table()
    assert all(map(torch.equal, table(), first))
    assert Counted.calls == 1
    table(size=32)
    table(patch=8)
    table(data=make(void=1))  # of the same names
    table(hook=lambda _, given: (2 * given[0],))
    table(precision="bf16")
    assert Counted.calls == 6
