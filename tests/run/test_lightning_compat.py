"""What depends on internals of Lightning still does what it is for."""

import logging
import warnings
from pathlib import Path

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.strategies.launchers import subprocess_script

from vitlab.callbacks.checkpoint import AtomicCheckpointIO, save_checkpoint
from vitlab.data.loader import ResumableLoader
from vitlab.run.lightning_compat import ignore_known_warnings, observe_local_ranks, quiet


class Line(LightningModule):
    """A model that counts its steps, and saves a checkpoint before one of them."""

    def __init__(self, path: Path, mid_epoch: bool | None):
        super().__init__()
        self.weight = torch.nn.Linear(1, 1)
        self.path, self.mid_epoch, self.seen = path, mid_epoch, []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch_idx))
        return self.weight(batch).mean()

    def on_train_batch_start(self, batch, batch_idx):
        if self.mid_epoch and (self.current_epoch, batch_idx) == (1, 2):
            save_checkpoint(self.trainer, "it.ckpt", mid_epoch=True)

    def on_train_epoch_end(self):
        if self.mid_epoch is False and self.current_epoch == 1:
            save_checkpoint(self.trainer, "it.ckpt")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def steps(tmp_path: Path, mid_epoch: bool | None, ckpt_path: Path | None = None) -> list:
    module = Line(tmp_path, mid_epoch)
    trainer = Trainer(
        max_epochs=3, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, plugins=[AtomicCheckpointIO()], default_root_dir=tmp_path,
        accelerator="cpu",
    )  # fmt: skip
    trainer.fit(module, ResumableLoader(torch.ones(4, 1)), ckpt_path=ckpt_path, weights_only=True)
    return module.seen


def test_a_resumed_trainer_stands_where_the_checkpoint_was_written(tmp_path):
    for mid_epoch, place in ((True, 6), (False, 8)):
        seen = steps(tmp_path, mid_epoch)
        assert len(seen) == 12
        resumed = steps(tmp_path, None, tmp_path / "it.ckpt")
        assert resumed[0] == (place // 4, place % 4)
        assert len(resumed) == 12 - place


def test_our_observer_takes_the_place_of_lightnings(monkeypatch):
    monkeypatch.setattr(subprocess_script, "_launch_process_observer", None)
    seen = []

    class Environment:
        creates_processes_externally = False

        def validate_settings(self, num_devices, num_nodes):
            pass

    launcher = subprocess_script._SubprocessScriptLauncher(Environment(), 1, 1)
    monkeypatch.setattr(launcher, "_call_children_scripts", lambda: launcher.procs.append("rank"))
    with observe_local_ranks(seen.append):
        assert launcher.launch(lambda: 5) == 5
    assert subprocess_script._launch_process_observer is None
    assert seen == [["rank"]]


def test_messages_of_lightning_are_hidden_for_a_while(caplog):
    with quiet():
        logging.getLogger("lightning.pytorch").warning("GPU available")
    logging.getLogger("lightning.pytorch").warning("kept")
    assert "GPU available" not in caplog.text
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        ignore_known_warnings()
        warnings.warn("`isinstance(treespec, LeafSpec)` is deprecated", stacklevel=1)
        warnings.warn("Found 3 module(s) in eval mode at the start of training", stacklevel=1)
        warnings.warn("another", stacklevel=1)
    assert [str(one.message) for one in found] == ["another"]
