import os
import time
import warnings
from pathlib import Path

import pytest
import torch
from refusals import refused
from safetensors import SafetensorError

import vitlab.evaluation.cache as module
from vitlab.encoders import Pixels
from vitlab.evaluation.cache import SUFFIX, Cache
from vitlab.evaluation.features import Source, patch_table
from vitlab.probes.layer_selection import LayerSelection

TABLE = {"x": torch.arange(1000.0), "y": torch.zeros(0, 3, dtype=torch.uint8)}


def never():
    pytest.fail("it was there and must not be made again")


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


def test_a_table_is_made_once_and_read_afterwards(tmp_path):
    cache = Cache(tmp_path / "a" / "b")
    assert cache.table({"weights": "w"}, lambda: TABLE) is TABLE
    read = cache.table({"weights": "w"}, never)
    assert torch.equal(read["x"], TABLE["x"])
    assert read["y"].shape == (0, 3)
    other = {"x": torch.ones(2)}
    assert cache.table({"weights": "v"}, lambda: other) is other
    assert len(files(tmp_path / "a" / "b")) == 2
    for _ in range(2):
        assert Cache(None).table({}, lambda: TABLE) is TABLE


@pytest.mark.parametrize("damage", ["cut", "empty", "header"])
def test_a_damaged_file_is_made_again_with_a_warning(tmp_path, damage):
    Cache(tmp_path).table({}, lambda: TABLE)
    (file,) = files(tmp_path)
    content = bytearray(file.read_bytes())
    if damage == "header":
        content[:8] = b"\xff" * 8
    else:
        del content[0 if damage == "empty" else -7 :]
    file.write_bytes(content)
    with pytest.warns(UserWarning, match="cannot be used and is made again"):
        assert Cache(tmp_path).table({}, lambda: TABLE) is TABLE
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(Cache(tmp_path).table({}, never)["x"], TABLE["x"])


def test_the_least_recently_used_table_leaves_though_it_is_mapped(tmp_path):
    cache = Cache(tmp_path, limit=13_000)  # three tables
    for name in "abc":
        cache.table({"n": name}, lambda: TABLE)
        time.sleep(0.01)
    mapped = cache.table({"n": "b"}, never)
    os.utime(files(tmp_path)[0])
    for name in "ac":  # used again, so that b is the oldest
        cache.table({"n": name}, never)
        time.sleep(0.01)
    cache.table({"n": "d"}, lambda: TABLE)
    assert len(files(tmp_path)) == 3
    for name in "acd":
        cache.table({"n": name}, never)
    assert torch.equal(mapped["x"], TABLE["x"])


def test_a_table_larger_than_the_cache_is_used_but_not_kept(tmp_path):
    with pytest.warns(UserWarning, match="larger than the cache's limit"):
        assert Cache(tmp_path, limit=10).table({}, lambda: TABLE) is TABLE
    assert files(tmp_path) == []


FULL = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("error", [FULL, OSError(28, "No space left on device")])
def test_a_full_disk_keeps_nothing_and_the_evaluation_goes_on(tmp_path, monkeypatch, error):
    def full(_, path, *rest):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(module, "save_file", full)
    with pytest.warns(UserWarning, match=rf"{tmp_path} cannot be written, .* goes on without"):
        assert Cache(tmp_path).table({"n": "b"}, lambda: TABLE) is TABLE
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with refused("--cache"):
        Cache(tmp_path / "file" / "cache")


def test_features_are_read_for_the_same_weights_and_files_alone(
    make, context, tmp_path, monkeypatch
):
    calls = []
    encode = Source.encode
    monkeypatch.setattr(
        Source, "encode", lambda self, *rest: calls.append(1) or encode(self, *rest)
    )
    data, plan = make(), context(batch_size=8, cache=tmp_path / "cache")

    def table(encoder, data, size=64):
        return patch_table(Source(encoder, data, LayerSelection(), size), "val", plan).x

    first = table(Pixels(16), data)
    assert torch.equal(table(Pixels(16), data), first)
    assert len(calls) == 1
    table(Pixels(16), data, 32)
    table(Pixels(8), data)
    table(Pixels(16), make(void=1))  # of the same names
    hooked = Pixels(16)
    hooked.register_forward_pre_hook(lambda _, given: (2 * given[0],))
    table(hooked, data)
    assert len(calls) == 5
