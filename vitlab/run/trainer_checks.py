"""Settings of the trainer that a run cannot use."""

from lightning import Trainer

from vitlab.errors import InputError


def check_trainer(trainer: Trainer) -> None:
    """Refuse settings of the trainer that would be ignored or spoil a run.

    Raises:
        InputError: the length, the precision or the clipping of gradients.
    """
    if (trainer.max_epochs or 0) < 1 or trainer.max_steps != -1:
        raise InputError(
            f"trainer.max_epochs is {trainer.max_epochs} and max_steps {trainer.max_steps}, but "
            "schedules count in epochs; set trainer.max_epochs to at least 1 and leave max_steps",
            field="trainer.max_epochs",
        )
    if str(trainer.precision).endswith("-true") and trainer.precision not in ("32-true", "64-true"):
        raise InputError(
            f"trainer.precision {trainer.precision} keeps the weights in 16 bits, where a moving "
            "average loses its small steps; use bf16-mixed, 16-mixed or 32-true",
            field="trainer.precision",
        )
    if trainer.gradient_clip_val is not None:
        raise InputError(
            "trainer.gradient_clip_val clips all gradients together and would be ignored; set "
            "model.optimizer.clip_grad_norm, and model.optimizer.clip_mode: per_parameter as in "
            "DINO, or global",
            field="trainer.gradient_clip_val",
        )
