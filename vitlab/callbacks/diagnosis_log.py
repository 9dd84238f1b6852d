"""RUN/collapse_monitor.jsonl: what went wrong in a run, a line each."""

import json
from dataclasses import asdict
from pathlib import Path

from vitlab.atomic_io import write_bytes
from vitlab.callbacks.collapse_checks import Diagnosis

FILE = "collapse_monitor.jsonl"


def note(folder: Path, step: int, diagnosis: Diagnosis) -> None:
    """Add a line, whole or not at all.

    Raises:
        OSError: the disk is full, or fails; the lines before are still there.
    """
    path = folder / FILE
    rows = path.read_bytes() if path.exists() else b""
    write_bytes(path, rows + json.dumps({"step": step, **asdict(diagnosis)}).encode() + b"\n")


def forget(folder: Path, step: int) -> None:
    """Drop what an attempt said behind the step that the run goes on from; it is said again."""
    path = folder / FILE
    if path.exists():
        rows = path.read_text().splitlines(keepends=True)
        kept = "".join(row for row in rows if json.loads(row)["step"] <= step)
        write_bytes(path, kept.encode())


def last(folder: Path) -> str:
    """Return the last thing that went wrong in a run, or nothing."""
    path = folder / FILE
    rows = path.read_text().splitlines() if path.exists() else []
    return f"step {(row := json.loads(rows[-1]))['step']}: {row['sentence']}" if rows else ""
