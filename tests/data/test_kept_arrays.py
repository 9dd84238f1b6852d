"""Arrays kept for the next run come back whole or not at all."""

import os
import pickle
import warnings
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import pytest

from vitlab.data.storage import listings

ARRAYS = {"names": np.array([b"a", b"bc"]), "numbers": np.arange(3)}


@pytest.fixture
def file(tmp_path) -> Path:
    """What is kept for a folder."""
    listings.keep(tmp_path, "x", ARRAYS)
    return tmp_path / ".vitlab/x.npz"


def recalled(folder: Path) -> dict[str, list] | None:
    found = listings.recall(folder, "x", ARRAYS.keys())
    return found and {key: array.tolist() for key, array in found.items()}


EXPECTED = {"names": [b"a", b"bc"], "numbers": [0, 1, 2]}


def test_what_is_kept_comes_back(file, tmp_path):
    assert recalled(tmp_path) == EXPECTED
    assert listings.recall(tmp_path, "y", ["names"]) is None
    assert listings.recall(tmp_path / "nowhere", "x", ["names"]) is None


def test_others_may_read_it(file):
    assert file.stat().st_mode & 0o444 == 0o444


def test_a_cut_file_is_not_used_and_someone_says_so(file, tmp_path):
    whole = file.read_bytes()
    for cut in range(0, len(whole), 7):
        file.write_bytes(whole[:cut])
        with pytest.warns(UserWarning, match=r"x\.npz cannot be used and is made again"):
            assert recalled(tmp_path) is None


def test_no_damaged_byte_makes_it_wrong(file, tmp_path):
    whole = file.read_bytes()
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        file.write_bytes(bytes(damaged))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = recalled(tmp_path)
        assert found == EXPECTED or (found is None and caught), at


def test_what_another_version_kept_is_not_used(file, tmp_path, monkeypatch):
    monkeypatch.setattr(listings, "VERSION", listings.VERSION + 1)
    assert recalled(tmp_path) is None
    listings.keep(tmp_path, "x", ARRAYS)
    assert recalled(tmp_path) == EXPECTED


class Bomb:
    """Does something when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("place", ["names", "version", "file"])
def test_nothing_is_ever_unpickled(file, tmp_path, place):
    mark = tmp_path / "ran"
    if place == "file":
        file.write_bytes(pickle.dumps(Bomb(mark)))
    else:
        bomb = np.array([Bomb(mark)], dtype=object)
        with open(file, "wb") as target:
            arrays = {"version": np.array(listings.VERSION), **ARRAYS, place: bomb}
            np.savez(target, **arrays)
    with pytest.warns(UserWarning, match="cannot be used and is made again"):
        assert recalled(tmp_path) is None
    assert not mark.exists()


def test_writers_at_one_time_leave_a_whole_file(tmp_path):
    def write(number: int) -> None:
        listings.keep(tmp_path, "x", {"a": np.full(5000, number), "b": np.full(50, number)})

    def read(number: int) -> None:
        found = listings.recall(tmp_path, "x", ["a", "b"])
        if found is not None:
            assert len({*found["a"].tolist(), *found["b"].tolist()}) == 1

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ThreadPool(8) as pool:
            for result in [pool.apply_async(f, (i,)) for i in range(60) for f in (write, read)]:
                result.get()
    assert [path.name for path in (tmp_path / ".vitlab").iterdir()] == ["x.npz"]


def test_a_full_disk_leaves_what_was_there_and_no_half_file(file, tmp_path, cache, monkeypatch):
    def full(target, **arrays):
        target.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(listings.np, "savez", full)
    with pytest.warns(UserWarning, match=r"neither .*No space left.* set XDG_CACHE_HOME"):
        listings.keep(tmp_path, "x", {"names": np.arange(2)})
    assert recalled(tmp_path) == EXPECTED
    assert os.listdir(file.parent) == ["x.npz"]
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_two_folders_have_their_own_place_in_the_users_cache(tmp_path, cache):
    for number, name in enumerate(["one", "two"]):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".vitlab").touch()
        with pytest.warns(UserWarning, match=rf"{name} cannot be written .* kept in {cache}"):
            listings.keep(tmp_path / name, "x", {"a": np.array(number)})
    for number, name in enumerate(["one", "two"]):
        found = listings.recall(tmp_path / name, "x", ["a"])
        assert found is not None
        assert found["a"] == number
