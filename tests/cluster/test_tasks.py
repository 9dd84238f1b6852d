"""Processes that srun has started fit the devices of a run, or are refused in a sentence."""

import pytest

FIRST = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}


@pytest.fixture
def srun(monkeypatch):
    """Have this process be one of a step of SLURM."""

    def start(**variables: str) -> None:
        monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "")
        monkeypatch.delenv("SLURM_NTASKS_PER_NODE")  # and afterwards again, if a run sets it
        for name, value in {**FIRST, **variables}.items():
            monkeypatch.setenv(name, value)

    return start


@pytest.mark.parametrize(
    ("variables", "devices", "words"),
    [
        ({"SLURM_NTASKS": "2"}, "1", "starts 2 processes, 2 on each machine"),
        ({"SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1"}, "2", "trainer.devices is 2"),
        ({"SLURM_NTASKS": "4", "SLURM_NNODES": "2"}, "2", "trainer.num_nodes 1; make them equal"),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}, "1", ""),
    ],
)
def test_other_processes_than_devices_are_refused(
    fit, srun, capsys, tmp_path, variables, devices, words
):
    srun(**variables)
    with pytest.raises(SystemExit) as stop:
        fit("--trainer.devices", devices)
    assert stop.value.code == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vitlab:")]
    assert len(said) == bool(words)  # the first rank speaks for all
    assert words in "".join(said)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("variables", "devices"),
    [
        ({"SLURM_NTASKS": "2"}, "2"),  # of `srun -n 2`
        ({"SLURM_NTASKS": "1"}, "1"),
        ({"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "interactive"}, "1"),  # a shell of salloc
    ],
)
def test_one_process_for_each_device_is_a_run(fit, srun, capsys, variables, devices):
    srun(**variables)
    fit("--trainer.devices", devices, "--dry-run")
    assert f"{20 // int(devices)} images x {devices} devices" in capsys.readouterr().out
