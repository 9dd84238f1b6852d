"""Pictures and texts for the loggers that take them, and where a logger keeps what it got."""

import shlex
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

from lightning import Trainer
from lightning.pytorch.loggers import (
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)
from PIL import Image

from vitlab.callbacks.measurements import Measurement, distinct, finite
from vitlab.callbacks.tensorboard import OrderedTensorBoardLogger
from vitlab.visualization.grid import png_pixels


def log_picture(trainer: Trainer, tag: str, png: bytes) -> None:
    """Give a PNG to TensorBoard, W&B and MLflow, where the run has them."""
    step = trainer.global_step
    for logger in trainer.loggers if trainer.is_global_zero else ():
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(tag, png_pixels(png), step)
        elif isinstance(logger, WandbLogger):
            logger.log_image(tag, [Image.open(BytesIO(png))], step=step)
        elif isinstance(logger, MLFlowLogger):
            image = Image.open(BytesIO(png))
            logger.experiment.log_image(logger.run_id, image, f"{tag}/{step}.png")


def log_measurement(
    trainer: Trainer,
    rows: Sequence[Measurement],
    scores: Mapping[str, float],
    more: Mapping[str, float],
) -> None:
    """Give the scores of a measurement to all loggers.

    Args:
        trainer: of the run.
        rows: of all measurements so far.
        scores: of the encoder that trains; none where the newest row is of raw pixels.
        more: what is no score.
    """
    step, scores = trainer.global_step, finite(distinct(scores))
    for logger in trainer.loggers:
        if isinstance(logger, OrderedTensorBoardLogger):
            logger.log_measurement(rows, scores, step)
            logger.log_metrics(finite(more), step)
        elif scores:
            logger.log_metrics({**scores, **finite(more)}, step)


def log_warning(trainer: Trainer, text: str) -> None:
    """Print a warning, and give it to TensorBoard, W&B and MLflow, where the run has them."""
    trainer.lightning_module.print(f"vitlab: {text}")
    step = trainer.global_step
    for logger in trainer.loggers if trainer.is_global_zero else ():
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text("warning", text, step)
        elif isinstance(logger, WandbLogger):
            logger.log_text("warning", columns=["step", "warning"], data=[[str(step), text]])
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_text(logger.run_id, text, f"warning/{step}.txt")


def describe_logger(logger: Logger) -> str:
    """Return how to look at what a logger got: a command or a place."""
    if isinstance(logger, TensorBoardLogger):
        return f"tensorboard --logdir {shlex.quote(str(Path(logger.root_dir)))}"
    if isinstance(logger, CSVLogger):
        return f"{logger.log_dir}/metrics.csv"
    if isinstance(logger, WandbLogger):
        run = logger.experiment
        return run.url or f"wandb sync {Path(run.dir).parent}"  # of a run offline
    if isinstance(logger, MLFlowLogger):
        address = logger.experiment.tracking_uri
        return address if "http" in address else f"mlflow ui --backend-store-uri {address}"
    return f"{type(logger).__name__} {logger.log_dir or logger.save_dir or logger.name}"
