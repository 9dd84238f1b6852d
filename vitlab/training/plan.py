"""Plan of a run: checks before its first step, and a table of what it is going to do."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import psutil
import torch
from lightning import Trainer
from rich.console import Console
from rich.table import Table

from vitlab.activation_memory import saved_bytes
from vitlab.callbacks.online_probes import OnlineProbes
from vitlab.callbacks.validation import Validation
from vitlab.data import BatchLayout, VisionDataModule
from vitlab.encoders import Encoder
from vitlab.errors import InputError
from vitlab.objectives import Objective
from vitlab.optim.schedules import Progress
from vitlab.run.module import Pretraining, check_trainer

Crops = Iterable[tuple[int, int]]
GIB = 2**30
SAMPLE = 4  # images to measure memory on: a single one would get kernels for small inputs
_LINES = {"cosine": "cosine", "timm": "cosine", "linear": "linearly"}


@dataclass(frozen=True)
class RunPlan:
    """Plan of a run.

    Attributes:
        rows: of the printed table: name and text.
        division: layout of the batch.
        needed: memory of a device.
    """

    rows: dict[str, str]
    division: BatchLayout
    needed: "Memory"

    def show(self) -> None:
        """Print the plan."""
        table = Table(title="plan", show_header=False, title_justify="left")
        for name, text in self.rows.items():
            table.add_row(name, text)
        Console().print(table)


@dataclass(frozen=True)
class Memory:
    """Estimated bytes of a training step on one device.

    Attributes:
        weights: of weights, gradients and AdamW's two averages.
        per_image: activations that one image with all its crops keeps until backward.
    """

    weights: int
    per_image: int

    def total(self, images: int) -> int:
        """Return the bytes for a micro-batch of this size."""
        return self.weights + images * self.per_image


def plan_run(
    trainer: Trainer,
    model: Pretraining,
    data: VisionDataModule,
    probing: OnlineProbes,
    validation: Validation,
) -> RunPlan:
    """Check that a run can work, divide the global batch, and return its plan.

    Raises:
        ValueError: what was given, what is allowed, what to do.
    """
    check_trainer(trainer)
    crops = data.transform.crop_sizes
    model.objective.check_crops(crops)
    division = data.batch_layout(trainer.world_size)
    model.objective.check_micro_batch(division.micro_batch_size)
    trainer.accumulate_grad_batches = division.accumulate_grad_batches
    data.samples(data.train_split)
    if data.steps_per_epoch < 1:
        raise ValueError(
            f"{len(data.samples(data.train_split))} training images do not fill one batch of "
            f"{data.global_batch_size}; use a smaller --data.global_batch_size"
        )
    masks = data.use_foreground_masks() if model.objective.needs_masks else 0
    probing.check(model.objective.encoder, data)
    validation.check(model.objective, data)
    needed = memory(trainer, model, crops)
    check_memory(needed, division, trainer, data)
    rows = describe(trainer, model, data, probing, division, needed)
    if model.objective.classifiers():
        when = (
            f"every {validation.every_n_epochs} epochs"
            if validation.every_n_epochs
            else "at the end"
        )
        rows["scores"] = (
            f"{when}, on {len(data.samples(data.val_split)):,} images of {data.val_split}"
        )
    if masks:
        rows["masks"] = f"{masks:,} training images have one; the others add nothing"
    return RunPlan(rows, division, needed)


def describe(
    trainer: Trainer,
    model: Pretraining,
    data: VisionDataModule,
    probing: OnlineProbes,
    division: BatchLayout,
    needed: Memory,
) -> dict[str, str]:
    """Return the rows of the plan."""
    objective, encoder, settings = model.objective, model.objective.encoder, model.settings
    epochs = trainer.max_epochs or 1
    start = Progress(0, data.steps_per_epoch * epochs, epochs, data.global_batch_size)
    peak = settings.peak_lr(data.global_batch_size)
    size = sum(p.numel() for p in encoder.parameters())
    trained = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    schedules = [f"{name} {value:.6g}" for name, value in objective.schedules(start).items()]
    sets = [
        f"{name} ({len(source.samples(source.train_split))} + "
        f"{len(source.samples(source.val_split))} images)"
        for name, source in probing.dense.items()
    ]
    return {
        "encoder": f"{type(encoder).__name__} {size:,} parameters, patch {encoder.patch_size}; "
        f"{type(objective).__name__} trains {trained:,}",
        "data": f"{type(data).__name__} {data.folder}: {len(data.samples(data.train_split)):,} "
        f"training images of {data.num_classes} classes",
        "views": ", ".join(f"{count} x {edge} px" for count, edge in data.transform.crop_sizes),
        "batch": f"{data.global_batch_size} = {division.micro_batch_size} images x "
        f"{trainer.world_size} "
        f"devices x {division.accumulate_grad_batches} micro-batches",
        "length": f"{epochs} epochs x {data.steps_per_epoch:,} steps = {start.steps:,}",
        "learning rate": f"peak {peak:.3g} after {settings.warmup_epochs} epochs, "
        + (
            f"then {_LINES[settings.lr_schedule.shape]} to {settings.min_lr:.3g}"
            if settings.warmup_epochs < epochs
            else f"which this run of {epochs} does not reach; lower model.optimizer.warmup_epochs"
        ),
        "at the start": ", ".join(schedules),
        "precision": str(trainer.precision),
        "memory": f"about {needed.total(division.micro_batch_size) / GIB:.1f} GiB per device, of "
        f"{available(trainer) / GIB:.1f} GiB",
        "probes": f"every {probing.every_n_epochs} epochs: "
        + (
            "no k-NN or linear probe, as the data have no labels"
            if data.samples(data.train_split).labels is None
            else f"k-NN and linear at {probing.size} px"
        )
        + f"; mIoU at {probing.dense_size} px on "
        + (", ".join(sets) or "no set: give one with --probing.dense.voc2012.class_path VOC2012"),
        "run": str(trainer.default_root_dir),
    }


def memory(trainer: Trainer, model: Pretraining, crops: Crops) -> Memory:
    """Return the estimated memory of a training step.

    The activations of an encoder are measured on crops of each size; the loss keeps a few numbers
    per crop and output.
    """
    objective = model.objective
    mixed = "mixed" in str(trainer.precision)
    encoder = trained_encoder(objective)
    activations = sum(count * kept_for_backward(encoder, edge, mixed) for count, edge in crops)
    images = sum(count * 3 * edge**2 * 4 for count, edge in crops)
    outputs = sum(count for count, _ in crops) * objective.out_dim * 4 * 4
    weights = sum(p.numel() * 4 * (4 if p.requires_grad else 1) for p in objective.parameters())
    return Memory(weights, activations + images + outputs)


def trained_encoder(objective: Objective) -> Encoder:
    """Return the encoder that is trained (the student of DINO), or the frozen one if none is."""
    for module in objective.modules():
        if isinstance(module, Encoder) and any(p.requires_grad for p in module.parameters()):
            return module
    return objective.encoder


def kept_for_backward(encoder: Encoder, edge: int, mixed: bool) -> int:
    """Return the bytes that one image of this size keeps until backward.

    Args:
        encoder: measured as a copy on the CPU; frozen parts stay frozen.
        edge: pixels.
        mixed: whether matrix products are in 16 bits.
    """
    twin = copy.deepcopy(encoder).cpu()
    images = torch.zeros(SAMPLE, 3, edge, edge)
    with (
        torch.random.fork_rng(devices=[]),
        torch.autocast("cpu", torch.bfloat16, enabled=mixed),
    ):
        total = saved_bytes(lambda: twin(images).cls, twin.parameters())
    return total // SAMPLE


def available(trainer: Trainer) -> int:
    """Return the bytes a process of this run may use on its device."""
    if trainer.strategy.root_device.type == "cuda":
        return torch.cuda.get_device_properties(trainer.strategy.root_device).total_memory
    return psutil.virtual_memory().available // trainer.num_devices


def check_memory(
    needed: Memory, division: BatchLayout, trainer: Trainer, data: VisionDataModule
) -> None:
    """Refuse a micro-batch that cannot fit.

    Raises:
        InputError: the estimate exceeds the memory of the device.
    """
    limit, images = available(trainer), division.micro_batch_size
    if needed.total(images) <= limit:
        return
    fits = (limit - needed.weights) // needed.per_image
    remedy = (
        f"set --data.micro_batch_size {fits}, which accumulates micro-batches"
        if fits > 0
        else "use fewer or smaller crops (data.transform) or a smaller encoder"
    )
    raise InputError(
        f"{images} images with {sum(count for count, _ in data.transform.crop_sizes)} crops each "
        f"need about {needed.total(images) / GIB:.1f} GiB and a device has {limit / GIB:.1f} GiB; "
        f"{remedy}",
        field="data.micro_batch_size",
    )
