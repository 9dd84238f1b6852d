"""`vitlab runs`: the state of runs from their files and SLURM's queue."""

import json
import math
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from refusals import refused

from vitlab.cli import main
from vitlab.cluster.runs import SILENT, RunInfo, RunStatus, find_runs
from vitlab.cluster.slurm import QueuedJob, job_id, requeue

NOBODY = 2**22 + 1  # no process has an ID this high
WAITS, RUNS = QueuedJob("PENDING", "Priority"), QueuedJob("RUNNING", "None")
SUSPENDED, CLEARS = QueuedJob("SUSPENDED", "None"), QueuedJob("COMPLETING", "None")
TICKET = {"job": "7", "submitted": 0.0}
JOB, STATUS, ROWS = "job/job.json", "status.json", "measurements.json"


def write(folder: Path, files: dict[str, object]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {"config.yaml": "{}", **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def status(state="running", **values) -> dict:
    known = {"began": time.time() - 60, "updated": time.time(), "job": "", "restarts": 0}
    return asdict(RunStatus(state, **{**known, **values}))


def only(root: Path, jobs=None) -> RunInfo:
    (run,) = find_runs(root, jobs or {})
    return run


@pytest.mark.parametrize(
    ("files", "jobs", "state", "reason"),
    [
        ({JOB: TICKET}, {"7": WAITS}, "queued", "Priority"),
        ({JOB: TICKET}, {"7": RUNS}, "running", "starting"),
        ({JOB: TICKET}, {}, "lost", "before its first step; see"),
        ({STATUS: status(process=NOBODY, job="7")}, {"7": SUSPENDED}, "running", "susp"),
        ({STATUS: status()}, {}, "running", ""),
        ({STATUS: status(process=NOBODY)}, {}, "lost", "its process is gone"),
        ({STATUS: status(process=NOBODY, job="7")}, {"7": RUNS}, "running", ""),
        ({STATUS: status(process=NOBODY, job="7")}, {"8": RUNS}, "lost", "is gone"),
        ({STATUS: status(job="7")}, {"7": WAITS}, "requeued", "Priority"),
        ({STATUS: status("stopped", job="7")}, {"7": WAITS}, "requeued", "Priority"),
        ({STATUS: status("stopped", reason="USR1")}, {}, "stopped", "USR1"),
        ({STATUS: status("stopped", job="7")}, {"7": CLEARS}, "stopped", "SLURM is clearing"),
        ({STATUS: status("failed", reason="NaN")}, {}, "failed", "NaN"),
        ({STATUS: status("finished")}, {}, "finished", ""),
        ({"results.json": [], STATUS: status(process=NOBODY)}, {}, "finished", ""),
        ({"last.ckpt": "x"}, {}, "stopped", "no status.json"),
        ({}, {}, "lost", ""),
        ({STATUS: status(host="other")}, {}, "running", ""),
        ({STATUS: status(host="other", updated=time.time() - SILENT - 1)}, {}, "lost", "nothing"),
        ({STATUS: status(process=-3)}, {}, "lost", "its process is gone"),
        # a process that is younger than the status is another one
        ({STATUS: status(process=os.getpid(), updated=1000.0)}, {}, "lost", "is gone"),
    ],
)
def test_the_state_follows_from_files_and_queue(tmp_path, files, jobs, state, reason):
    run = only(write(tmp_path / "run", files).parent, jobs)
    assert run.state == state
    assert reason in run.reason


def test_job_scores_and_checkpoint_are_the_latest_and_the_best(tmp_path):
    rows = [{"encoder": "pixels", "epoch": 0, "scores": {"miou/mean": 99.0}}]
    for epoch, (miou, knn) in enumerate([(5.0, 3.0), (7.0, 4.0), (6.0, 5.0)], 1):
        scores = {"miou/mean": miou, "knn/top1": knn}
        rows.append({"encoder": "trained", "epoch": epoch, "scores": scores})
    later = {"job": "8", "submitted": time.time()}
    run = only(write(tmp_path, {STATUS: status(job="7"), JOB: later, ROWS: rows, "last.ckpt": ""}))
    assert run.best == {"tag": "miou/mean", "value": 7.0, "epoch": 2}
    assert run.measured == {"miou/mean": 6.0, "knn/top1": 5.0}
    assert 0 <= run.checkpoint < 60
    assert run.job == "8"
    (tmp_path / "last.ckpt").unlink()
    (tmp_path / "last.ckpt").symlink_to("/dev/null/nothing")  # it is not opened
    run = only(write(tmp_path, {JOB: {"job": "8", "submitted": 0.0}}))
    assert (run.job, run.checkpoint) == ("7", None)


GOOD = status(metrics={"loss": 1.0})
ROW = {"encoder": "trained", "epoch": 1, "scores": {"knn/top1": 1.0}}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((STATUS, content) for content in ([], "x", None, 3, {"state": "odd"}, "[" * 99999, "")),
        *((STATUS, {**GOOD, name: "x"}) for name in ("step", "metrics", "updated", "restarts")),
        *((STATUS, {**GOOD, **x}) for x in ({"updated": math.inf}, {"metrics": {"loss": None}})),
        (STATUS, {**GOOD, "host": "\ud800"}),  # no text, and could not be printed
        *((ROWS, content) for content in ("\0", [3], {}, [{"epoch": 1}], [{**ROW, "scores": []}])),
        *((ROWS, [{**ROW, "scores": {"knn/top1": x}}]) for x in ("x", math.nan)),
        *((JOB, content) for content in ("{", {"job": "7", "submitted": "x"}, {"job": 7}, {})),
    ],
)
def test_a_damaged_file_is_named_and_hides_no_other_run(tmp_path, capsys, name, content):
    write(tmp_path / "good", {STATUS: GOOD})
    write(tmp_path / "odd", {name: content})
    for words in ([], ["--json"]):
        main(["runs", str(tmp_path), *words])
        shown = capsys.readouterr().out
        assert f"{name} cannot be read" in shown
        assert "good" in shown


def test_a_table_and_json_have_what_is_known(tmp_path, capsys):
    known = {"step": 11_000, "steps": 125_000, "metrics": {"loss": 9.5}, "restarts": 2, "job": "7"}
    failed = status("failed", **known, host="n1.far.example", reason="[b] odd", warning="careful")
    rows = [{**ROW, "scores": {"miou/mean": 61.25}}]
    write(tmp_path / "dino/seed0", {STATUS: failed, ROWS: rows, "last.ckpt": ""})
    write(tmp_path / "stopped", {STATUS: status("stopped")})
    write(tmp_path / "dino/seed0/inner", {})
    write(tmp_path / ".hidden/run", {})
    main(["runs", str(tmp_path)])
    shown = capsys.readouterr().out
    for text in ("dino/seed0", "11,000/125,000", "9.500", "miou/mean 61.2 (best 61.2)", "n1"):
        assert text in shown
    for text in ("7 start 3", "ago", "[b] odd", "careful", "1 failed, 1 stopped\n"):
        assert text in shown
    main(["runs", str(tmp_path), "--state", "failed", "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["folder"], row["state"]) == (str(tmp_path / "dino/seed0"), "failed")
    assert row["status"] == failed
    assert status()["host"] == platform.node()
    with refused("root"):
        list(find_runs(tmp_path / "none", {}))


@pytest.mark.parametrize(
    ("variables", "job"),
    [
        ({"SLURM_JOB_ID": "12"}, "12"),
        ({"SLURM_JOB_ID": "14", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "2"}, "12_2"),
    ],
)
def test_a_job_is_requeued_by_its_number(monkeypatch, tmp_path, variables, job):
    assert job_id() == ""
    fake = tmp_path / "scontrol"
    fake.write_text('#!/bin/sh\necho "$@" > "$(dirname "$0")/asked"; exit ${REFUSED:-0}\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert requeue() == f"job {job} is requeued"
    assert (tmp_path / "asked").read_text() == f"requeue {job}\n"
    monkeypatch.setenv("REFUSED", "1")
    assert "could not be requeued" in requeue()
