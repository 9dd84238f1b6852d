"""The code that runs: its folder, and its commit where that is a clone."""

import subprocess
from contextlib import suppress
from pathlib import Path

import vitlab

PACKAGE = Path(__file__).parent


def commit(root: Path = PACKAGE.parent) -> str | None:
    """Return the commit of a clone in 40 digits, with "-dirty" after changes; None of no clone.

    Read from its files: git itself only says whether something is changed, where it is installed.

    Args:
        root: folder that holds .git; those above it are of other projects, as around a .venv.
    """
    git = root / ".git"
    try:
        if git.is_file():  # of a worktree or a submodule
            git = root / git.read_text("utf-8").removeprefix("gitdir:").strip()
        common = git
        if (git / "commondir").is_file():
            common = git / (git / "commondir").read_text("utf-8").strip()
        head = (git / "HEAD").read_text("utf-8").strip()
        name = head.removeprefix("ref: ")
        if name != head:
            head = _read_ref(name, git, common)
    except (OSError, ValueError):
        return None
    changed = None
    with suppress(OSError, subprocess.SubprocessError):
        words = ["git", "-C", str(root), "diff", "--quiet", "HEAD"]
        changed = subprocess.run(words, capture_output=True, check=False, timeout=30).returncode
    return (f"{head}-dirty" if changed == 1 else head) or None


def _read_ref(name: str, *folders: Path) -> str:
    for folder in folders:
        if (folder / name).is_file():
            return (folder / name).read_text("utf-8").strip()
    lines = (line.split() for line in (folders[-1] / "packed-refs").read_text("utf-8").splitlines())
    return next((line[0] for line in lines if line[1:] == [name]), "")


def describe() -> str:
    """Return version, folder and commit, and that a clone around the current folder is not it."""
    code = commit()
    text = f"vitlab {vitlab.__version__} in {PACKAGE}" + (f", commit {code}" if code else "")
    here = Path.cwd()
    for folder in (here, *here.parents):
        own = folder / "vitlab"
        if (own / "code_version.py").is_file():
            return text if own.samefile(PACKAGE) else f"{text}; not the clone in {folder}"
    return text
