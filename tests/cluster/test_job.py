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


def directives(job):
    lines = job.script().splitlines()
    return [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")]


def told(job, tmp_path, **variables):
    """Run the script in bash, where srun prints its words; returns these and the variables."""
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


def test_a_script_asks_for_what_was_asked():
    assert directives(JOB) == [
        *("job-name=dino", "nodes=2", "ntasks-per-node=8", "cpus-per-task=11", "gpus-per-node=8"),
        *("time=48:00:00", "signal=USR1@120", "requeue", "open-mode=append", "chdir=/home/me"),
        "output=/runs/dino/job/%j.out",
    ]
    asked = replace(OPTIONS, partition="a", account="b", qos="c", constraint="d&e", mem="200G")
    asked = replace(asked, signal_before=300, sbatch=["mail-type=END", "exclusive"])
    found = directives(replace(JOB, options=asked))
    for line in ("partition=a", "account=b", "qos=c", 'constraint="d&e"', "mem=200G"):
        assert line in found
    assert found[-2:] == ["mail-type=END", "exclusive"]
    assert "signal=USR1@300" in found


def test_the_script_starts_one_process_for_each_task_with_srun(tmp_path):
    port, address, allowed, *words = told(replace(JOB, fit_options=("--x", "1")), tmp_path)
    assert (port, address, allowed) == ("21789", "", "")  # of the job's last four digits
    assert words == [
        *("--kill-on-bad-exit=1", "--cpus-per-task=11", "/venv/bin/python", "-m", "vitlab", "fit"),
        *("--config", "/runs/dino/job/config.yaml", "--run-dir", "/runs/dino", "--x", "1"),
    ]


def test_without_gpus_there_are_tasks_and_no_gpus():
    asked = replace(OPTIONS, gpus_per_node=0, tasks_per_node=3)
    found = directives(replace(JOB, options=asked))
    assert "ntasks-per-node=3" in found
    assert not any(line.startswith("gpus") for line in found)


def test_on_one_machine_the_ranks_need_no_name_of_it(tmp_path):
    one = replace(JOB, options=replace(OPTIONS, num_nodes=1))
    assert told(one, tmp_path)[1] == "127.0.0.1"


def test_an_array_has_a_folder_and_an_output_for_each_seed(tmp_path):
    job = replace(JOB, options=replace(OPTIONS, seeds="0-1,7"))
    assert [folder.name for folder in job.folders()] == ["seed0", "seed1", "seed7"]
    assert "array=0-1,7" in directives(job)
    assert "output=/runs/dino/seed%a/job/%A_%a.out" in directives(job)
    words = told(job, tmp_path, SLURM_ARRAY_TASK_ID="7")[3:]
    assert words[words.index("--run-dir") + 1] == "/runs/dino/seed7"
    assert words[words.index("--config") + 1] == "/runs/dino/seed7/job/config.yaml"
    assert words[words.index("--seed_everything") + 1] == "7"


@settings(max_examples=40, deadline=None)
@given(st.lists(TEXT, max_size=4), LINE, LINE, TEXT)
def test_words_and_names_survive_bash(tmp_path_factory, words, folder, python, command):
    tmp_path = tmp_path_factory.mktemp("bash")
    folder = Path("/") / folder.replace("/", "_")
    # a command's own lines stay comments
    job = replace(
        JOB, folder=folder, python=f"/{python}", fit_options=words, command=command, allow="a,b"
    )
    _, _, allowed, *found = told(job, tmp_path)
    assert allowed == "a,b"
    assert found[2] == f"/{python}"
    assert found[found.index("--run-dir") + 1] == str(folder)
    assert found[-len(words) :] == words or not words


def test_lines_of_setup_come_first_and_a_failing_one_ends_the_job(tmp_path):
    def setup(line):
        return replace(JOB, options=replace(OPTIONS, setup=[line]))

    assert told(setup("export VITLAB_ALLOW='mine'"), tmp_path)[2] == "mine"
    with pytest.raises(subprocess.CalledProcessError):
        told(setup("false"), tmp_path)


@given(TEXT)
def test_a_line_break_cannot_add_a_directive(text):
    try:
        found = directives(replace(JOB, folder=Path(f"/x{text}")))
    except ValueError:
        assert not text.isprintable()
    else:
        assert len(found) == len(directives(JOB))


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("30", 1800),
        ("90:00", 5400),
        ("1:30", 90),
        ("48:00:00", 172800),
        ("2-12", 216000),
        ("1-0:30", 88200),
        ("1-0:0:5", 86405),
    ],
)
def test_a_limit_is_read_as_slurm_reads_it(time, expected):
    assert parse_time(time) == expected


@pytest.mark.parametrize(
    ("field", "change"),
    [
        *(("--time", {"time": time}) for time in ("", "two hours", "1:2:3:4", "-5", "48h", "1-")),
        *(("--time", {"time": time}) for time in ("1.5", "12:99:99", "1:60", "٣", "3")),
        ("--time", {"signal_before": 172740}),
        ("--num-nodes", {"num_nodes": 0}),
        ("--gpus-per-node", {"gpus_per_node": -1}),
        ("--cpus-per-task", {"cpus_per_task": 0}),
        ("--tasks-per-node", {"tasks_per_node": 2}),
        *(("--sbatch", {"sbatch": [option]}) for option in ("signal=B:USR1", "x y=1")),
        *(("--name", {"name": name}) for name in ("bash", "interactive", "two words", "a/b")),
        *(("--seeds", {"seeds": seeds}) for seeds in ("x", "0-", "3-1", "0,0", "0-2,1", "-1", "٣")),
        ("--partition", {"partition": "a\nb"}),
    ],
    ids=str,
)
def test_options_that_slurm_would_refuse_or_misread_are_refused(field, change):
    with refused(field):
        replace(JOB, options=replace(OPTIONS, **change))


@given(st.lists(st.integers(0, 99), min_size=1, max_size=5, unique=True))
def test_seeds_are_those_that_were_written(seeds):
    assert parse_seeds(",".join(map(str, seeds))) == seeds


def test_a_script_is_bash_without_mistakes():
    job = replace(JOB, command="vitlab submit\n#SBATCH --array=0-9\nrm -rf x")
    subprocess.run(["bash", "-n", "-c", job.script()], check=True)
    assert len(directives(job)) == len(directives(JOB))
    assert not any(line.startswith("rm") for line in job.script().splitlines())
