"""Listings of large folders are kept, and never believed when the folder has changed."""

import os
import pickle
import shutil
from pathlib import Path

import pytest

from vitlab.data.storage import FileTree, FolderTree, Listing, listings

PLACES = ["a", "a-b", "b"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    for place in PLACES:
        (folder / place).mkdir(parents=True)
        for i in range(3):
            (folder / place / f"{place}{i}.jpg").write_bytes(b"x")
    return folder


@pytest.fixture
def scanned(monkeypatch) -> list[str]:
    """Names of the folders that were really looked up."""
    found: list[str] = []
    scandir = os.scandir

    def watched(folder):
        found.append(Path(folder).name)
        return scandir(folder)

    monkeypatch.setattr(listings.os, "scandir", watched)
    return found


def all_of(files: FileTree, place: str = "") -> dict[str, Listing]:
    """Every listing of a tree."""
    listing = files.listing(place)
    assert listing is not None
    found = {place: listing}
    for folder in listing.folders:
        found |= all_of(files, f"{place}/{folder}".strip("/"))
    return found


def kept(root: Path, times: int = 2) -> dict[str, Listing]:
    """List and keep; twice, since the first time adds a folder to the root."""
    for _ in range(times):
        files = FolderTree(root)
        found = all_of(files)
        files.remember()
    return found


def beside(root: Path) -> Path:
    return root / ".vitlab/listing.npz"


@pytest.mark.usefixtures("eager")
def test_unchanged_folders_are_not_looked_up_again(root, scanned):
    found = kept(root)
    assert sorted({*scanned}) == ["a", "a-b", "b", "set"]
    scanned.clear()
    assert all_of(FolderTree(root)) == found
    assert scanned == []


@pytest.mark.usefixtures("eager")
def test_only_the_root_is_looked_up_after_the_first_time_which_added_to_it(root, scanned):
    found = kept(root, times=1)
    scanned.clear()
    assert all_of(FolderTree(root)) == found
    assert scanned == ["set"]


def add(folder: Path) -> None:
    (folder / "new.jpg").touch()


def remove(folder: Path) -> None:
    next(folder.iterdir()).unlink()


def rename(folder: Path) -> None:
    next(folder.iterdir()).rename(folder / "other.jpg")


def add_folder(folder: Path) -> None:
    (folder / "deeper").mkdir()


def swap(folder: Path) -> None:
    """As many entries with the times of before, as copying with times would leave it."""
    times = folder.stat()
    rename(folder)
    os.utime(folder, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("change", [add, remove, rename, add_folder, swap])
def test_a_change_is_seen_and_costs_that_folder_only(root, scanned, change):
    before = kept(root)
    change(root / "a-b")
    scanned.clear()
    found = all_of(FolderTree(root))
    assert set(scanned) <= {"a-b", "deeper"}
    assert {place for place in before if found[place] != before[place]} == {"a-b"}
    assert found == all_of(FolderTree(root, listings.Listings(root / "nothing kept")))


@pytest.mark.usefixtures("eager")
def test_a_renamed_and_a_removed_folder_are_seen(root):
    kept(root)
    (root / "a").rename(root / "c")
    shutil.rmtree(root / "b")
    files = FolderTree(root)
    assert files.listing() == Listing(["a-b", "c"], [])
    assert files.listing("a") is files.listing("b") is None
    assert files.listing("c") == Listing([], ["a0.jpg", "a1.jpg", "a2.jpg"])


@pytest.mark.usefixtures("eager")
def test_a_file_in_place_of_a_folder_is_seen(root):
    kept(root)
    shutil.rmtree(root / "b")
    (root / "b").touch()
    assert FolderTree(root).listing() == Listing(["a", "a-b"], ["b"])
    assert FolderTree(root).listing("b") is None


@pytest.mark.usefixtures("eager")
def test_a_moved_data_set_keeps_its_listings(root, scanned):
    found = kept(root)
    moved = root.parent / "elsewhere/set"
    moved.parent.mkdir()
    root.rename(moved)
    scanned.clear()
    assert all_of(FolderTree(moved)) == found
    assert set(scanned) <= {"set"}


def test_a_folder_that_has_just_changed_is_not_trusted(root, scanned, monkeypatch):
    monkeypatch.setattr(listings, "LARGE", 1)
    files = FolderTree(root)
    for _ in range(3):
        files.listing("a")
    assert scanned == ["a"] * 3
    files.remember()
    assert not beside(root).exists()
    now = listings.time.time_ns
    monkeypatch.setattr(listings.time, "time_ns", lambda: now() + 3 * 10**9)
    for _ in range(3):
        files.listing("a")
    assert scanned == ["a"] * 4
    files.remember()
    assert beside(root).exists()


@pytest.mark.parametrize(("large", "written"), [(13, False), (12, True)])
def test_short_listings_are_not_kept(root, monkeypatch, cache, large, written):
    monkeypatch.setattr(listings, "SETTLED", -(10**18))
    monkeypatch.setattr(listings, "LARGE", large)  # the set has 3 folders and 9 files
    kept(root, times=1)
    assert beside(root).exists() == written
    assert not cache.exists()


@pytest.mark.usefixtures("eager")
def test_nothing_is_written_when_nothing_is_new(root):
    kept(root)
    before = beside(root).stat()
    kept(root)
    after = beside(root).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.usefixtures("eager")
def test_a_root_that_cannot_be_written_has_its_listings_in_the_users_cache(root, scanned, cache):
    (root / ".vitlab").touch()  # as good as a read-only disk, which stops even root
    with pytest.warns(UserWarning, match=rf"set cannot be written .* is kept in {cache}"):
        found = kept(root, times=1)
    scanned.clear()
    assert all_of(FolderTree(root)) == found
    assert scanned == []
    assert len(list(cache.rglob("listing.npz"))) == 1


@pytest.mark.usefixtures("eager")
def test_without_any_place_to_write_it_goes_on_and_says_so(root, cache):
    (root / ".vitlab").touch()
    cache.touch()
    with pytest.warns(UserWarning, match=r"(?s)neither .*set .* nor .*set XDG_CACHE_HOME"):
        found = kept(root, times=1)
    assert all_of(FolderTree(root)) == found


@pytest.mark.usefixtures("eager")
def test_the_later_of_two_listings_counts(root, scanned, cache):
    kept(root)  # beside the data, by someone who could write there
    (root / "a/new.jpg").touch()
    old = beside(root).read_bytes()
    beside(root).unlink()
    (root / ".vitlab").rmdir()
    (root / ".vitlab").touch()
    with pytest.warns(UserWarning, match="cannot be written"):
        found = kept(root, times=1)
    (root / ".vitlab").unlink()
    (root / ".vitlab").mkdir()
    beside(root).write_bytes(old)
    os.utime(beside(root), (0, 0))
    scanned.clear()
    assert all_of(FolderTree(root)) == found
    assert set(scanned) <= {"set"}


@pytest.mark.usefixtures("eager")
def test_a_damaged_listing_is_made_again_and_someone_says_so(root, scanned):
    found = kept(root)
    whole = beside(root).read_bytes()
    beside(root).write_bytes(whole[:-100])
    with pytest.warns(UserWarning, match=r"listing\.npz cannot be used and is made again"):
        assert all_of(FolderTree(root)) == found
    with pytest.warns(UserWarning, match="is made again"):
        kept(root, times=1)
    scanned.clear()
    assert all_of(FolderTree(root)) == found
    assert scanned == []


def test_a_user_without_a_home_can_still_list(root, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert set(all_of(FolderTree(root))) == {"", *PLACES}


@pytest.mark.usefixtures("eager")
def test_loading_workers_are_not_sent_the_listings(root):
    files = FolderTree(root)
    all_of(files)
    small = len(pickle.dumps(files))
    for i in range(200):
        (root / f"a/more{i}.jpg").touch()
    assert len(all_of(files)["a"].names) == 203
    assert len(pickle.dumps(files)) == small
    copied = pickle.loads(pickle.dumps(files))
    assert all_of(copied) == all_of(files)
    assert copied.read("a/a0.jpg") == b"x"
