"""Jobs of `vitlab submit` under a real SLURM: two processes, one node or two, gloo, drawn data."""

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster.private import Cluster, missing
from runs import CONFIGS, UNPROBED, assert_same_bits, read, refusal

from vitlab.cli import main

EPOCHS = 12
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    """A real SLURM of our own, where its programs are installed."""
    if absent := missing():
        pytest.skip(f"SLURM is not installed: there is no {', '.join(absent)}")
    folder = Path(tempfile.mkdtemp(prefix="vitlab-"))  # a short name, as sockets need
    folder.chmod(0o755)
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder)


@pytest.fixture
def submitted(slurm: Cluster, drawn: Path, monkeypatch, capsys) -> Callable[..., str]:
    """Submit a small run; returns the number of its job."""

    def submit(
        folder: Path, *options: str, tasks: int = 2, nodes: str = "n1", epochs: int = EPOCHS
    ) -> str:
        for name in ("PATH", "SLURM_CONF", "OMP_NUM_THREADS"):
            monkeypatch.setenv(name, slurm.environment[name])
        words = ["--config", str(CONFIGS / "dino_registers.yaml")]
        words += ["--config", str(CONFIGS / "demo.yaml"), "--time", "10:00"]
        words += ["--gpus-per-node", "0", "--tasks-per-node", str(tasks), "--cpus-per-task", "1"]
        words += ["--sbatch", f"nodelist={nodes}", *options, "--", "--run-dir", str(folder)]
        words += ["--data.root", str(drawn / "imagenet"), "--data.num_workers", "0"]
        words += ["--data.global_batch_size", "20", "--synthetic.root", "", *UNPROBED]
        words += ["--trainer.max_epochs", str(epochs), "--trainer.precision", "32-true"]
        main(["submit", *words, "--model.optimizer.warmup_epochs", "1"])
        found = re.search(r"submitted job (\d+)", capsys.readouterr().out)
        assert found
        return found[1]

    return submit


def output(folder: Path) -> str:
    return "\n".join(file.read_text() for file in sorted((folder / "job").glob("*.out")))


def completes(slurm: Cluster, number: str, folder: Path) -> None:
    slurm.wait(lambda: slurm.job(number)["JobState"] in ENDED, f"job {number}", 300)
    assert slurm.job(number)["JobState"] == "COMPLETED", output(folder)


def trains(slurm: Cluster, number: str, folder: Path, start: int) -> None:
    """Wait until a start of a job has trained an epoch of its own."""

    def begun() -> bool:
        job = slurm.job(number)
        assert job["JobState"] not in ENDED, output(folder)
        if not (folder / "status.json").exists() or job["JobState"] != "RUNNING":
            return False
        status = read(folder / "status.json")
        now = (status["restarts"], status["state"], "loss" in status["metrics"])
        return now == (start, "running", True)

    slurm.wait(begun, f"start {start} of job {number}", 300)


def listed(folder: Path, capsys) -> dict[str, dict]:
    capsys.readouterr()
    main(["runs", str(folder), "--json"])
    return {Path(row["folder"]).name: row for row in json.loads(capsys.readouterr().out)}


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
    refusal(submitted, calm)  # never overwritten
    assert "--num-nodes 2" in read(calm / "job/job.json")["command"]

    number = submitted(stirred)
    trains(slurm, number, stirred, 0)
    refusal(submitted, stirred)  # it has a job already
    assert f"has job {number} already" in capsys.readouterr().err
    slurm.ask("scancel", "--signal=USR1", number)  # as before the time limit
    trains(slurm, number, stirred, 1)
    slurm.lose(number)
    slurm.wait(lambda: slurm.job(number)["Restarts"] == "2", "the loss of the machine", 120)
    completes(slurm, number, stirred)
    assert output(stirred).count("USR1") >= 2
    assert f"job {number} is requeued" in output(stirred)
    assert_same_bits(calm, stirred)
    rows = listed(tmp_path, capsys)
    assert (rows["stirred"]["state"], rows["stirred"]["job"]) == ("finished", number)
    assert rows["stirred"]["status"]["restarts"] == 2
    assert rows[calm.name]["status"]["step"] == rows["stirred"]["status"]["steps"]


def test_an_array_trains_each_seed_in_its_own_folder(slurm, submitted, tmp_path, capsys):
    number = submitted(tmp_path / "arm", "--seeds", "0-1", tasks=1, epochs=2)
    for row, seed in zip(listed(tmp_path, capsys).values(), range(2), strict=True):
        assert row["job"] == f"{number}_{seed}"
        assert row["state"] in ("queued", "running")
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
        # %% stands for a percent sign, in the file's name too
        assert f" StdOut={folder}/job/{number}.out " in job.replace("%%", "%")
        assert " Comment=a 'b' \"c\" \\d " in job
        assert " Requeue=1 " in job
    finally:
        slurm.ask("scancel", number)
        slurm.back()
