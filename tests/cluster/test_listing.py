import json
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitlab.cli import main
from vitlab.cluster import Queued, State, find
from vitlab.cluster.listing import FRESH
from vitlab.cluster.status import Status, number
from vitlab.commands.runs import age

NOBODY = 2**22 + 1  # no process has a number this high
WAITS, RUNS = Queued("PENDING", "Priority"), Queued("RUNNING", "None")


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
    return asdict(Status(state, **{**known, **values}))


def only(root: Path, jobs=None):
    (run,) = find(root, jobs or {})
    return run


TICKET = {"job": "7", "submitted": 0.0}


@pytest.mark.parametrize(
    ("files", "jobs", "state", "reason"),
    [
        ({"job__job_json": TICKET}, {"7": WAITS}, State.QUEUED, "Priority"),
        ({"job__job_json": TICKET}, {"7": RUNS}, State.RUNNING, "starting"),
        ({"job__job_json": TICKET}, {}, State.LOST, "before its first step"),
        ({"status_json": said()}, {}, State.RUNNING, ""),
        ({"status_json": said(process=NOBODY)}, {}, State.LOST, "its process is gone"),
        ({"status_json": said(process=NOBODY, job="7")}, {"7": RUNS}, State.RUNNING, ""),
        ({"status_json": said(process=NOBODY, job="7")}, {"8": RUNS}, State.LOST, "is gone"),
        ({"status_json": said(job="7")}, {"7": WAITS}, State.REQUEUED, "Priority"),
        ({"status_json": said("stopped", job="7")}, {"7": WAITS}, State.REQUEUED, "Priority"),
        ({"status_json": said("stopped", reason="USR1")}, {}, State.STOPPED, "USR1"),
        ({"status_json": said("failed", reason="NaN")}, {}, State.FAILED, "NaN"),
        ({"status_json": said("finished")}, {}, State.FINISHED, ""),
        ({"results_json": [], "status_json": said(process=NOBODY)}, {}, State.FINISHED, ""),
        ({"last_ckpt": "x"}, {}, State.STOPPED, "no status.json"),
        ({}, {}, State.LOST, ""),
        ({"status_json": said(host="other")}, {}, State.RUNNING, ""),
        (
            {"status_json": said(host="other", updated=time.time() - FRESH - 1)},
            {},
            State.LOST,
            "is gone",
        ),
    ],
)
def test_the_state_follows_from_files_and_queue(tmp_path, files, jobs, state, reason):
    run = only(write(tmp_path / "run", **files).parent, jobs)
    assert run.state is state
    assert reason in run.reason


def test_a_process_that_is_younger_than_the_status_is_another(tmp_path):
    write(tmp_path, status_json=said(process=os.getpid(), updated=1000.0))
    assert only(tmp_path).state is State.LOST


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


@pytest.mark.parametrize("name", ["status_json", "measurements_json", "job__job_json"])
@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", "null", "3", '{"state": "odd"}', "\0\xff"]
)
def test_a_damaged_file_hides_no_other_run(tmp_path, name, content):
    write(tmp_path / "bad", **{name: content})
    write(tmp_path / "good", status_json=said("finished"))
    assert [run.state for run in find(tmp_path, {})][1] is State.FINISHED
    main(["runs", str(tmp_path), "--json"])


def test_what_lies_within_a_run_is_not_another(tmp_path):
    write(tmp_path / "a/run", status_json=said())
    write(tmp_path / "a/run/inner")
    write(tmp_path / ".hidden/run")
    assert [run.folder for run in find(tmp_path, {})] == [tmp_path / "a/run"]


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
    assert number({}) == ""
    assert number({"SLURM_JOB_ID": "12"}) == "12"
    several = {"SLURM_JOB_ID": "13", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "1"}
    assert number(several) == "12_1"


@given(st.floats(0, 1e7))
def test_an_age_has_the_unit_that_fits(seconds):
    value, unit = age(seconds).split()
    length = {"s": 1, "min": 60, "h": 3600, "d": 86400}[unit]
    assert int(value) * length <= seconds < (int(value) + 1) * length
