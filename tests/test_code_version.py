"""The commit of a clone, read from its files as git lays them out."""

import shutil
import subprocess

import pytest

from vitlab import code_version
from vitlab.cli import main
from vitlab.code_version import commit

IDENTITY = ("-c", "user.name=a", "-c", "user.email=a@b")
pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="no git")


def git(folder, *words) -> str:
    command = ["git", "-C", str(folder), *IDENTITY, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def clone(tmp_path):
    folder = tmp_path / "clone"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "file").write_text("1")
    git(folder, "add", "file")
    git(folder, "commit", "--quiet", "--message", "first")
    return folder


def test_a_branch_packed_detached_and_a_worktree_have_their_commit(clone):
    expected = git(clone, "rev-parse", "HEAD")
    assert commit(clone) == expected
    git(clone, "worktree", "add", "--quiet", "-b", "a/b", "../tree")
    assert commit(clone.parent / "tree") == expected
    git(clone, "pack-refs", "--all")
    assert commit(clone) == commit(clone.parent / "tree") == expected
    git(clone, "checkout", "--quiet", "--detach")
    assert commit(clone) == expected


def test_changes_are_said_and_git_need_not_be_there(clone, monkeypatch):
    expected = git(clone, "rev-parse", "HEAD")
    (clone / "file").write_text("2")
    assert commit(clone) == f"{expected}-dirty"
    monkeypatch.setenv("PATH", "")
    assert commit(clone) == expected


def test_no_clone_has_no_commit_even_inside_of_another(clone, tmp_path):
    (clone / "site-packages").mkdir()
    (tmp_path / "damaged/.git").mkdir(parents=True)
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone/.git").write_text("gitdir: /nowhere")
    git(tmp_path, "init", "--quiet", "new")
    for folder in (clone / "site-packages", *map(tmp_path.joinpath, ("damaged", "gone", "new"))):
        assert commit(folder) is None


def test_a_package_beside_a_clone_says_that_the_clone_is_not_what_runs(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "vitlab").mkdir()
    (tmp_path / "vitlab/code_version.py").touch()
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    main(["--version"])
    text = capsys.readouterr().out
    assert f" in {code_version.PACKAGE}" in text
    assert text.endswith(f"; not the clone in {tmp_path}\n")
