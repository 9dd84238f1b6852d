"""Tries of the user's own classes before a run, which say what one lacks.

Random streams and the objective stay as they are.
"""

import copy

import torch
from lightning import Trainer
from torch import Tensor

from vitlab.data import VisionDataModule, normalize
from vitlab.data.batch import Batch, collate
from vitlab.data.samples import spread
from vitlab.encoders.encoder import Encoder, check_encoder
from vitlab.errors import InputError, is_own, trying
from vitlab.objectives import Loss, Objective, SelfDistillation
from vitlab.objectives.objective import check_loss, find_encoders
from vitlab.optim.schedules import Progress
from vitlab.rng import seeded_rng

FEW = 2  # images of a try
TEACHER = {"teacher/entropy", "teacher/divergence", "teacher/prototypes"}


def check_encoder_of(objective: Objective) -> None:
    """Refuse an objective without an encoder.

    Raises:
        InputError: it has none, or something else.
    """
    kind, field = type(objective).__qualname__, "model.objective"
    with trying(objective, ".encoder", field):
        encoder = getattr(objective, "encoder", None)
    if not isinstance(encoder, Encoder):
        raise InputError(
            f"{kind}.encoder is {encoder}; set it in __init__, or by a property, to the "
            "vitlab.encoders.Encoder that is probed and exported",
            field=field,
        )


def check_own_classes(objective: Objective, data: VisionDataModule) -> None:
    """Try an own transform on a training image, and own encoders on images of its sizes.

    Raises:
        InputError: what a class lacks, by its name.
    """
    check_transform(data)
    paths = [each["prefix"][len("objective.") : -1] for each in find_encoders(objective).values()]
    held = [*map(objective.get_submodule, paths), objective.encoder]
    own = {type(each): each for each in held if is_own(each) and isinstance(each, Encoder)}
    for encoder in own.values():
        for _, size in data.transform.crop_sizes:
            check_encoder(encoder, size)


def check_transform(data: VisionDataModule) -> None:
    """Try a transform of the user's own on a training image.

    Raises:
        InputError: crops of another kind or shape than it states, or others each time.
    """
    transform, field = data.transform, "data.transform"
    if not is_own(transform):
        return
    kind = type(transform).__qualname__
    with trying(transform, ".crop_sizes", field):
        wanted = [(count, 3, size, size) for count, size in transform.crop_sizes]
    images = data.training_dataset()
    what = ", called with a training image,"
    with torch.random.fork_rng(devices=[]), seeded_rng(0), trying(transform, what, field):
        once, again = (images[(0, 0)].views for _ in range(2))
    if not isinstance(once, list) or not all(isinstance(each, Tensor) for each in once):
        inner = "" if not isinstance(once, list) else f" of {type(once[0]).__name__}"
        raise InputError(
            f"{kind} returned {type(once).__name__}{inner}; return a list of tensors, one stack of "
            "crops for each entry of crop_sizes",
            field=field,
        )
    if [(each.dtype, tuple(each.shape)) for each in once] != [(torch.uint8, s) for s in wanted]:
        given = ", ".join(f"{str(each.dtype)[6:]} {tuple(each.shape)}" for each in once)
        raise InputError(
            f"{kind} returned {given}; by its crop_sizes it must be "
            f"{', '.join(f'uint8 {shape}' for shape in wanted)}: crops, RGB, height, width, not "
            "normalized",
            field=field,
        )
    if not all(map(torch.equal, once, again)):
        raise InputError(
            f"{kind} makes other crops of the same image with the same seed, and runs would not be "
            "reproducible; draw from numpy.random.default_rng(seed) alone",
            field=field,
        )


def try_loss(objective: Objective, data: VisionDataModule, trainer: Trainer) -> None:
    """Try the loss of an objective of the user's own on two images, or else on a micro-batch.

    A copy of the objective is tried, on the device and in the precision of the run.

    Raises:
        InputError: the loss fails, or is of another kind than it must be.
    """
    if not is_own(objective):
        return

    epochs, device = trainer.max_epochs or 1, trainer.strategy.root_device
    images = data.batch_layout(trainer.world_size).micro_batch_size
    progress = Progress(0, data.steps_per_epoch * epochs, epochs, data.global_batch_size)

    def compute(count: int) -> tuple[Loss, SelfDistillation | None]:
        what = f".loss, tried on {count} images,"
        with torch.random.fork_rng([device] if device.type == "cuda" else []), seeded_rng(0):
            dataset = data.training_dataset()
            batch = collate([dataset[(0, index)] for index in spread(len(dataset), count)])
            views = [normalize(stack.to(device)) for stack in batch.views]
            labels, masks = (x if x is None else x.to(device) for x in (batch.labels, batch.masks))
            precision = trainer.precision_plugin.forward_context
            twin = copy.deepcopy(objective).to(device)
            with trying(objective, what, "model.objective"), precision():
                loss = twin.loss(Batch(views, labels, masks=masks), progress)
            with trying(objective, ".distillation", "model.objective"):
                return loss, twin.distillation(progress)

    few = min(images, FEW)
    try:
        loss, pair = compute(few)
    except InputError:
        if few == images:
            raise
        loss, pair = compute(images)  # statistics of a batch may need more than two
    check_loss(objective, loss)
    if lacking := sorted(TEACHER - loss.logs.keys()) if pair is not None else []:
        raise InputError(
            f"{type(objective).__qualname__}.loss does not log {', '.join(lacking)}, which "
            "collapse_monitor needs where there is a `distillation`; see vitlab.objectives."
            "SelfDistillation",
            field="model.objective",
        )
