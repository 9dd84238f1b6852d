"""The functions of `vitlab` from Python: results, errors, and a process that is as before."""

import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from jsonargparse._common import parsing_settings
from lightning import Callback
from lightning.pytorch.callbacks import TQDMProgressBar
from runs import UNPROBED, assert_same_bits, differences, run_fit

import vitlab
from vitlab.callbacks.throughput import ThroughputMonitor
from vitlab.errors import InputError

PAGE = Path(__file__).parents[1] / "docs/python.md"
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def small(drawn, tmp_path):
    """Overrides of a run of two epochs of two steps."""
    return {
        "run_dir": tmp_path / "run",
        "synthetic.root": "",
        "data": {"root": drawn / "imagenet", "num_workers": 0, "global_batch_size": np.int64(20)},
        "probing": {"num_workers": 0, "dense": {}, "baselines": False, "every_n_epochs": 1},
        "trainer": {"max_epochs": 2, "enable_progress_bar": False, "precision": "32-true"},
        "model": {"optimizer.warmup_epochs": 1, "objective.head.out_dim": 64},
    }


def state() -> dict:
    return {
        "environment": dict(os.environ),
        # not Python's own, from which the checks of shapes draw
        "streams": [np.random.get_state(), torch.get_rng_state()],  # noqa: NPY002
        "signals": [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)],
        "filters": list(warnings.filters),
        "parsers": dict(parsing_settings),
        "torch": [torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()],
    }


def test_an_import_is_cheap():
    code = (
        "import sys, vitlab; assert not {'torch', 'lightning'} & {*sys.modules}; vitlab.__version__"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_runs_in_one_process_have_the_bits_of_the_command_and_leave_nothing(small, drawn, tmp_path):
    before = str(state())
    deterministic = {"trainer.deterministic": True, "run_dir": tmp_path / "other"}
    vitlab.fit(["dino", "demo"], {**small, "model.optimizer.lr": 1e-5, **deterministic})
    run = vitlab.fit(["dino", "demo"], small)
    assert str(state()) == before
    head = ("--model.objective.head.out_dim", "64")
    assert_same_bits(
        run.folder, run_fit(tmp_path / "command", drawn, ["dino", "demo"], *head, *UNPROBED)
    )
    assert differences(torch.load(run.checkpoint), torch.load(tmp_path / "other/last.ckpt"))
    assert run.scores.keys() == {"knn/top1", "linear/top1"}
    assert run.logged["loss"] > 0
    again = vitlab.fit(["dino", "demo"], {**small, "ckpt_path": "auto"})
    assert (again.scores, again.logged) == (run.scores, {})
    before = str(state())
    data = {"data.root": drawn / "imagenet", "num_workers": 0}
    protocol = {"protocol": {"size": 64, "ks": [5], "k": 5}}
    result = vitlab.evaluate(
        run.checkpoint, "knn", {**data, **protocol, "which": "teacher", "out": tmp_path / "e"}
    )
    assert result.value == result.scores["top1"]
    named = {"labels": ["a", "b"], "which": ["teacher", "student"]}
    options = {**data, **named, "images": 2, "size": 64, "device": "cpu"}
    table = vitlab.analyze([run.checkpoint] * 2, options)
    assert set(table.model) == {"a", "b"}
    assert str(state()) == before


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"model.optimizer.lr": "fast"}, "model.optimizer.lr"),
        ({"trainer": {"callbacks": [Callback()]}}, "trainer.callbacks"),
        ({"trainer": {"devices": 2, "accelerator": "cpu"}}, "trainer.devices"),
        ({"callbacks.checkpoint": False}, "callbacks.checkpoint"),
        ({"probing.size": 65}, "probing.size"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_cannot_be_used_raises(small, overrides, field):
    before = str(state())
    with pytest.raises(InputError) as error:
        vitlab.fit(["dino", "demo"], {**small, **overrides})
    assert error.value.field == field
    assert str(state()) == before
    assert not small["run_dir"].exists()


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: vitlab.fit("dina"), "--config"),
        (lambda: vitlab.evaluate("nothing.ckpt", "knn"), "data.root"),
        (lambda: vitlab.evaluate("nothing.ckpt", "knm", {"data.root": "."}), "--protocol"),
        (lambda: vitlab.analyze("nothing.ckpt", {"imagez": 3}), "--imagez"),
        (lambda: vitlab.analyze("nothing.ckpt"), "--data"),
    ],
)
def test_the_other_functions_raise_as_well(call, field):
    with pytest.raises(InputError) as error:
        call()
    assert error.value.field == field


def test_callbacks_can_be_removed_and_are_not_given_twice(small, capsys, monkeypatch):
    for name in ("SLURM_NTASKS", "SLURM_RESTART_COUNT"):
        monkeypatch.setenv(name, "")  # as if unset
    removed = dict.fromkeys(("probing", "nan_guard", "collapse_monitor", "status"), False)
    shorter = {"callbacks": removed, "trainer.max_epochs": 1, "trainer.enable_progress_bar": True}
    own_bar = TQDMProgressBar()  # in place of the run's
    run = vitlab.fit(["dino", "demo"], {**small, **shorter}, callbacks=[own_bar])
    assert own_bar.train_progress_bar.n == 2
    assert run.scores == {}
    files = {path.name for path in run.folder.iterdir()}
    assert "last.ckpt" in files
    assert not {"measurements.json", "status.json"} & files
    small["run_dir"] = small["run_dir"].with_name("other")
    with pytest.raises(InputError, match=r"or the run's with callbacks\.throughput false"):
        vitlab.fit(["dino", "demo"], small, callbacks=[ThroughputMonitor()])


class Trial:
    """Stands for one of Optuna's."""

    number = 0

    def __init__(self):
        self.reports = []

    def suggest_float(self, name, low, high, log):
        return low

    def report(self, value, step):
        self.reports.append((step, value))

    def should_prune(self):
        return True


def test_the_sweep_of_the_page_runs_and_prunes(small, monkeypatch, tmp_path):
    code = re.search(r"(?s)```python\n# sweep\.py\n(.*?)```", PAGE.read_text())[1]
    try:
        import optuna
    except ImportError:
        optuna = ModuleType("optuna")
        optuna.TrialPruned = type("TrialPruned", (Exception,), {})
        monkeypatch.setitem(sys.modules, "optuna", optuna)
    fit = vitlab.fit
    small.pop("run_dir")
    monkeypatch.setattr(
        vitlab,
        "fit",
        lambda config, given, callbacks: fit(config, {**small, **given}, callbacks),
        raising=False,
    )
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "sweep"}
    exec(code, names)
    trial = Trial()
    with pytest.raises(optuna.TrialPruned):
        names["objective"](trial)
    assert [step for step, _ in trial.reports] == [0]
