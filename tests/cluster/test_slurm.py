"""Jobs of `vitlab submit` under a real SLURM: two processes, one node or two, gloo, drawn data."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster.private import Cluster
from runs import assert_same_bits

from vitlab.cli import main

ROOT = Path(__file__).parents[2]
EPOCHS = 12
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}

pytestmark = pytest.mark.slow


@pytest.fixture
def submitted(slurm: Cluster, drawn: Path, monkeypatch, capsys) -> Callable[..., str]:
    """Submit a small run; returns the number of its job."""

    def submit(
        folder: Path, *options: str, tasks: int = 2, nodes: str = "n1", epochs: int = EPOCHS
    ) -> str:
        monkeypatch.setenv("PATH", slurm.environment["PATH"])
        monkeypatch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        configs = (ROOT / f"configs/{name}.yaml" for name in ("dino_registers", "demo"))
        words = [word for config in configs for word in ("--config", str(config))]
        words += ["--gpus-per-node", "0", "--tasks-per-node", str(tasks), "--time", "10:00"]
        words += ["--cpus-per-task", "1", "--sbatch", f"nodelist={nodes}", *options]
        words += ["--", "--run-dir", str(folder), "--synthetic.root", ""]
        words += ["--data.root", str(drawn / "imagenet"), "--data.num_workers", "0"]
        words += ["--probing.dense.voc2012.root", str(drawn / "VOCdevkit")]
        words += [
            "--probing.num_workers",
            "0",
            "--probing.every_n_epochs",
            "0",
            "--probing.baselines",
            "false",
        ]
        words += ["--trainer.max_epochs", str(epochs), "--model.optimizer.warmup_epochs", "1"]
        words += ["--trainer.precision", "32-true", "--data.global_batch_size", "20"]
        main(["submit", *words])
        found = re.search(r"submitted job (\d+)", capsys.readouterr().out)
        assert found
        return found[1]

    return submit


def output(folder: Path) -> str:
    return "\n".join(file.read_text() for file in sorted((folder / "job").glob("*.out")))


def completes(slurm: Cluster, number: str, folder: Path) -> None:
    slurm.wait(lambda: slurm.job(number)["JobState"] in ENDED, 300, f"job {number}")
    assert slurm.job(number)["JobState"] == "COMPLETED", output(folder)


def trains(slurm: Cluster, number: str, folder: Path, start: int) -> None:
    """Wait until a start of a job has trained an epoch of its own."""
    said = folder / "status.json"

    def begun() -> bool:
        job = slurm.job(number)
        assert job["JobState"] not in ENDED, output(folder)
        if not said.exists() or job["JobState"] != "RUNNING":
            return False
        status = json.loads(said.read_text())
        loss = "loss" in status["metrics"]
        return status["restarts"] == start and status["state"] == "running" and loss

    slurm.wait(begun, 300, f"start {start} of job {number}")


def test_a_job_that_is_stopped_requeued_and_loses_its_machine_ends_as_a_calm_one(
    slurm, submitted, tmp_path, capsys
):
    """The calm one on two nodes, the other with both processes on one."""
    calm, stirred = tmp_path / "a calm 'run', 100%", tmp_path / "stirred"
    # where nodes have addresses, the first one's is found by its name
    spread = ("--num-nodes", "2", "--setup", "export MASTER_ADDR=127.0.0.1")
    number = submitted(calm, *spread, tasks=1, nodes="n1,n2")
    completes(slurm, number, calm)
    assert (calm / f"job/{number}.out").exists()
    for rank in range(2):
        assert output(calm).count(f"vitlab: rank {rank} is ready for signals") == 1
    with pytest.raises(SystemExit):
        submitted(calm)  # never overwritten
    said = json.loads((calm / "job/job.json").read_text())
    assert "--num-nodes 2" in said["command"]

    number = submitted(stirred)
    trains(slurm, number, stirred, 0)
    with pytest.raises(SystemExit):
        submitted(stirred)  # it has a job already
    assert f"has job {number} already" in capsys.readouterr().err
    slurm.ask("scancel", "--signal=USR1", number)  # as before the time limit
    trains(slurm, number, stirred, 1)
    slurm.lose(number)
    slurm.wait(lambda: slurm.job(number)["Restarts"] == "2", 120, "the loss of the machine")
    completes(slurm, number, stirred)
    said = output(stirred)
    assert said.count("USR1") >= 2
    assert f"job {number} is requeued" in said
    assert_same_bits(calm, stirred)

    main(["runs", str(tmp_path), "--json"])
    rows = {Path(row["folder"]).name: row for row in json.loads(capsys.readouterr().out)}
    assert rows["stirred"]["state"] == "finished"
    assert rows["stirred"]["job"] == number
    assert rows["stirred"]["status"]["restarts"] == 2
    assert rows[calm.name]["status"]["step"] == rows["stirred"]["status"]["steps"]


def test_an_array_trains_each_seed_in_its_own_folder(slurm, submitted, tmp_path, capsys):
    number = submitted(tmp_path / "arm", "--seeds", "0-1", tasks=1, epochs=2)
    main(["runs", str(tmp_path), "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["job"] for row in rows] == [f"{number}_0", f"{number}_1"]
    assert {row["state"] for row in rows} <= {"queued", "running"}
    for seed in range(2):
        folder = tmp_path / f"arm/seed{seed}"
        completes(slurm, f"{number}_{seed}", folder)
        assert f"seed_everything: {seed}\n" in (folder / "config.yaml").read_text()
    with pytest.raises(AssertionError):
        assert_same_bits(tmp_path / "arm/seed0", tmp_path / "arm/seed1")


def test_sbatch_reads_from_the_script_what_was_meant(slurm, submitted, tmp_path):
    folder = tmp_path / 'it\'s "50%" \\ of #1'
    slurm.ask("scontrol", "update", "nodename=n1", "state=drain", "reason=test")
    try:
        number = submitted(folder, "--mem", "100M", "--sbatch", "comment=a 'b' \"c\" \\d")
        job = slurm.ask("scontrol", "-o", "show", "job", number)
        shown = job.replace("%%", "%")  # it stands for a percent sign, in the file's name too
        assert f" StdOut={folder}/job/{number}.out " in shown
        assert " Comment=a 'b' \"c\" \\d " in job
        assert " Requeue=1 " in job
    finally:
        slurm.ask("scancel", number)
        slurm.back()
