"""The tasks that srun has started are as many as the devices of a run, or it is refused."""

import pytest
from refusals import refused
from runs import refusal

from vitlab.cluster.slurm import check_tasks, count_tasks

FIRST = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}


@pytest.mark.parametrize(
    ("variables", "devices", "tasks"),
    [
        ({"SLURM_NTASKS": "2"}, 2, 2),  # of `srun -n 2`
        ({"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "interactive"}, 1, 0),  # a shell of salloc
        ({}, 3, 0),
        ({"SLURM_NTASKS": "2"}, 1, None),
        ({"SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1"}, 2, None),
        ({"SLURM_NTASKS": "4", "SLURM_NNODES": "2"}, 2, None),
    ],
)
def test_one_task_for_each_device_is_a_run(monkeypatch, variables, devices, tasks):
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "")
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")  # and after the test again
    for name, value in {**FIRST, **variables}.items():
        monkeypatch.setenv(name, value)
    if tasks is not None:
        check_tasks(devices, 1)
        assert count_tasks() == tasks
        return
    with refused("trainer.devices"):
        check_tasks(devices, 1)
    monkeypatch.setenv("SLURM_PROCID", "1")
    refusal(check_tasks, devices, 1)  # without a message: rank 0 has it


def test_fit_refuses_other_tasks_before_it_makes_a_folder(fit, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "2")
    for name, value in {**FIRST, "SLURM_NTASKS": "2"}.items():
        monkeypatch.setenv(name, value)
    refusal(fit, "--trainer.devices", "1")
    assert "starts 2 processes, 2 on each machine" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
