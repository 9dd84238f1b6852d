import re
import stat
from pathlib import Path

import pytest
import yaml

from vitlab.cli import main

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs/dino.yaml")
WORDS = ["submit", "--config", CONFIG, "--time", "48:00:00"]
FIT = ["--", "--data.root", "/on/the/nodes/only"]


@pytest.fixture(autouse=True)
def no_slurm(tmp_path, monkeypatch):
    """An empty folder, on a machine without SLURM."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


@pytest.fixture
def sbatch(tmp_path) -> Path:
    """A program that stands in for sbatch, and keeps what it was given."""
    program = tmp_path / "bin/sbatch"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\necho 41\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return tmp_path / "asked"


def refused(words, capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert not Path("runs").exists()
    return capsys.readouterr().err


def test_a_dry_run_shows_the_script_and_writes_nothing(capsys):
    main(
        [
            *WORDS,
            *["--num-nodes", "2", "--gpus-per-node", "8", "--dry-run", "--setup"],
            "module load x",
            *FIT,
        ]
    )
    script = capsys.readouterr().out
    assert "#SBATCH --ntasks-per-node=8" in script
    assert f"#SBATCH --output={Path.cwd()}/runs/dino/seed0/job/%j.out" in script
    assert "\nmodule load x\n" in script
    assert [path.name for path in Path.cwd().iterdir()] == ["bin"]


def test_cores_follow_from_the_processes_that_load_images(capsys):
    main([*WORDS, "--dry-run", *FIT, "--data.num_workers", "5"])
    assert "#SBATCH --cpus-per-task=6" in capsys.readouterr().out
    main([*WORDS, "--cpus-per-task", "3", "--dry-run", *FIT])
    assert "#SBATCH --cpus-per-task=3" in capsys.readouterr().out


def test_the_config_that_is_kept_is_the_one_that_was_checked(sbatch, capsys):
    Path("mine.yaml").write_text("trainer: {max_epochs: 7, devices: 3}")
    main([*WORDS, "--config", "mine.yaml", "--num-nodes", "2", "--gpus-per-node", "4", *FIT])
    Path("mine.yaml").write_text("trainer: {max_epochs: 9}")
    folder = Path("runs/dino-mine/seed0/job")
    kept = yaml.safe_load((folder / "config.yaml").read_text())
    assert kept["trainer"]["max_epochs"] == 7
    asked = {name: kept["trainer"][name] for name in ("devices", "num_nodes", "accelerator")}
    assert asked in ({"devices": d, "num_nodes": 2, "accelerator": "gpu"} for d in (4, "4"))
    assert kept["trainer"]["enable_progress_bar"] is False
    assert kept["data"]["init_args"]["root"] == "/on/the/nodes/only"
    assert sbatch.read_text() == f"--parsable {folder.absolute()}/job.sh\n"
    assert "submitted job 41" in capsys.readouterr().out
    assert '"job": "41"' in (folder / "job.json").read_text()


def test_each_seed_has_its_folder_and_its_job(sbatch):
    main([*WORDS, "--seeds", "0-2", *FIT, "--run-dir", "arm"])
    assert sbatch.read_text().count("\n") == 1
    for seed in range(3):
        folder = Path(f"arm/seed{seed}/job")
        assert f'"job": "41_{seed}"' in (folder / "job.json").read_text()
        assert (folder / "config.yaml").exists()


def test_a_submitted_run_that_never_began_can_be_submitted_again(sbatch):
    main([*WORDS, *FIT])
    main([*WORDS, *FIT])
    assert sbatch.read_text().count("\n") == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*WORDS, "--gpus-per-node", "3", *FIT], "512"),
        ([*WORDS, *FIT, "--trainer.devices", "4"], "use --gpus-per-node"),
        ([*WORDS, *FIT, "--config=x.yaml"], "use --config before the --"),
        ([*WORDS, *FIT, "--dry-run"], "use --dry-run before the --"),
        ([*WORDS, "--seeds", "0-1", *FIT, "--seed_everything", "3"], "use --seeds"),
        ([*WORDS, "--name", "bash", *FIT], "is not a name for a job"),
        ([*WORDS, *FIT, "--ckpt_path", "last"], "there is no checkpoint"),
        ([*WORDS, *FIT, "--model.objectiv", "x"], "objectiv"),
        ([*WORDS, "--config", "none.yaml", *FIT], "none.yaml"),
        ([*WORDS[:-1], "soon", *FIT], "--time soon is no limit"),
        ([*WORDS, "--sbatch", "time=1", *FIT], "--sbatch time"),
    ],
)
def test_a_mistake_fails_before_the_queue(words, message, capsys, sbatch):
    assert message in re.sub(r"\s+", " ", refused(words, capsys))
    assert not sbatch.exists()


def test_a_config_from_elsewhere_is_not_even_submitted(capsys, sbatch):
    Path("bad.yaml").write_text("trainer: {callbacks: [{class_path: os.system}]}")
    error = refused([*WORDS, "--config", "bad.yaml", *FIT], capsys)
    assert "bad.yaml: trainer.callbacks[0].class_path names os.system" in error
    assert not sbatch.exists()


def test_without_slurm_or_with_a_refusal_of_sbatch_the_reason_is_printed(capsys, tmp_path):
    assert "see the script with --dry-run" in refused([*WORDS, *FIT], capsys)
    program = tmp_path / "bin/sbatch"
    program.write_text("#!/bin/sh\necho 'no such partition' >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(SystemExit):
        main([*WORDS, "--partition", "x", *FIT])
    assert "no such partition" in capsys.readouterr().err


def test_a_refused_submission_leaves_nothing(capsys, sbatch, tmp_path):
    accepts, refuses = (tmp_path / "bin/sbatch").read_text(), "#!/bin/sh\nexit 1\n"
    (tmp_path / "bin/sbatch").write_text(refuses)
    refused([*WORDS, "--seeds", "0-2", *FIT, "--run-dir", "arm"], capsys)
    assert not Path("arm").exists()
    (tmp_path / "bin/sbatch").write_text(accepts)
    main([*WORDS, *FIT, "--run-dir", "one"])
    (tmp_path / "bin/sbatch").write_text(refuses)
    refused([*WORDS, *FIT, "--run-dir", "one"], capsys)
    assert sorted(path.name for path in Path("one/job").iterdir()) == [
        *("config.yaml", "job.json", "job.sh"),
    ]


def test_a_damaged_note_of_a_job_is_named(capsys, sbatch):
    main([*WORDS, *FIT, "--run-dir", "one"])
    for content in ("{", "[]", "[" * 99999, '{"job": 3}'):
        Path("one/job/job.json").write_text(content)
        assert "job.json cannot be read" in refused([*WORDS, *FIT, "--run-dir", "one"], capsys)


def test_a_mistake_in_the_options_of_fit_is_all_that_is_said(capsys):
    said = refused([*WORDS, *FIT, "--model.objectiv", "x"], capsys)
    assert len(said.splitlines()) < 10
    assert "--help" in said
    main([*WORDS, "--dry-run", *FIT])
    assert capsys.readouterr().err == ""


def test_a_run_is_not_submitted_over(capsys, sbatch):
    folder = Path("here")
    folder.mkdir()
    (folder / "results.json").write_text("[]")
    assert "finished run" in refused([*WORDS, *FIT, "--run-dir", "here"], capsys)
    assert not sbatch.exists()
