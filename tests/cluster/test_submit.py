"""`vitlab submit` with a program that stands in for sbatch."""

import stat
from pathlib import Path

import pytest
import yaml
from refusals import check_wording, refused

from vitlab.commands.submit import run as submit

ROOT = Path(__file__).parents[2]
WORDS = ["--config", str(ROOT / "configs/dino.yaml"), "--time", "48:00:00"]
FIT = ["--", "--data.root", "/on/the/nodes/only"]
REFUSES = "#!/bin/sh\necho 'no such partition' >&2\nexit 1\n"


@pytest.fixture(autouse=True)
def no_slurm(tmp_path, monkeypatch):
    """An empty folder, on a machine without SLURM."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


@pytest.fixture
def sbatch(tmp_path) -> Path:
    """A stand-in for sbatch; returns the file with its arguments."""
    program = tmp_path / "bin/sbatch"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\necho 41\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return tmp_path / "asked"


def test_a_dry_run_shows_the_script_and_writes_nothing(capsys):
    resources = ["--num-nodes", "2", "--gpus-per-node", "8", "--setup", "module load x"]
    submit([*WORDS, *resources, "--dry-run", *FIT, "--data.num_workers", "5"])
    script, errors = capsys.readouterr()
    assert "#SBATCH --ntasks-per-node=8" in script
    assert "#SBATCH --cpus-per-task=6" in script  # the loading processes and one
    assert f"#SBATCH --output={Path.cwd()}/runs/dino/seed0/job/%j.out" in script
    assert "\nmodule load x\n" in script
    assert errors == ""
    assert [path.name for path in Path.cwd().iterdir()] == ["bin"]


def test_the_config_that_is_kept_is_the_one_that_was_checked(sbatch, capsys):
    Path("mine.yaml").write_text("trainer: {max_epochs: 7, devices: 3}")
    submit([*WORDS, "--config", "mine.yaml", "--num-nodes", "2", "--gpus-per-node", "4", *FIT])
    Path("mine.yaml").write_text("trainer: {max_epochs: 9}")
    folder = Path("runs/dino-mine/seed0/job")
    kept = yaml.safe_load((folder / "config.yaml").read_text())
    assert kept["trainer"]["max_epochs"] == 7
    asked = [str(kept["trainer"][name]) for name in ("devices", "num_nodes", "accelerator")]
    assert asked == ["4", "2", "gpu"]
    assert kept["trainer"]["enable_progress_bar"] is False
    assert kept["data"]["init_args"]["root"] == "/on/the/nodes/only"
    assert sbatch.read_text() == f"--parsable {folder.absolute()}/job.sh\n"
    assert "submitted job 41" in capsys.readouterr().out
    assert '"job": "41"' in (folder / "job.json").read_text()
    submit([*WORDS, "--config", "mine.yaml", *FIT])  # it never began
    assert sbatch.read_text().count("\n") == 2


def test_each_seed_has_its_folder_and_its_job(sbatch):
    submit([*WORDS, "--seeds", "0-2", *FIT, "--run-dir", "arm"])
    assert sbatch.read_text().count("\n") == 1
    for seed in range(3):
        folder = Path(f"arm/seed{seed}/job")
        assert f'"job": "41_{seed}"' in (folder / "job.json").read_text()
        assert (folder / "config.yaml").exists()


@pytest.mark.parametrize(
    ("field", "words"),
    [
        (None, [*WORDS, "--gpus-per-node", "3", *FIT]),  # 512 does not divide
        ("--trainer.devices", [*WORDS, *FIT, "--trainer.devices", "4"]),
        ("--config", [*WORDS, *FIT, "--config=x.yaml"]),
        ("--dry-run", [*WORDS, *FIT, "--dry-run"]),
        ("--seed_everything", [*WORDS, "--seeds", "0-1", *FIT, "--seed_everything", "3"]),
        ("--name", [*WORDS, "--name", "bash", *FIT]),
        (None, [*WORDS, *FIT, "--ckpt_path", "last"]),
        ("--time", [*WORDS[:-1], "soon", *FIT]),
        ("--sbatch", [*WORDS, "--sbatch", "time=1", *FIT]),
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


def test_words_that_do_not_parse_end_with_a_short_message(capsys, sbatch):
    with pytest.raises(SystemExit) as stop:
        submit([*WORDS, "--config", "none.yaml", *FIT])
    errors = capsys.readouterr().err
    assert stop.value.code == 2
    assert len(errors.splitlines()) < 10
    assert "none.yaml" in errors
    with refused("model.objectiv"):
        submit([*WORDS, *FIT, "--model.objectiv", "x"])
    assert not sbatch.exists()


def test_a_refused_submission_leaves_nothing(sbatch, tmp_path):
    with refused("job.sh"):
        (tmp_path / "bin/sbatch").write_text(REFUSES)
        submit([*WORDS, "--seeds", "0-2", *FIT, "--run-dir", "arm"])
    assert not Path("arm").exists()
    (tmp_path / "bin/sbatch").write_text("#!/bin/sh\necho 41\n")
    submit([*WORDS, *FIT, "--run-dir", "one"])
    (tmp_path / "bin/sbatch").write_text(REFUSES)
    with refused("job.sh"):
        submit([*WORDS, *FIT, "--run-dir", "one"])
    files = sorted(path.name for path in Path("one/job").iterdir())
    assert files == ["config.yaml", "job.json", "job.sh"]
    for content in ("{", "[]", "[" * 99999, '{"job": 3}'):
        Path("one/job/job.json").write_text(content)
        with refused("job.json", wording=False):
            submit([*WORDS, *FIT, "--run-dir", "one"])


def test_without_slurm_the_message_has_a_remedy():
    with refused():
        submit([*WORDS, *FIT])
