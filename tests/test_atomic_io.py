"""Files of others are read as one type or refused in a sentence; what a machine may lack."""

import json
import os
from dataclasses import dataclass

import pytest
from refusals import refused

from vitlab.analysis.results import read_results
from vitlab.atomic_io import environment, read_json_as
from vitlab.callbacks.collapse_monitor import read_diagnoses
from vitlab.config_safety import read_yaml
from vitlab.evaluation.registry import read_protocol
from vitlab.evaluation.result import Result
from vitlab.visualization.curves import read as read_curves


@dataclass
class Facts:
    """A kind of file."""

    name: str
    size: int = 0
    share: float = 0.0


ODD = {
    "fifo": os.mkfifo,
    "folder": os.mkdir,
    "loop": lambda path: os.symlink(path, path),
    "device": lambda path: os.symlink("/dev/zero", path),
    "large": lambda path: (open(path, "w").close(), os.truncate(path, 2**40)),
    "null byte": lambda path: path.write_bytes(b"\0" * 10),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("facts.json", lambda path: read_json_as(path, Facts)),
        ("result.json", lambda path: Result.read(path.parent)),
        ("analysis.json", read_results),
        ("measurements.json", lambda path: read_curves([path.parent])),
        ("config.yaml", read_yaml),
        ("mine.yaml", read_protocol),
        ("collapse_monitor.jsonl", lambda path: read_diagnoses(path.parent)),
    ],
)
def test_what_is_no_file_of_its_kind_is_refused_at_once(tmp_path, kind, name, read):
    ODD[kind](tmp_path / name)
    with refused(wording=False) as info:
        read(tmp_path / name)
    assert name in str(info.value)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"name": "\xff"}',
        b'\xff\xfe{\0}\0',
        b'{"name": 1}',
        b'{"name": "a", "size": "1"}',
        b'{"name": "a", "size": 1.5}',
        b'{"name": "a", "size": true}',
        b'{"name": "a", "size": null}',
        b'{"name": "a", "size": ' + b"9" * 401 + b"}",
        b'{"name": "a", "other": ' + b"9" * 5000 + b"}",
        b'{"name": "a", "share": NaN}',
        b'{"name": "a", "share": -Infinity}',
        b'{"name": "a", "share": 1e400}',
        b'{"name": "a", "name": "b"}',
        b'{"name": "a", "other": {"x": 1, "x": 2}}',
        b"[" * 100_000,
        b'{"name": "a"} x',
    ],
)  # fmt: skip
def test_json_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / "facts.json"
    path.write_bytes(content)
    with refused("facts.json", wording=False) as info:
        read_json_as(path, Facts)
    assert str(info.value).startswith(f"{path} cannot be read: ")
    assert len(str(info.value)) < 400
    assert str(info.value).isprintable()


def test_json_of_its_kind_is_read(tmp_path):
    path = tmp_path / "facts.json"
    path.write_text(json.dumps({"name": "ä\n", "size": -(2**63) + 1, "share": 1, "other": [{}]}))
    assert read_json_as(path, Facts) == Facts("ä\n", -(2**63) + 1, 1.0)
    with pytest.raises(FileNotFoundError):
        read_json_as(tmp_path / "none.json", Facts)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a: 1\nb: 2\na: 3", "a is given twice"),
        ("a:\n  b: {c: 1, c: 1}", "c is given twice"),
        ("a: " + "9" * 5000, "not a YAML file"),
        ("[" * 5000, "not a YAML file"),
    ],
)
def test_a_config_that_yaml_would_take_is_refused(tmp_path, content, reason):
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with refused(str(path), wording=False) as info:
        read_yaml(path)
    assert reason in str(info.value)


def test_merge_keys_of_yaml_are_no_duplicates(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  x: 3\n")
    assert read_yaml(path) == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}}


@pytest.mark.parametrize("git", ["none", "not executable", "refuses", "no text"])
def test_a_result_needs_no_git(tmp_path, monkeypatch, git):
    script = tmp_path / "git"
    if git != "none":
        script.write_text("#!/bin/sh\nprintf '\\377'; echo dubious ownership >&2; exit 128\n")
        script.chmod(0o644 if git == "not executable" else 0o755)
    if git == "no text":
        script.write_bytes(b"\x7fELF junk")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not str(environment()["commit"]).endswith("-dirty")  # read from the clone, if it is one
