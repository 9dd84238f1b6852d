import multiprocessing
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

import vitlab.evaluation.cache as module
from vitlab.encoders import Pixels
from vitlab.evaluation.cache import SUFFIX, Cache
from vitlab.evaluation.features import Source, patch_table
from vitlab.probes.layer_selection import LayerSelection

TABLE = {"x": torch.arange(1000.0), "y": torch.zeros(0, 3, dtype=torch.uint8)}


def never():
    pytest.fail("it was there and must not be made again")


def read(cache: Cache, key: str, otherwise: dict) -> dict:
    with cache.table({"weights": key}, lambda: otherwise) as found:
        return found


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


def test_a_table_is_made_once_and_read_afterwards(tmp_path):
    cache = Cache(tmp_path / "a" / "b")
    with cache.table({"weights": "w"}, lambda: TABLE) as made:
        assert made is TABLE
    with cache.table({"weights": "w"}, never) as read:
        assert torch.equal(read["x"], TABLE["x"])
        assert read["y"].shape == (0, 3)


def test_without_a_folder_nothing_is_kept():
    for _ in range(2):
        with Cache(None).table({}, lambda: TABLE) as found:
            assert found is TABLE


def test_other_weights_have_another_table(tmp_path):
    with Cache(tmp_path).table({"weights": "w"}, lambda: TABLE):
        pass
    other = {"x": torch.ones(2)}
    with Cache(tmp_path).table({"weights": "v"}, lambda: other) as found:
        assert found is other
    assert len(files(tmp_path)) == 2


def test_a_table_that_was_put_in_anothers_place_is_not_read(tmp_path):
    for key in ("v", "w"):
        with Cache(tmp_path).table({"weights": key}, lambda: TABLE):
            pass
    first, second = files(tmp_path)
    os.replace(first, second)
    other = {"x": torch.ones(2)}
    with pytest.warns(UserWarning, match="made from something else"):
        found = [read(Cache(tmp_path), key, other) for key in ("v", "w")]
    assert all(each["x"].equal(other["x"]) for each in found)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "header"])
def test_a_damaged_file_is_made_again_with_a_warning(tmp_path, damage):
    with Cache(tmp_path).table({}, lambda: TABLE):
        pass
    (file,) = files(tmp_path)
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[-100] ^= 1
    elif damage == "header":
        content[:8] = b"\xff" * 8
    else:
        del content[0 if damage == "empty" else -7 :]
    file.write_bytes(content)
    with (
        pytest.warns(UserWarning, match="cannot be used and is made again"),
        Cache(tmp_path).table({}, lambda: TABLE) as found,
    ):
        assert found is TABLE
    with warnings.catch_warnings(), Cache(tmp_path).table({}, never) as found:
        warnings.simplefilter("error")
        assert torch.equal(found["x"], TABLE["x"])


def test_what_was_used_longest_ago_leaves(tmp_path):
    cache = Cache(tmp_path, limit=13_000)  # three tables
    for name in "abc":
        with cache.table({"n": name}, lambda: TABLE):
            pass
        time.sleep(0.01)
    with cache.table({"n": "a"}, never):  # used again, so that b is the oldest
        pass
    with cache.table({"n": "d"}, lambda: TABLE):
        pass
    assert len(files(tmp_path)) == 3
    for name in "acd":
        with cache.table({"n": name}, never):
            pass


def test_a_table_in_use_stays(tmp_path):
    cache = Cache(tmp_path, limit=5000)
    with cache.table({"n": "a"}, lambda: TABLE):
        with cache.table({"n": "b"}, lambda: TABLE):
            pass
        with cache.table({"n": "a"}, never):
            pass
    with cache.table({"n": "c"}, lambda: TABLE):
        pass
    assert len(files(tmp_path)) == 1


def test_a_table_larger_than_the_cache_is_used_but_not_kept(tmp_path):
    with (
        pytest.warns(UserWarning, match="larger than the cache's limit"),
        Cache(tmp_path, limit=10).table({}, lambda: TABLE) as found,
    ):
        assert found is TABLE
    assert files(tmp_path) == []


FULL = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("error", [FULL, OSError(28, "No space left on device")])
@pytest.mark.parametrize("place", ["save_file", "_opened", "_remove"])
def test_a_full_disk_keeps_nothing_and_the_evaluation_goes_on(tmp_path, monkeypatch, place, error):
    @contextmanager
    def opened(_: Path) -> Iterator[int]:
        raise error
        yield

    def full(first, path=None, *_):
        if path is not None:
            path.write_bytes(b"half")
        raise error

    cache = Cache(tmp_path, limit=5000)
    if place == "_remove":
        with cache.table({"n": "a"}, lambda: TABLE):
            pass
    before = files(tmp_path)
    monkeypatch.setattr(module, place, opened if place == "_opened" else full)
    with (
        pytest.warns(UserWarning, match=rf"{tmp_path} cannot be written, .* goes on without"),
        cache.table({"n": "b"}, lambda: TABLE) as found,
    ):
        assert found is TABLE
    assert files(tmp_path) == before
    assert not list(tmp_path.glob("*.part"))


def test_a_failure_leaves_nothing_behind(tmp_path):
    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError), Cache(tmp_path).table({}, fail):
        pass
    with Cache(tmp_path).table({}, lambda: TABLE) as found:
        assert found is TABLE
    assert [file.suffix for file in tmp_path.iterdir() if file.suffix != ".lock"] == [SUFFIX]


def _hold(folder: str, said, kill: bool) -> None:
    """Make a table slowly; say when it began."""

    def make():
        said.set()
        time.sleep(60 if kill else 1)
        return {"x": torch.ones(3)}

    with Cache(Path(folder)).table({}, make):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True])
def test_of_two_processes_one_makes_a_table_and_a_killed_one_holds_nobody_up(tmp_path, kill):
    context = multiprocessing.get_context("fork")
    began = context.Event()
    other = context.Process(target=_hold, args=(str(tmp_path), began, kill))
    other.start()
    assert began.wait(60)
    if kill:
        (tmp_path / "left.0.part").touch()
        other.kill()
        with Cache(tmp_path).table({}, lambda: TABLE) as found:
            assert found is TABLE
    else:
        with Cache(tmp_path).table({}, never) as found:
            assert found["x"].tolist() == [1, 1, 1]
    other.join()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be made"):
        Cache(tmp_path / "file" / "cache")


def test_features_are_read_for_the_same_weights_and_files_alone(make, job, tmp_path, monkeypatch):
    calls = []
    encode = Source.encode
    monkeypatch.setattr(
        Source, "encode", lambda self, *rest: calls.append(1) or encode(self, *rest)
    )
    data, plan = make(), job(batch=8, cache=tmp_path / "cache")

    def table(encoder, data, size=64):
        with patch_table(Source(encoder, data, LayerSelection(), size), "val", plan) as found:
            return found.x.clone()

    first = table(Pixels(16), data)
    assert torch.equal(table(Pixels(16), data), first)
    assert len(calls) == 1
    table(Pixels(16), data, 32)
    table(Pixels(8), data)
    table(Pixels(16), make(void=1))  # of the same names
    assert len(calls) == 4
