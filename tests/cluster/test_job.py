"""Batch scripts: what sbatch and bash read from them."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

from vitlab.cluster.job import Job, SubmitOptions, parse_seeds, parse_time

OPTIONS = SubmitOptions(["dino.yaml"], "48:00:00", num_nodes=2, gpus_per_node=8, cpus_per_task=11)
JOB = Job(OPTIONS, Path("/runs/dino"), Path("/home/me"), "/venv/bin/python")
# what can stand in an argument of a process, and on a line
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
LINE = TEXT.filter(str.isprintable)


def with_options(**changes) -> Job:
    return replace(JOB, options=replace(OPTIONS, **changes))


def directives(job):
    lines = job.script().splitlines()
    return [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")]


def run(job, tmp_path, **variables):
    """Run the script in bash; returns port, address, VITLAB_ALLOW and the arguments of srun."""
    srun = tmp_path / "srun"
    srun.write_text(
        '#!/bin/bash\nprintf "%s\\0" "$MASTER_PORT" "$MASTER_ADDR" "$VITLAB_ALLOW" "$@"'
    )
    srun.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", job.script()],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "123456789", **variables},
        capture_output=True,
        check=True,
    )
    return done.stdout.decode().split("\0")[:-1]


def test_directives_are_those_of_the_options():
    assert directives(JOB) == [
        *("job-name=dino", "nodes=2", "ntasks-per-node=8", "cpus-per-task=11", "gpus-per-node=8"),
        *("time=48:00:00", "signal=USR1@120", "requeue", "open-mode=append", "chdir=/home/me"),
        "output=/runs/dino/job/%j.out",
    ]
    asked = {"partition": "a", "account": "b", "qos": "c", "constraint": "d&e", "mem": "200G"}
    found = directives(
        with_options(**asked, signal_before=300, sbatch=["mail-type=END", "exclusive"])
    )
    expected = {"partition=a", "account=b", "qos=c", 'constraint="d&e"', "mem=200G"}
    assert expected | {"signal=USR1@300"} <= set(found)
    assert found[-2:] == ["mail-type=END", "exclusive"]
    on_cpus = directives(with_options(gpus_per_node=0, tasks_per_node=3))
    assert "ntasks-per-node=3" in on_cpus
    assert not any(line.startswith("gpus") for line in on_cpus)


def test_srun_starts_one_process_for_each_task(tmp_path):
    port, address, allowed, *words = run(replace(JOB, fit_options=("--x", "1")), tmp_path)
    assert (port, address, allowed) == ("21789", "", "")  # of the job's last four digits
    assert words == [
        *("--kill-on-bad-exit=1", "--cpus-per-task=11", "/venv/bin/python", "-m", "vitlab", "fit"),
        *("--config", "/runs/dino/job/config.yaml", "--run-dir", "/runs/dino", "--x", "1"),
    ]
    assert run(with_options(num_nodes=1), tmp_path)[1] == "127.0.0.1"


def test_an_array_has_a_folder_and_an_output_for_each_seed(tmp_path):
    job = with_options(seeds="0-1,7")
    assert [folder.name for folder in job.folders()] == ["seed0", "seed1", "seed7"]
    assert {"array=0-1,7", "output=/runs/dino/seed%a/job/%A_%a.out"} <= set(directives(job))
    words = run(job, tmp_path, SLURM_ARRAY_TASK_ID="7")[3:]
    assert words[words.index("--run-dir") + 1] == "/runs/dino/seed7"
    assert words[words.index("--config") + 1] == "/runs/dino/seed7/job/config.yaml"
    assert words[words.index("--seed_everything") + 1] == "7"


@settings(max_examples=40, deadline=None)
@given(st.lists(TEXT, max_size=4), LINE, LINE, TEXT)
def test_words_and_names_survive_bash(tmp_path_factory, words, folder, python, command):
    folder = Path("/") / folder.replace("/", "_")
    changes = {"folder": folder, "python": f"/{python}", "fit_options": words, "allow": "a,b"}
    job = replace(JOB, **changes, command=f"{command}\n#SBATCH --array=0-9\nrm -rf x")
    _, _, allowed, *found = run(job, tmp_path_factory.mktemp("bash"))
    assert allowed == "a,b"
    assert found[2] == f"/{python}"
    assert found[found.index("--run-dir") + 1] == str(folder)
    assert found[-len(words) :] == words or not words
    assert len(directives(job)) == len(directives(JOB))  # those of the command are comments


def test_lines_of_setup_come_first_and_a_failing_one_ends_the_job(tmp_path):
    assert run(with_options(setup=["export VITLAB_ALLOW='mine'"]), tmp_path)[2] == "mine"
    with pytest.raises(subprocess.CalledProcessError):
        run(with_options(setup=["false"]), tmp_path)


@given(TEXT)
def test_a_line_break_cannot_add_a_directive(text):
    try:
        found = directives(replace(JOB, folder=Path(f"/x{text}")))
    except ValueError:
        assert not text.isprintable()
    else:
        assert len(found) == len(directives(JOB))


def test_times_and_seeds_are_read_as_slurm_reads_them():
    times = {"30": 1800, "90:00": 5400, "1:30": 90, "48:00:00": 172800}
    times |= {"2-12": 216000, "1-0:30": 88200, "1-0:0:5": 86405}
    assert {time: parse_time(time) for time in times} == times
    assert parse_seeds("0-2,7,4-5") == [0, 1, 2, 7, 4, 5]


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("--time", [{"time": time} for time in ("", "two hours", "1:2:3:4", "-5", "48h", "1-")]),
        ("--time", [{"time": time} for time in ("1.5", "12:99:99", "1:60", "٣", "3")]),
        ("--time", [{"signal_before": 172740}]),
        ("--num-nodes", [{"num_nodes": 0}]),
        ("--gpus-per-node", [{"gpus_per_node": -1}]),
        ("--cpus-per-task", [{"cpus_per_task": 0}]),
        ("--tasks-per-node", [{"tasks_per_node": 2}]),
        ("--sbatch", [{"sbatch": [option]} for option in ("signal=B:USR1", "x y=1")]),
        ("--name", [{"name": name} for name in ("bash", "interactive", "two words", "a/b")]),
        ("--seeds", [{"seeds": s} for s in ("x", "0-", "3-1", "0,0", "0-2,1", "-1", "٣")]),
        ("--partition", [{"partition": "a\nb"}]),
    ],
)
def test_options_that_slurm_would_refuse_or_misread_are_refused(field, changes):
    for change in changes:
        with refused(field):
            with_options(**change)
