"""A training step of DINO, against the way its released code computes one.

The peer is written here from the published recipe (arXiv:2104.14294): attention as two products
and a softmax, a loop over pairs of views, and loops over parameters for the clip, for AdamW and
for the teacher. Both start from the same weights and see the same crops, so their losses agree.
"""

import copy
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor

from vitlab.data.batch import Batch
from vitlab.encoders import ViT
from vitlab.objectives import DINO, DINOHeadConfig
from vitlab.objectives.dino import Branch
from vitlab.optim import OptimizerConfig
from vitlab.optim.clipping import clip_per_parameter
from vitlab.optim.schedules import Progress
from vitlab.profiling.timing import fastest

PROGRESS = Progress(
    step=2000, steps=10_000, epochs=100, batch_size=64
)  # the prototypes move by now
CLIP, DECAY, RATE = 3.0, 0.04, 1.25e-4
CLOSE = 1e-5  # largest relative difference of the losses in fp32
AIMS = {"fp32": 1.5, "bf16": 2.4}  # times the peer in fp32


class Side(ABC):
    """One way to compute a step; keeps the seconds of its stages, of the fastest step.

    Args:
        dino: the objective, copied.
        batch: crops of every step.
        half: whether products are taken in bf16.
    """

    def __init__(self, dino: DINO, batch: Batch, half: bool = False):
        self.dino, self.batch, self.half = copy.deepcopy(dino), batch, half
        self.optimizer = self.build()
        self.stages: dict[str, float] = {}
        self.losses: list[float] = []

    @abstractmethod
    def build(self) -> torch.optim.Optimizer:
        """Return AdamW over the trainable parameters."""

    @abstractmethod
    def step(self, clock: "Clock") -> Tensor:
        """Take a step and return its loss."""

    def __call__(self) -> None:
        """Take a step; keep its loss, and its stages if it was the fastest."""
        clock = Clock()
        self.losses.append(self.step(clock).item())
        if not self.stages or sum(clock.stages.values()) < sum(self.stages.values()):
            self.stages = dict(clock.stages)


class Clock:
    """Seconds of each stage; `lap` books what has passed since the last one."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = defaultdict(float)
        self.last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Book the time since the last lap to a stage."""
        now = time.perf_counter()
        self.stages[stage] += now - self.last
        self.last = now


class Ours(Side):
    """A step as `vitlab fit` takes it."""

    def build(self) -> torch.optim.Optimizer:
        """Return the optimizer of a run."""
        optimizer = OptimizerConfig().build(self.dino)
        for group, decay in zip(optimizer.param_groups, (DECAY, 0.0), strict=True):
            group.update(lr=RATE, weight_decay=decay)
        return optimizer

    def step(self, clock: Clock) -> Tensor:
        """Take a step with the objective's own methods."""
        hooks = [
            branch.register_forward_hook(lambda *_, stage=stage: clock.lap(stage))
            for branch, stage in (
                (self.dino.teacher, "teacher forward"),
                (self.dino.student, "student forward"),
            )
        ]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            loss = self.dino.loss(self.batch, PROGRESS).value
        clock.lap("loss")
        for hook in hooks:
            hook.remove()
        loss.backward()
        clock.lap("backward")
        clip_per_parameter(self.dino.parameters(), CLIP)
        self.dino.before_step(PROGRESS)
        clock.lap("clip")
        self.optimizer.step()
        self.optimizer.zero_grad()
        clock.lap("optimizer")
        self.dino.after_step(PROGRESS)
        clock.lap("teacher update")
        return loss.detach()


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

    def step(self, clock: Clock) -> Tensor:
        """Take a step with loops."""
        dino = self.dino
        with torch.no_grad():
            target = project(dino.teacher, self.batch.views[:1])
        clock.lap("teacher forward")
        output = project(dino.student, self.batch.views)
        clock.lap("student forward")
        loss = self.loss(output, target)
        clock.lap("loss")
        loss.backward()
        clock.lap("backward")
        for parameter in dino.student.parameters():
            if parameter.grad is not None:
                factor = CLIP / (parameter.grad.norm() + 1e-6)
                if factor < 1:
                    parameter.grad.mul_(factor)
        clock.lap("clip")
        self.optimizer.step()
        self.optimizer.zero_grad()
        clock.lap("optimizer")
        share = dino.teacher_momentum(PROGRESS)
        with torch.no_grad():
            pairs = zip(dino.teacher.parameters(), dino.student.parameters(), strict=True)
            for teacher, student in pairs:
                teacher.mul_(share).add_((1 - share) * student)
        clock.lap("teacher update")
        return loss.detach()

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean over pairs of views, one after the other, and move the center."""
        dino = self.dino
        teacher = ((target - dino.center) / dino.teacher_temperature(PROGRESS)).softmax(-1)
        terms = [
            (-teacher[w] * F.log_softmax(output[v] / dino.student_temperature, -1)).sum(-1).mean()
            for w in range(len(teacher))
            for v in range(len(output))
            if v != w
        ]
        mean = target.mean((0, 1))
        dino.center.mul_(dino.center_momentum).add_(mean * (1 - dino.center_momentum))
        return sum(terms, torch.zeros(())) / len(terms)


def project(branch: Branch, views: list[Tensor]) -> Tensor:
    """Return the logits (views, images, prototypes) of a branch; one pass per resolution."""
    cls = torch.cat([encode(branch.encoder, stack.flatten(0, 1)) for stack in views])
    last = branch.head.last_layer
    weight = F.normalize(last.weight_v, dim=1) * last.weight_g
    logits = F.linear(F.normalize(branch.head.mlp(cls), dim=-1), weight)
    return logits.unflatten(0, (-1, views[0].shape[1]))


def encode(vit: Any, images: Tensor) -> Tensor:
    """Return the [CLS] features of a plain ViT."""
    x = vit.embed(images).x
    for block in vit.blocks:
        x = x + attend(block.attn, block.norm1(x))
        x = x + block.mlp(block.norm2(x))
    return vit.norm(x)[:, 0]


def attend(attention: Any, x: Tensor) -> Tensor:
    """Return attention with all its weights at once."""
    q, k, v = attention.qkv(x).unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    weights = ((q @ k.mT) * q.shape[-1] ** -0.5).softmax(-1)
    return attention.proj((weights @ v).transpose(1, 2).flatten(2))


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
    title = f"a step of DINO: ViT-{size}/16, 4 images, 2 x 224 + 8 x 96 px, {prototypes} prototypes"
    whole = Table("step", "ms", "peer / this", "aim", title=title)
    for name, taken in zip(compared, times, strict=True):
        aim = AIMS[name.split()[-1]]
        wanted = "" if name.startswith("peer") else f">= {aim}"
        whole.add_row(name, f"{taken:.0f}", f"{times[0] / taken:.2f}", wanted)
    whole.caption = f"losses in fp32 agree to {CLOSE} in every step, compared in this run"
    yield whole
    yield stages(compared)


def check(compared: dict[str, Side]) -> None:
    """Make sure that ours and the peer compute the same in fp32, step for step."""
    for theirs, ours in zip(
        compared["peer, fp32"].losses, compared["ours, fp32"].losses, strict=True
    ):
        assert abs(theirs - ours) <= CLOSE * abs(theirs), f"losses {theirs} and {ours}"


def stages(compared: dict[str, Side]) -> Table:
    """Return where the time of the fastest steps goes."""
    table = Table("stage, ms", *compared, title="where it goes")
    for stage in next(iter(compared.values())).stages:
        cells = [f"{1000 * side.stages[stage]:.1f}" for side in compared.values()]
        table.add_row(stage, *cells)
    return table
