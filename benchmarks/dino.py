"""A training step of DINO, against the way its released code computes one.

The peer is written here from the published recipe (arXiv:2104.14294): attention as two products
and a softmax, a loop over pairs of views, and loops over parameters for the clip, for AdamW and
for the teacher. Both start from the same weights and see the same crops, so their losses agree.
"""

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor

from benchmarks.attention import Case
from vitlab.data.batch import Batch
from vitlab.encoders import ViT
from vitlab.objectives import DINO, DINOHeadConfig
from vitlab.objectives.dino import Branch, cross_entropy
from vitlab.optim import OptimizerConfig
from vitlab.optim.optimizer import clip_per_parameter
from vitlab.optim.schedules import Progress
from vitlab.profiling.timing import fastest

PROGRESS = Progress(2000, steps=10_000, epochs=100, batch_size=64)  # the prototypes move by now
CLIP, DECAY, RATE = 3.0, 0.04, 1.25e-4
CLOSE = 1e-5  # largest relative difference of the losses in fp32
AIMS = {"ours, fp32": 1.5, "ours, bf16": 2.4}  # times the peer in fp32


class Side(ABC):
    """One way to compute a step; keeps its losses and the times of the fastest step's stages.

    Args:
        dino: the objective, copied.
        batch: crops of every step.
        half: whether products are taken in bf16.
    """

    def __init__(self, dino: DINO, batch: Batch, half: bool = False):
        self.dino, self.batch, self.half = copy.deepcopy(dino), batch, half
        self.optimizer = self.build()
        self.stages: dict[str, float] = {}  # milliseconds
        self.losses: list[float] = []

    @abstractmethod
    def build(self) -> torch.optim.Optimizer:
        """Return AdamW over the trainable parameters."""

    @abstractmethod
    def loss(self) -> Tensor:
        """Return the loss, and move the center."""

    @abstractmethod
    def clip(self) -> None:
        """Clip the gradient of each parameter."""

    @abstractmethod
    def update_teacher(self) -> None:
        """Move the teacher."""

    def __call__(self) -> None:
        """Take a step."""
        stages: dict[str, float] = {}

        def timed(stage: str, call: Callable[[], Any]) -> Any:
            began = time.perf_counter()
            found = call()
            stages[stage] = 1000 * (time.perf_counter() - began)
            return found

        loss = timed("forward and loss", self.loss)
        timed("backward", loss.backward)
        timed("clip", self.clip)
        timed("optimizer", self.optimizer.step)
        self.optimizer.zero_grad()
        timed("teacher update", self.update_teacher)
        self.losses.append(loss.item())
        if not self.stages or sum(stages.values()) < sum(self.stages.values()):
            self.stages = stages


class Ours(Side):
    """A step as `vitlab fit` takes it."""

    def build(self) -> torch.optim.Optimizer:
        """Return the optimizer of a run."""
        optimizer = OptimizerConfig().build(self.dino)
        for group, decay in zip(optimizer.param_groups, (DECAY, 0.0), strict=True):
            group.update(lr=RATE, weight_decay=decay)
        return optimizer

    def loss(self) -> Tensor:
        """Return the objective's loss."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            return self.dino.loss(self.batch, PROGRESS).value

    def clip(self) -> None:
        """Clip all at once."""
        clip_per_parameter(self.dino.parameters(), CLIP)
        self.dino.before_step(PROGRESS)

    def update_teacher(self) -> None:
        """Move all parameters at once."""
        self.dino.after_step(PROGRESS)


class Peer(Side):
    """The same step as the released code computes it."""

    def build(self) -> torch.optim.Optimizer:
        """Return an optimizer that loops over the parameters."""
        parameters = [p for p in self.dino.student.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, RATE, weight_decay=DECAY, foreach=False, fused=False)

    def loss(self) -> Tensor:
        """Return the mean over pairs of views, one after the other."""
        dino = self.dino
        with torch.no_grad():
            target = project(dino.teacher, self.batch.views[:1])
        output = project(dino.student, self.batch.views)
        teacher = ((target - dino.center) / dino.teacher_temperature(PROGRESS)).softmax(-1)
        terms = [
            (-teacher[w] * F.log_softmax(output[v] / dino.student_temperature, -1)).sum(-1).mean()
            for w in range(len(teacher))
            for v in range(len(output))
            if v != w
        ]
        mean = target.mean((0, 1))
        dino.center.mul_(dino.center_momentum).add_(mean * (1 - dino.center_momentum))
        return torch.stack(terms).sum() / len(terms)

    def clip(self) -> None:
        """Clip one after the other."""
        for parameter in self.dino.student.parameters():
            if parameter.grad is not None:
                factor = CLIP / (parameter.grad.norm() + 1e-6)
                if factor < 1:
                    parameter.grad.mul_(factor)

    @torch.no_grad()
    def update_teacher(self) -> None:
        """Move one parameter after the other."""
        share = self.dino.teacher_momentum(PROGRESS)
        pairs = zip(self.dino.teacher.parameters(), self.dino.student.parameters(), strict=True)
        for teacher, student in pairs:
            teacher.mul_(share).add_((1 - share) * student)


def project(branch: Branch, views: list[Tensor]) -> Tensor:
    """Return the logits (views, images, prototypes) of a branch; one pass per resolution."""
    cls = torch.cat([encode(branch.encoder, stack.flatten(0, 1)) for stack in views])
    last = branch.head.last_layer
    weight = F.normalize(last.weight_v, dim=1) * last.weight_g
    logits = F.linear(F.normalize(branch.head.mlp(cls), dim=-1), weight)
    return logits.unflatten(0, (-1, views[0].shape[1]))


def encode(vit: Any, images: Tensor) -> Tensor:
    """Return the [CLS] features of a plain ViT, with all attention weights at once."""
    x = vit.embed(images).x
    for block in vit.blocks:
        attention = block.attn
        qkv = attention.qkv(block.norm1(x)).unflatten(2, (3, attention.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = ((q @ k.mT) * q.shape[-1] ** -0.5).softmax(-1)
        x = x + attention.proj((weights @ v).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    return vit.norm(x)[:, 0]


def sides(dino: DINO, batch: Batch) -> dict[str, Side]:
    """Return the ways to compare, from the same weights."""
    return {
        "peer, fp32": Peer(dino, batch),
        "ours, fp32": Ours(dino, batch),
        "ours, bf16": Ours(dino, batch, half=True),
    }


def tables(repeats: int, size: str = "S", prototypes: int = 65536) -> Iterator[Table]:
    """Measure steps of 4 images, 2 x 224 + 8 x 96 pixels, on the CPU.

    Args:
        repeats: turns of each side.
        size: of the ViT, with patches of 16 pixels.
        prototypes: outputs of the head.
    """
    drawn = torch.Generator().manual_seed(0)
    views = [torch.randn(n, 4, 3, px, px, generator=drawn) for n, px in ((2, 224), (8, 96))]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dino = DINO(ViT(size), DINOHeadConfig(prototypes))  # type: ignore[arg-type]
    compared = sides(dino, Batch(views))
    times = fastest(list(compared.values()), repeats)
    check(compared)
    stages = compared["peer, fp32"].stages
    title = f"a step of DINO: ViT-{size}/16, 4 images, 2 x 224 + 8 x 96 px, {prototypes} prototypes"
    table = Table("step, ms", "whole", "peer / this", "aim", *stages, title=title)
    for (name, side), taken in zip(compared.items(), times, strict=True):
        aim = f">= {AIMS[name]}" if name in AIMS else ""
        parts = [f"{side.stages[stage]:.1f}" for stage in stages]
        table.add_row(name, f"{taken:.0f}", f"{times[0] / taken:.2f}", aim, *parts)
    table.caption = f"losses in fp32 agree to {CLOSE} in every step, compared in this run"
    yield table


def check(compared: dict[str, Side]) -> None:
    """Make sure that ours and the peer compute the same in fp32, step for step."""
    losses = (compared[name].losses for name in ("peer, fp32", "ours, fp32"))
    for theirs, ours in zip(*losses, strict=True):
        assert abs(theirs - ours) <= CLOSE * abs(theirs), f"losses {theirs} and {ours}"


def loss() -> Case:
    """DINO's loss of ten views alone, against the loop over pairs of views."""
    student = torch.randn(10, 8, 8192).log_softmax(-1).requires_grad_()
    teacher = torch.randn(2, 8, 8192).softmax(-1)

    def loop() -> None:
        pairs = [
            -(teacher[w] * student[v]).sum(-1).mean() for w in range(2) for v in range(10) if v != w
        ]
        torch.stack(pairs).mean().backward()

    ours = "DINO's loss, 10 views of 8 images, 8192 prototypes"
    return ours, lambda: cross_entropy(student, teacher).backward(), "loop over pairs", loop
