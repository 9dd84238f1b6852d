"""Who has started a process: by its environment, compared with the trainer that was built."""

import os
import socket

import pytest
from refusals import refused
from runs import UNPROBED, refusal

from vitlab.launch import (
    FIRST,
    NUMBERS,
    Launch,
    check_launch,
    check_port,
    clear_variables,
    find_launch,
    plugin_launch,
)

BATCH = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
BATCH |= {"SLURM_NNODES": "1", "SLURM_JOB_NAME": "train.sh"}
STEP = {**BATCH, "SLURM_STEP_ID": "0"}
MEET = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "15007"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "a", "LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2", **MEET}
CHILD = {FIRST: "9", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "NODE_RANK": "0", **MEET}
HAND = {"LOCAL_RANK": "0", "WORLD_SIZE": "2", **MEET}


@pytest.fixture
def environ(monkeypatch):
    """Set the variables of launchers; all others of them are unset."""

    def replace(variables: dict[str, str]) -> None:
        others = ("SLURM_JOB_NAME", "SLURM_PTY_PORT", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", FIRST)
        for name in (*NUMBERS, *others):
            monkeypatch.setenv(name, "")  # so that it is put back, whatever is done to it
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return replace


@pytest.mark.parametrize(
    ("variables", "devices", "nodes", "expected"),
    [
        ({}, 3, 1, Launch("shell")),
        (BATCH, 2, 1, Launch("shell")),
        ({**BATCH, "SLURM_NTASKS": "1"}, 2, 1, Launch("shell")),
        ({**BATCH, "SLURM_NTASKS": "2"}, 1, 1, Launch("shell")),  # uses one of two
        ({"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "interactive"}, 2, 1, Launch("shell")),  # salloc
        ({**STEP, "SLURM_NTASKS": "2", "SLURM_PTY_PORT": "5"}, 1, 1, Launch("shell")),
        ({**STEP, "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "bash"}, 2, 1, Launch("shell")),
        ({**STEP, "SLURM_NTASKS": "1"}, 1, 1, Launch("srun", True, 1)),
        ({**STEP, "SLURM_NTASKS": "2"}, 2, 1, Launch("srun", True, 2)),
        ({**STEP, "SLURM_NTASKS": "2", "SLURM_JOB_NAME": "bash"}, 2, 1, Launch("srun", True, 2)),
        ({**STEP, "SLURM_NTASKS": "2", "SLURM_PROCID": "1"}, 2, 1, Launch("srun", False, 2)),
        ({**STEP, "SLURM_NTASKS": "4", "SLURM_NNODES": "2"}, 2, 2, Launch("srun", True, 4)),
        (TORCHRUN, 2, 1, Launch("torchrun", False, 2)),
        ({**STEP, "SLURM_NTASKS": "1", **TORCHRUN}, 1, 2, Launch("torchrun", False, 2)),
        (CHILD, 2, 1, Launch("rank", False, 2)),
        ({**BATCH, "SLURM_NTASKS": "1", **CHILD}, 2, 1, Launch("rank", False, 2)),
        (HAND, 2, 1, Launch("a script", True, 2)),
        ({**HAND, "NODE_RANK": "1"}, 1, 2, Launch("a script", False, 2)),
        ({"NODE_RANK": "1", **MEET}, 2, 2, Launch("shell", False)),
        ({"RANK": "0", "WORLD_SIZE": "1", "OMPI_COMM_WORLD_SIZE": "1"}, 2, 1, Launch("shell")),
    ],
)
def test_a_launch_is_known_by_the_variables_of_its_launcher(
    environ, variables, devices, nodes, expected
):
    environ(variables)
    clear_variables()
    assert find_launch() == expected
    check_launch(expected, devices, nodes, expected.first)


@pytest.mark.parametrize(
    "variables",
    [
        {"RANK": "1"},
        {"LOCAL_RANK": "1"},
        {"LOCAL_RANK": "-1"},
        {"WORLD_SIZE": "2"},
        {"SLURM_PROCID": "3"},
        {"GROUP_RANK": "1", "RANK": "0"},
        {"NODE_RANK": "1"},
        {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"},
        {"PMI_RANK": "1", "PMI_SIZE": "2"},
        {"RANK": "1", "WORLD_SIZE": "2", **MEET},  # without LOCAL_RANK
    ],
    ids=str,
)
def test_variables_that_are_left_over_are_refused(environ, variables):
    environ(variables)
    with refused(next(name for name in variables if variables[name] not in "0")):
        find_launch()


@pytest.mark.parametrize(
    ("variables", "devices", "nodes"),
    [
        ({**BATCH, "SLURM_NTASKS": "2"}, 2, 1),  # a batch script without srun
        ({**STEP, "SLURM_NTASKS": "2"}, 1, 1),
        ({**STEP, "SLURM_NTASKS": "1"}, 2, 1),
        ({**STEP, "SLURM_NTASKS": "4", "SLURM_NNODES": "2"}, 2, 1),
        (TORCHRUN, 1, 1),
        (HAND, 1, 1),
        ({**HAND, "WORLD_SIZE": "1"}, 2, 1),
        ({}, 1, 2),
        ({"NODE_RANK": "1", **MEET}, 1, 1),
    ],
    ids=str,
)
def test_other_processes_than_the_trainers_are_refused(environ, variables, devices, nodes):
    environ(variables)
    launch = find_launch()
    with refused("trainer.devices"):
        check_launch(launch, devices, nodes, launch.first)


@pytest.mark.parametrize("find", [find_launch, plugin_launch])
def test_a_trainer_that_is_another_rank_than_the_environment_says_is_refused(environ, find):
    environ({**STEP, "SLURM_NTASKS": "2", "SLURM_PROCID": "1"})
    check_launch(find(), 2, 1, first=False)
    with refused("trainer.devices"):  # it would not have looked at what the folder holds
        check_launch(find(), 2, 1, first=True)


def test_the_variables_of_a_plugin_may_be_any(environ):
    environ({})
    check_launch(plugin_launch(), 2, 1, first=False)


def test_variables_set_to_nothing_count_as_unset_and_words_are_refused(environ):
    environ({"SLURM_NTASKS": "", "RANK": " ", "SLURM_RESTART_COUNT": ""})
    clear_variables()
    assert not {"SLURM_NTASKS", "RANK", "SLURM_RESTART_COUNT"} & {*os.environ}
    environ({"SLURM_NTASKS": "two"})
    with refused("SLURM_NTASKS"):
        clear_variables()


def test_a_port_that_is_taken_is_said_to_be(environ):
    environ({})
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with refused("MASTER_PORT", wording=False) as error:
            check_port(port)
        assert "taken by another program" in str(error.value)
    check_port(port)
    with refused("MASTER_PORT"):
        check_port(70000)


def test_fit_refuses_before_it_makes_a_folder_and_runs_where_one_process_is_meant(
    fit, environ, capsys, tmp_path
):
    cases = (({"RANK": "1"}, "1", "RANK=1"), ({"LOCAL_RANK": "1"}, "2", "LOCAL_RANK=1"))
    cases += (
        ({**BATCH, "SLURM_NTASKS": "2"}, "2", "SLURM has started 1 of 2 processes; use srun"),
    )
    for variables, devices, words in cases:
        environ(variables)
        refusal(fit, "--trainer.devices", devices)
        assert words in capsys.readouterr().err
        assert not (tmp_path / "run").exists()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        environ({"MASTER_PORT": str(other.getsockname()[1])})
        refusal(fit, "--trainer.devices", "2")
    assert "is taken by another program" in capsys.readouterr().err
    environ({**BATCH, "SLURM_NTASKS": "2", "SLURM_RESTART_COUNT": ""})
    assert (fit(*UNPROBED, "--trainer.max_epochs", "1") / "results.json").exists()
