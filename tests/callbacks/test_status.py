"""RUN/status.json."""

import json
import math
from unittest.mock import Mock

import pytest
import torch
from lightning import Trainer

from vitlab.callbacks.status import StatusWriter
from vitlab.run.module import Pretraining


def status(folder):
    return json.loads((folder / "status.json").read_text())


def trainer(folder, **changes):
    known = {"is_global_zero": True, "global_step": 5, "current_epoch": 2, "max_epochs": 3}
    known |= {"callback_metrics": {}, "default_root_dir": str(folder)}
    return Mock(spec=Trainer, **{**known, **changes})


def test_the_first_rank_writes_what_json_holds(tmp_path):
    metrics = {"loss": torch.tensor(1.5), "bad": torch.tensor(math.nan), "far": torch.tensor(1e39)}
    StatusWriter().write(trainer(tmp_path, is_global_zero=False))
    assert not list(tmp_path.iterdir())
    StatusWriter().on_train_epoch_end(trainer(tmp_path, callback_metrics=metrics))
    said = status(tmp_path)
    assert said["metrics"] == {"loss": 1.5}
    assert (said["state"], said["step"], said["epoch"], said["epochs"]) == ("running", 5, 3, 3)
    gone = RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer. GLHF!")
    for error, *expected in (
        (gone, "failed", "another rank is gone or does not answer"),
        (FloatingPointError("the loss is nan\nmore"), "failed", "the loss is nan"),
        (KeyboardInterrupt(), "stopped", "KeyboardInterrupt"),
    ):
        StatusWriter().on_exception(trainer(tmp_path), Mock(spec=Pretraining), error)
        said = status(tmp_path)
        assert [said["state"], said["reason"]] == expected
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match=r"status\.json is not up to date"):
        StatusWriter().write(trainer(tmp_path / "file"))  # a full disk is left to the checkpoints
