"""Shows the training images to an objective that must look at them before its first step."""

from collections.abc import Iterator, Sequence

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader, Subset

from vitlab.data import DataError, VisionDataModule, normalize
from vitlab.data.batch import Batch
from vitlab.objectives import Objective

BATCH = 64  # images of one forward pass


class Preparing(Callback):
    """Calls `Objective.setup` once, before the first step of a run that is new.

    The images are those of `data.train_split` as probes see them: their middle, at the size of the
    training crops, in fp32. Nothing is drawn from the run's random streams.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the objective look; what it finds is part of its state, so once is enough."""
        if trainer.global_step:
            return
        data: VisionDataModule = trainer.datamodule  # type: ignore[attr-defined]
        objective: Objective = pl_module.objective  # type: ignore[assignment]

        def read(indices: Sequence[int]) -> Iterator[Batch]:
            images = data.classification_dataset(data.train_split, data.transform.crop_sizes[0][1])
            loader = DataLoader(
                Subset(images, indices),
                BATCH,
                num_workers=data.num_workers,
                generator=torch.Generator(),
            )
            for pixels, labels in loader:
                normal = normalize(pixels.to(pl_module.device))
                yield Batch([normal[None]], labels.to(pl_module.device))

        training = objective.training
        objective.eval()
        try:
            found = objective.setup(read, len(data.samples(data.train_split)))
        except ValueError as error:
            raise DataError(str(error)) from error  # of a model and its data, not of the code
        finally:
            objective.train(training)
        if found:
            rank_zero_info(found)
