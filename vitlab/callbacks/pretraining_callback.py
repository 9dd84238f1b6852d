"""Base of callbacks that need `Pretraining`."""

from lightning import Callback, LightningModule, Trainer

from vitlab.errors import InputError
from vitlab.run.module import Pretraining


class PretrainingCallback(Callback):
    """A callback of trainers of `Pretraining`."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse other modules.

        Raises:
            InputError: the trainer has another module.
        """
        if not isinstance(pl_module, Pretraining):
            raise InputError(
                f"the callback {type(self).__name__} is for vitlab.run.module.Pretraining, not for "
                f"{type(pl_module).__name__}; leave it out",
                field="trainer.callbacks",
            )
