"""`vitlab submit`: the script as sbatch and bash read it; a program stands in for sbatch."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import check_wording, refused

from vitlab.cluster.job import SubmitOptions, batch_script, parse_seeds, parse_time
from vitlab.commands.submit import run as submit

WORDS = ["--config", str(Path(__file__).parents[2] / "configs/dino.yaml"), "--time", "48:00:00"]
FIT = ["--", "--data.root", "/on/the/nodes/only"]
OPTIONS = SubmitOptions(["dino.yaml"], "48:00:00", num_nodes=2, gpus_per_node=8, cpus_per_task=11)
# what can stand in an argument of a process, and on a line
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
LINE = TEXT.filter(str.isprintable)


@pytest.fixture(autouse=True)
def programs(tmp_path, monkeypatch):
    """An empty folder, on a machine whose only programs are those of the returned folder."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin"


@pytest.fixture
def sbatch(programs) -> Path:
    """Install a stand-in for sbatch; returns the file with its arguments."""
    program(programs / "sbatch", f'echo "$@" >> {programs}/asked\necho 41')
    return programs / "asked"


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def script(root="/runs/dino", words=(), command="", **changes) -> str:
    return batch_script(replace(OPTIONS, **changes), Path(root), words, command)


def directives(text: str) -> list[str]:
    lines = text.splitlines()
    return [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")]


def run(text: str, folder: Path, **variables: str) -> list[str]:
    """Run a script in bash; returns port, address, VITLAB_ALLOW and the arguments of srun."""
    printed = '"$MASTER_PORT" "$MASTER_ADDR" "$VITLAB_ALLOW" "$@"'
    (folder / "srun").write_text(f'#!/bin/bash\nprintf "%s\\0" {printed}')
    (folder / "srun").chmod(0o755)
    known = {"PATH": f"{folder}:/usr/bin:/bin", "SLURM_JOB_ID": "123456789"}
    words = ["/bin/bash", "-c", text]
    done = subprocess.run(words, env={**known, **variables}, capture_output=True, check=True)
    return done.stdout.decode().split("\0")[:-1]


def test_directives_are_those_of_the_options():
    own = {"partition": "a", "account": "b", "qos": "c", "constraint": "d&e", "mem": "200G"}
    more = {"signal_before": 300, "sbatch": ["mail-type=END", "exclusive"]}
    found = directives(script(**own, **more))
    expected = {"job-name=dino", "nodes=2", "ntasks-per-node=8", "cpus-per-task=11"}
    expected |= {"gpus-per-node=8", "time=48:00:00", "signal=USR1@300", "requeue"}
    expected |= {"open-mode=append", f"chdir={Path.cwd()}", "output=/runs/dino/job/%j.out"}
    expected |= {"partition=a", "account=b", "qos=c", 'constraint="d&e"', "mem=200G"}
    assert set(found) == expected | {"mail-type=END", "exclusive"}
    assert len(directives(script())) == len(expected) - len(own)
    on_cpus = directives(script(gpus_per_node=0, tasks_per_node=3))
    assert "ntasks-per-node=3" in on_cpus
    assert not any(line.startswith("gpus") for line in on_cpus)
    assert 'output="/x y/50%%/job/%j.out"' in directives(script("/x y/50%"))


@pytest.mark.parametrize("seeds", ["", "0-1,7"])
def test_srun_starts_a_run_or_that_of_a_seed(programs, seeds):
    text = script(words=("--x", "1"), seeds=seeds)
    port, address, allowed, *words = run(text, programs, SLURM_ARRAY_TASK_ID="7")
    assert (port, address, allowed) == ("21789", "", "")  # of the job's last four digits
    folder = "/runs/dino/seed7" if seeds else "/runs/dino"
    assert words[:2] == ["--kill-on-bad-exit=1", "--cpus-per-task=11"]
    assert words[3:10] == [
        *("-m", "vitlab", "fit", "--config", f"{folder}/job/config.yaml", "--run-dir", folder)
    ]
    assert words[10:] == [*(["--seed_everything", "7"] if seeds else []), "--x", "1"]
    assert run(script(num_nodes=1), programs)[1] == "127.0.0.1"
    if seeds:
        assert {"array=0-1,7", "output=/runs/dino/seed%a/job/%A_%a.out"} <= set(directives(text))
        runs = replace(OPTIONS, seeds=seeds).folders(Path("x"))
        assert [run.name for run in runs] == ["seed0", "seed1", "seed7"]


@settings(max_examples=40)
@given(st.lists(TEXT, max_size=4), LINE, LINE, TEXT)
def test_words_and_names_survive_bash(tmp_path_factory, words, folder, python, command):
    folder = str(Path("/") / folder.replace("/", "_"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.executable", f"/{python}")
        patch.setenv("VITLAB_ALLOW", "a,b")
        text = script(folder, words, f"{command}\n#SBATCH --array=0-9\nrm -rf x")
    _, _, allowed, *found = run(text, tmp_path_factory.mktemp("bash"))
    assert (allowed, found[2]) == ("a,b", f"/{python}")
    assert found[found.index("--run-dir") + 1] == folder
    assert found[-len(words) :] == words or not words
    assert len(directives(text)) == len(directives(script()))  # those of the command are comments


def test_setup_adds_packages_but_takes_none_away_and_a_failing_line_ends_the_job(
    programs, monkeypatch
):
    text = script(setup=["export VITLAB_ALLOW='mine'"])
    assert run(text, programs)[2] == "mine"
    monkeypatch.setenv("VITLAB_ALLOW", "a,b")
    text = script(setup=["export VITLAB_ALLOW='mine'"])
    assert run(text, programs)[2] == "a,b,mine"
    assert run(script(), programs)[2] == "a,b"
    with pytest.raises(subprocess.CalledProcessError):
        run(script(setup=["false"]), programs)


def test_times_and_seeds_are_read_as_slurm_reads_them():
    times = {"30": 1800, "90:00": 5400, "48:00:00": 172800, "2-12": 216000, "1-0:30": 88200}
    times |= {"1-0:0:5": 86405}
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
        ("--sbatch", [{"sbatch": [word]} for word in ("signal=B:USR1", "x y=1", "wrap", "time=1")]),
        ("--name", [{"name": name} for name in ("bash", "interactive", "two words", "a/b")]),
        ("--seeds", [{"seeds": s} for s in ("x", "0-", "3-1", "0,0", "0-2,1", "-1", "٣")]),
        ("--partition", [{"partition": "a\nb"}]),
        ("--output", [{"root": "/x\n#SBATCH --y"}]),
    ],
)
def test_options_that_slurm_would_refuse_or_misread_are_refused(field, changes):
    for change in changes:
        with refused(field):
            script(**change)


def test_a_dry_run_shows_the_script_and_writes_nothing(capsys):
    submit([*WORDS, "--setup", "module load x", "--dry-run", *FIT, "--data.num_workers", "5"])
    text, errors = capsys.readouterr()
    assert "#SBATCH --cpus-per-task=6" in text  # the loading processes and one
    assert f"#SBATCH --output={Path.cwd()}/runs/dino/seed0/job/%j.out" in text
    assert "\nmodule load x\n" in text
    assert (errors, list(Path.cwd().iterdir())) == ("", [])


def test_the_config_that_is_kept_is_the_one_that_was_checked(sbatch, capsys):
    Path("mine.yaml").write_text("trainer: {max_epochs: 7, devices: 3}")
    submit([*WORDS, "--config", "mine.yaml", "--num-nodes", "2", "--gpus-per-node", "4", *FIT])
    Path("mine.yaml").write_text("trainer: {max_epochs: 9}")
    folder = Path("runs/dino-mine/seed0/job")
    kept = yaml.safe_load((folder / "config.yaml").read_text())
    names = ("max_epochs", "devices", "num_nodes", "accelerator")
    assert [str(kept["trainer"][name]) for name in names] == ["7", "4", "2", "gpu"]
    assert kept["data"]["init_args"]["root"] == "/on/the/nodes/only"
    assert sbatch.read_text() == f"--parsable {folder.absolute()}/job.sh\n"
    assert "submitted job 41" in capsys.readouterr().out
    assert '"job": "41"' in (folder / "job.json").read_text()
    submit([*WORDS, "--config", "mine.yaml", *FIT])  # it never began
    submit([*WORDS, "--seeds", "0-2", *FIT, "--run-dir", "arm"])
    assert sbatch.read_text().count("\n") == 3
    for seed in range(3):
        assert f'"job": "41_{seed}"' in Path(f"arm/seed{seed}/job/job.json").read_text()
        assert Path(f"arm/seed{seed}/job/config.yaml").exists()


@pytest.mark.parametrize(
    ("field", "words"),
    [
        (None, [*WORDS, "--gpus-per-node", "3", *FIT]),  # 512 does not divide
        ("--trainer.devices", [*WORDS, *FIT, "--trainer.devices", "4"]),
        ("--config", [*WORDS, *FIT, "--config=x.yaml"]),
        ("--dry-run", [*WORDS, *FIT, "--dry-run"]),
        ("--seed_everything", [*WORDS, "--seeds", "0-1", *FIT, "--seed_everything", "3"]),
        (None, [*WORDS, *FIT, "--ckpt_path", "last"]),
        ("model.objectiv", [*WORDS, *FIT, "--model.objectiv", "x"]),
        (None, [*WORDS, "--config", "bad.yaml", *FIT]),  # builds os.system
        (None, [*WORDS, *FIT, "--run-dir", "finished"]),
    ],
)
def test_a_mistake_fails_before_the_queue(field, words, sbatch):
    Path("bad.yaml").write_text("trainer: {callbacks: [{class_path: os.system}]}")
    Path("finished").mkdir()
    Path("finished/results.json").write_text("[]")
    with pytest.raises(ValueError) as error:  # noqa: PT011
        submit(words)
    assert field is None or error.value.field == field
    check_wording(str(error.value))
    assert not sbatch.exists()
    assert not Path("runs").exists()


def test_a_refused_submission_leaves_nothing(sbatch):
    program(sbatch.with_name("sbatch"), "echo 'no such partition' >&2\nexit 1")
    with refused("sbatch"):
        submit([*WORDS, "--seeds", "0-2", *FIT, "--run-dir", "arm"])
    assert not Path("arm").exists()
    program(sbatch.with_name("sbatch"), "echo 41")
    submit([*WORDS, *FIT, "--run-dir", "one"])
    program(sbatch.with_name("sbatch"), "exit 1")
    with refused("sbatch"):
        submit([*WORDS, *FIT, "--run-dir", "one"])
    files = sorted(path.name for path in Path("one/job").iterdir())
    assert files == ["config.yaml", "job.json", "job.sh"]
    program(sbatch.with_name("squeue"), "echo '41|RUNNING|None'")
    with refused("--run-dir"):
        submit([*WORDS, *FIT, "--run-dir", "one"])
    Path("one/job/job.json").write_text('{"job": 3}')
    with refused("job.json", wording=False):
        submit([*WORDS, *FIT, "--run-dir", "one"])


def test_without_slurm_the_message_has_a_remedy():
    with refused():
        submit([*WORDS, *FIT])
