"""RUN/collapse_monitor.jsonl: the diagnoses of a run, a line each."""

import json
from dataclasses import asdict
from pathlib import Path

from vitlab.atomic_io import write_bytes
from vitlab.callbacks.collapse_checks import Diagnosis

FILE = "collapse_monitor.jsonl"


def append(folder: Path, step: int, diagnosis: Diagnosis) -> None:
    """Add a line, whole or not at all.

    Raises:
        OSError: the disk is full, or fails; the lines before are still there.
    """
    line = json.dumps({"step": step, **asdict(diagnosis)}) + "\n"
    write_bytes(folder / FILE, "".join([*_lines(folder), line]).encode())


def drop_after(folder: Path, step: int) -> None:
    """Drop the diagnoses of an attempt that came further than the step the run continues from."""
    if lines := _lines(folder):
        kept = "".join(line for line in lines if json.loads(line)["step"] <= step)
        write_bytes(folder / FILE, kept.encode())


def last(folder: Path) -> str:
    """Return the last diagnosis of a run with its step, or nothing."""
    rows = [json.loads(line) for line in _lines(folder)[-1:]]
    return "".join(f"step {row['step']}: {row['sentence']}" for row in rows)


def _lines(folder: Path) -> list[str]:
    path = folder / FILE
    return path.read_text().splitlines(keepends=True) if path.exists() else []
