import json
import math
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vitlab.cli import main
from vitlab.cluster.listing import SILENT, find_runs
from vitlab.cluster.slurm import QueuedJob
from vitlab.cluster.status import RunStatus, slurm_job_id
from vitlab.commands.runs import age

NOBODY = 2**22 + 1  # no process has a number this high
WAITS, RUNS = QueuedJob("PENDING", "Priority"), QueuedJob("RUNNING", "None")
SUSPENDED, CLEARS = QueuedJob("SUSPENDED", "None"), QueuedJob("COMPLETING", "None")


def write(folder: Path, **files: object) -> Path:
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_json", ".json").replace("_ckpt", ".ckpt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("{}")
    return folder


def said(state="running", **values) -> dict:
    known = {"began": time.time() - 60, "updated": time.time(), "job": "", "restarts": 0}
    return asdict(RunStatus(state, **{**known, **values}))


def only(root: Path, jobs=None):
    (run,) = find_runs(root, jobs or {})
    return run


TICKET = {"job": "7", "submitted": 0.0}


@pytest.mark.parametrize(
    ("files", "jobs", "state", "reason"),
    [
        ({"job__job_json": TICKET}, {"7": WAITS}, "queued", "Priority"),
        ({"job__job_json": TICKET}, {"7": RUNS}, "running", "starting"),
        ({"job__job_json": TICKET}, {}, "lost", "before its first step"),
        (
            {"job__job_json": TICKET, "job__6.out": "", "job__41.out": ""},
            {},
            "lost",
            "job/41.out",
        ),
        (
            {"status_json": said(process=NOBODY, job="7")},
            {"7": SUSPENDED},
            "running",
            "susp",
        ),
        ({"status_json": said()}, {}, "running", ""),
        ({"status_json": said(process=NOBODY)}, {}, "lost", "its process is gone"),
        ({"status_json": said(process=NOBODY, job="7")}, {"7": RUNS}, "running", ""),
        ({"status_json": said(process=NOBODY, job="7")}, {"8": RUNS}, "lost", "is gone"),
        ({"status_json": said(job="7")}, {"7": WAITS}, "requeued", "Priority"),
        ({"status_json": said("stopped", job="7")}, {"7": WAITS}, "requeued", "Priority"),
        ({"status_json": said("stopped", reason="USR1")}, {}, "stopped", "USR1"),
        (
            {"status_json": said("stopped", reason="USR1", job="7")},
            {"7": CLEARS},
            "stopped",
            "USR1; SLURM is clearing its job",
        ),
        ({"status_json": said("failed", reason="NaN")}, {}, "failed", "NaN"),
        ({"status_json": said("finished")}, {}, "finished", ""),
        ({"results_json": [], "status_json": said(process=NOBODY)}, {}, "finished", ""),
        ({"last_ckpt": "x"}, {}, "stopped", "no status.json"),
        ({}, {}, "lost", ""),
        ({"status_json": said(host="other")}, {}, "running", ""),
        (
            {"status_json": said(host="other", updated=time.time() - SILENT - 1)},
            {},
            "lost",
            "it has said nothing for 1",
        ),
        ({"status_json": said(process=-3)}, {}, "lost", "its process is gone"),
    ],
)
def test_the_state_follows_from_files_and_queue(tmp_path, files, jobs, state, reason):
    run = only(write(tmp_path / "run", **files).parent, jobs)
    assert run.state == state
    assert reason in run.reason


def test_a_process_that_is_younger_than_the_status_is_another(tmp_path):
    write(tmp_path, status_json=said(process=os.getpid(), updated=1000.0))
    assert only(tmp_path).state == "lost"


def test_the_job_is_the_latest_one(tmp_path):
    ticket = {"job": "8", "submitted": time.time()}
    write(tmp_path, status_json=said("stopped", job="7"), job__job_json=ticket)
    assert only(tmp_path).job == "8"
    write(tmp_path, job__job_json={"job": "8", "submitted": 0.0})
    assert only(tmp_path).job == "7"


def test_scores_are_the_last_and_the_best(tmp_path):
    rows = [
        {"encoder": "pixels", "epoch": 0, "scores": {"miou/mean": 99.0}},
        {"encoder": "trained", "epoch": 1, "scores": {"miou/mean": 5.0, "knn/top1": 3.0}},
        {"encoder": "trained", "epoch": 2, "scores": {"miou/mean": 7.0, "knn/top1": 4.0}},
        {"encoder": "trained", "epoch": 3, "scores": {"miou/mean": 6.0, "knn/top1": 5.0}},
    ]
    write(tmp_path, measurements_json=rows, last_ckpt="")
    run = only(tmp_path)
    assert run.best == {"tag": "miou/mean", "value": 7.0, "epoch": 2}
    assert run.measured == {"miou/mean": 6.0, "knn/top1": 5.0}
    assert 0 <= run.checkpoint < 60


LETTERS = st.text(st.characters(), max_size=3)  # half a character among them
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | LETTERS
JSON = st.recursive(
    PLAIN, lambda part: st.lists(part, max_size=3) | st.dictionaries(LETTERS, part, max_size=3)
)
# nearly right: one value of them is any
STATUS = said(metrics={"loss": 1.0})
ROW = {"encoder": "trained", "epoch": 1, "scores": {"knn/top1": 1.0}}


def with_any(known: dict) -> st.SearchStrategy:
    """Return dictionaries with one key left out, or one value that may be anything."""
    names = st.sampled_from(sorted(known))
    changed = st.builds(lambda name, value: {**known, name: value}, names, JSON)
    return JSON | changed | names.map(lambda name: {k: v for k, v in known.items() if k != name})


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    with_any(STATUS) | with_any(STATUS["metrics"]).map(lambda value: {**STATUS, "metrics": value}),
    JSON | st.lists(with_any(ROW) | with_any(ROW["scores"]).map(lambda v: {**ROW, "scores": v})),
    with_any({"job": "7", "submitted": 1.0}),
    st.sampled_from([{}, {"7": WAITS}, {"7": RUNS}]),
)
def test_nothing_in_the_files_of_a_run_hides_the_others(
    tmp_path, capsys, monkeypatch, status, rows, ticket, jobs
):
    write(tmp_path / "odd", status_json=status, measurements_json=rows, job__job_json=ticket)
    monkeypatch.setattr("vitlab.commands.runs.queue", lambda: jobs)
    main(["runs", str(tmp_path)])
    main(["runs", str(tmp_path), "--json"])
    capsys.readouterr().out.encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *[("status_json", {**STATUS, "metrics": value}) for value in (None, {"loss": "x"})],
        *[("status_json", {**STATUS, "restarts": "2"}), ("status_json", {**STATUS, "state": []})],
        *[("status_json", value) for value in ([], "x", None, 3, {"state": "odd"})],
        *[("status_json", "[" * 99999), ("status_json", {**STATUS, "updated": math.inf})],
        *[("measurements_json", [value]) for value in (3, {**ROW, "scores": []}, {"epoch": 1})],
        *[("measurements_json", [{**ROW, "scores": {"knn/top1": value}}]) for value in (None, "6")],
        ("measurements_json", [{"encoder": "trained", "scores": {"knn/top1": 1.0}}]),
        *[("job__job_json", value) for value in ("{", {"job": "7", "submitted": "x"}, {"job": 7})],
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content):
    run = only(write(tmp_path, **{name: content}))
    assert run.reason == f"{name.replace('__', '/').replace('_json', '.json')} cannot be read"


def test_a_row_is_not_broken_within_a_number_or_a_word(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    rows = [{**ROW, "scores": {"miou/mean": 61.25}}]
    known = {"step": 11_000, "steps": 125_000, "metrics": {"loss": 9.5}, "restarts": 2, "job": "7"}
    for name in ("dino_entmax-gpus_8/seed0", "[/odd]"):
        status = said("failed", **known, host="n1.far.example", reason="[b] :no: markup")
        write(tmp_path / name, status_json=status, measurements_json=rows)
    write(tmp_path / "starting", status_json=said("failed", step=11, restarts=1))
    main(["runs", str(tmp_path)])
    said_at_80 = capsys.readouterr().out
    for text in ("dino_entmax-gpus_8/seed0  failed", "11,000/125,000", "miou/mean", "[/odd]"):
        assert text in said_at_80
    for text in ("61.2 (best 61.2)", "[b] :no: markup", "with --json: host, job"):
        assert text in said_at_80
    assert "11/0" not in said_at_80
    assert max(map(len, said_at_80.splitlines())) <= 80
    monkeypatch.setenv("COLUMNS", "200")
    main(["runs", str(tmp_path)])
    assert "7 start 3  n1" in capsys.readouterr().out


def test_what_lies_within_a_run_is_not_another(tmp_path):
    write(tmp_path / "a/run", status_json=said())
    write(tmp_path / "a/run/inner")
    write(tmp_path / ".hidden/run")
    assert [run.folder for run in find_runs(tmp_path, {})] == [tmp_path / "a/run"]


def test_no_checkpoint_is_opened(tmp_path):
    write(tmp_path, status_json=said())
    (tmp_path / "last.ckpt").symlink_to("/dev/null/nothing")
    assert only(tmp_path).checkpoint is None


def test_hundreds_of_runs_are_listed_with_one_row_each(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for index in range(300):
        write(tmp_path / f"arm/seed{index}", status_json=said("failed", step=index, steps=300))
    main(["runs", str(tmp_path)])
    printed = capsys.readouterr().out
    assert all(f"arm/seed{index} " in printed for index in range(300))
    assert "299/300" in printed
    assert printed.endswith("300 failed\n")
    main(["runs", str(tmp_path), "--state", "running", "--json"])
    assert json.loads(capsys.readouterr().out) == []


def test_a_folder_that_is_not_there_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["runs", str(tmp_path / "none")])
    assert "there is no folder" in capsys.readouterr().err


def test_json_has_all_that_is_known(tmp_path, capsys):
    write(tmp_path / "run", status_json=said("stopped", metrics={"loss": 1.5}, step=3))
    main(["runs", str(tmp_path), "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert row["folder"] == str(tmp_path / "run")
    assert row["state"] == "stopped"
    assert row["status"]["metrics"] == {"loss": 1.5}
    assert row["status"]["host"] == platform.node()


def test_a_job_of_an_array_has_both_numbers():
    assert slurm_job_id({}) == ""
    assert slurm_job_id({"SLURM_JOB_ID": "12"}) == "12"
    several = {"SLURM_JOB_ID": "13", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "1"}
    assert slurm_job_id(several) == "12_1"


@given(st.floats(0, 1e7))
def test_an_age_has_the_unit_that_fits(seconds):
    value, unit = age(seconds).split()
    length = {"s": 1, "min": 60, "h": 3600, "d": 86400}[unit]
    assert int(value) * length <= seconds < (int(value) + 1) * length
