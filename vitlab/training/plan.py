"""Plan of a run: checks before its first step, and a table of what it is going to do."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import torch
from lightning import Callback, Trainer
from rich.table import Table

from vitlab.activation_memory import saved_bytes
from vitlab.callbacks.measurements import EvaluationCallback
from vitlab.callbacks.online_probes import OnlineProbes, has_labels
from vitlab.callbacks.validation import Validation
from vitlab.data import BatchLayout, VisionDataModule
from vitlab.data.loader import check_room, limited
from vitlab.data.picture_faults import remarks_on_files
from vitlab.encoders import Encoder, ViT
from vitlab.encoders.cls_specialization import LAYERS
from vitlab.encoders.prompted_vit import backbone_of
from vitlab.errors import InputError
from vitlab.objectives import Objective
from vitlab.optim.schedules import Progress
from vitlab.run.contracts import check_own_classes, try_loss
from vitlab.run.module import check_trainer
from vitlab.terminal import console
from vitlab.training.cli import FitCLI

GIB = 2**30
SAMPLE = 4  # images to measure memory on: a single one would get kernels for small inputs
_LINES = {"cosine": "cosine", "timm": "cosine", "linear": "linearly"}


@dataclass(frozen=True)
class RunPlan:
    """Layout of the batch, and estimated memory of a training step on one device.

    Attributes:
        layout: of the batch.
        steps_per_epoch: optimizer steps; the last of them may have fewer micro-batches.
        weights: bytes of weights, gradients and AdamW's two averages.
        per_image: bytes that one image with all its crops keeps until backward.
    """

    layout: BatchLayout
    steps_per_epoch: int
    weights: int
    per_image: int

    @property
    def memory(self) -> int:
        """Bytes of a step."""
        return self.weights + self.layout.micro_batch_size * self.per_image


def plan_run(cli: FitCLI) -> tuple[RunPlan, dict[str, str]]:
    """Check that a run can work, divide the global batch, and return its plan and a table of it.

    Raises:
        InputError: settings that do not fit each other, the data or the memory of the device.
    """
    trainer, data, objective = cli.trainer, cli.datamodule, cli.model.objective
    check_trainer(trainer)
    cli.model.planned = cli.model.trained_names()
    check_own_classes(objective, data)
    crops = data.transform.crop_sizes
    objective.check_crops(crops)
    layout = data.batch_layout(trainer.world_size)
    objective.check_micro_batch(layout.micro_batch_size)
    trainer.accumulate_grad_batches = layout.accumulate_grad_batches
    images = len(data.samples(data.train_split))
    if data.steps_per_epoch < 1:
        raise InputError(
            f"{images} training images do not fill one batch of {data.global_batch_size}; use a "
            "smaller --data.global_batch_size",
            field="data.global_batch_size",
        )
    masks = data.use_foreground_masks() if objective.needs_masks else 0
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    measuring = [each for each in callbacks if isinstance(each, EvaluationCallback)]
    remarks = [remark for each in measuring for remark in each.check_once(objective, data)]
    if trainer.world_size == 1 and type(objective).setup is Objective.setup:
        try_loss(objective, data, trainer)  # else after the ranks have met, and the setup
        cli.model.tried = True
    plan = RunPlan(
        layout,
        _steps_per_epoch(trainer, data, layout.accumulate_grad_batches),
        *estimate_memory(objective, crops, "mixed" in str(trainer.precision)),
    )
    limit = available(trainer)
    if plan.memory > limit:
        fits = (limit - plan.weights) // plan.per_image
        remedy = "use fewer or smaller crops (data.transform) or a smaller encoder"
        if fits > 0:
            remedy = f"set --data.micro_batch_size {fits}, which accumulates micro-batches"
        raise InputError(
            f"{layout.micro_batch_size} images with {sum(count for count, _ in crops)} crops each "
            f"need about {mebibytes(plan.memory)} and a device has {mebibytes(limit)}; "
            f"{remedy}",
            field="data.micro_batch_size",
        )
    pixels = sum(count * 3 * edge**2 for count, edge in crops)  # of a byte each
    check_room(layout.micro_batch_size * pixels, data.num_workers)
    rows = describe(cli, plan)
    if masks:
        rows["masks"] = f"{masks:,} training images have one; the others add nothing"
    remarks += remarks_on_files(data.samples(data.train_split))
    if remarks:
        rows["mind"] = "\n".join(dict.fromkeys(remarks))
    return plan, rows


def _steps_per_epoch(trainer: Trainer, data: VisionDataModule, accumulate: int) -> int:
    whole = data.steps_per_epoch * accumulate
    taken = limited(whole, trainer.limit_train_batches)
    if not taken:
        field = "trainer.limit_train_batches"
        raise InputError(
            f"{field} {trainer.limit_train_batches} is less than one micro-batch of an epoch, "
            f"which has {whole}; use 1 or more",
            field=field,
        )
    return math.ceil(taken / accumulate)


def describe(cli: FitCLI, plan: RunPlan) -> dict[str, str]:
    """Return what a run is going to do, as rows of a table."""
    trainer, data, model = cli.trainer, cli.datamodule, cli.model
    probing, validation = cli.find(OnlineProbes), cli.find(Validation)
    objective, encoder, optimizer = model.objective, model.objective.encoder, model.settings
    epochs, steps = trainer.max_epochs or 1, plan.steps_per_epoch
    size = sum(p.numel() for p in encoder.parameters())
    trained = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    start = Progress(0, steps * epochs, epochs, data.global_batch_size)
    schedules = [f"{name} {value:.6g}" for name, value in objective.schedules(start).items()]
    decay = f"then {_LINES[optimizer.lr_schedule.shape]} to {optimizer.min_lr:.3g}"
    if optimizer.warmup_epochs >= epochs:
        decay = f"which {epochs} epochs do not reach; lower model.optimizer.warmup_epochs"
    rows = {
        "encoder": f"{type(encoder).__name__} {size:,} parameters, patch {encoder.patch_size}; "
        f"{type(objective).__name__} trains {trained:,}",
        "data": f"{data.dataset_name} {data.folder}: {len(data.samples(data.train_split)):,} "
        f"training images of {data.num_classes} classes",
        "views": ", ".join(f"{count} x {edge} px" for count, edge in data.transform.crop_sizes),
        "batch": f"{data.global_batch_size} = {plan.layout.micro_batch_size} images x "
        f"{trainer.world_size} devices x {plan.layout.accumulate_grad_batches} micro-batches",
        "length": f"{epochs} epochs x {steps:,} steps = {start.steps:,}",
        "learning rate": f"peak {optimizer.peak_lr(data.global_batch_size):.3g} after "
        f"{optimizer.warmup_epochs} epochs, {decay}",
        "at the start": ", ".join(schedules),
        "precision": str(trainer.precision),
        "memory": f"about {mebibytes(plan.memory)} per device, of {mebibytes(available(trainer))}",
        "probes": "none",
        "run": str(trainer.default_root_dir),
    }
    if probing is not None:
        rows["probes"] = f"{_every(probing)}: {describe_probes(probing, data)}"
    vit = backbone_of(encoder)
    own = sum(p.numel() for name, p in vit.named_parameters() if "_cls." in name)
    if isinstance(vit, ViT) and own:
        split, depth = vit.config["cls_specialization"], len(vit.blocks)
        counts = ", ".join(f"{name} {split.blocks(name, depth)}" for name in LAYERS)
        rows["specialized"] = (
            f"blocks of {depth} with own weights for [CLS]: {counts}; "
            f"{100 * own / (size - own):+.1f} % parameters"
        )
    if objective.classifiers() and validation is not None:
        scored = f"{len(data.samples(data.val_split)):,} images of {data.val_split}"
        rows["scores"] = f"{_every(validation)}, on {scored}"
    return rows


def mebibytes(size: int) -> str:
    """Return a number of bytes in MiB, of one GiB and more in GiB."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"


def _every(measuring: EvaluationCallback) -> str:
    epochs = measuring.every_n_epochs
    every = "every epoch" if epochs == 1 else f"every {epochs} epochs"
    return every if epochs else "after the last epoch"


def describe_probes(probing: OnlineProbes, data: VisionDataModule | None) -> str:
    """Return which probes run on which images."""
    image = "no k-NN or linear probe, as there are no labels"
    if data is not None and data.samples(data.train_split).labels is not None:
        image = "no k-NN or linear probe, as a score of one class would mean nothing"
    if data is not None and has_labels(data):
        image = f"k-NN and linear at {probing.size} px"
    return f"{image}; mIoU at {probing.dense_size} px on {', '.join(probing.dense) or 'no set'}"


def print_rows(title: str, rows: dict[str, str]) -> None:
    """Print a table with a name and a text in each row."""
    table = Table(title=title, show_header=False, title_justify="left")
    for row in rows.items():
        table.add_row(*row)
    console().print(table)


def estimate_memory(
    objective: Objective, crops: Sequence[tuple[int, int]], mixed: bool
) -> tuple[int, int]:
    """Return the estimated bytes of the weights in training, and of one image with all its crops.

    Args:
        objective: whose encoder is measured; the loss keeps a few numbers per crop and output.
        crops: number and edge in pixels of each kind of crop.
        mixed: whether matrix products are in 16 bits.
    """
    encoder = trained_encoder(objective)
    activations = sum(count * kept_for_backward(encoder, edge, mixed) for count, edge in crops)
    images = sum(count * 3 * edge**2 * 4 for count, edge in crops)
    outputs = sum(count for count, _ in crops) * objective.out_dim * 4 * 4
    weights = sum(p.numel() * 4 * (4 if p.requires_grad else 1) for p in objective.parameters())
    return weights, activations + images + outputs


def trained_encoder(objective: Objective) -> Encoder:
    """Return the encoder that is trained (the student of DINO), or the frozen one if none is."""
    for module in objective.modules():
        if isinstance(module, Encoder) and any(p.requires_grad for p in module.parameters()):
            return module
    return objective.encoder


def kept_for_backward(encoder: Encoder, edge: int, mixed: bool) -> int:
    """Return the bytes that one image of this edge keeps until backward, measured on the CPU."""
    twin = copy.deepcopy(encoder).cpu()
    images = torch.zeros(SAMPLE, 3, edge, edge)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=mixed)
    with torch.random.fork_rng(devices=[]), autocast:
        return saved_bytes(lambda: twin(images).cls, twin.parameters()) // SAMPLE


def available(trainer: Trainer) -> int:
    """Return the bytes a process of this run may use on its device."""
    if trainer.strategy.root_device.type == "cuda":
        return torch.cuda.get_device_properties(trainer.strategy.root_device).total_memory
    return psutil.virtual_memory().available // trainer.num_devices
