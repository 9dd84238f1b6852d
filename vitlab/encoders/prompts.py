"""Deep prompts: learned keys and values of attention, in every block.

VPT-Deep ("Visual Prompt Tuning", arXiv:2203.12119) has the same prompts for all queries. TCPA
("Token Coordinated Prompt Attention is Needed for Visual Prompting", arXiv:2505.02406) has a pool
for [CLS] and one for patches (R-TCPA), and lets each query read only the entries of its pool whose
learned keys are nearest to it (T-TCPA). Both discard the output of prompts, so prompts need no
queries, no MLP and no place in the sequence: keys and values give the same features for less.

Axis letters: b images, n tokens, m prompts, q queries of a role, s entries of a pool, k selected
entries (of attention: all keys), d channels, h heads, e channels of a head.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vitlab.encoders.hooks import HookPoint
from vitlab.encoders.tokens import Grid, prefix_length, split_at
from vitlab.errors import check_fields
from vitlab.precision import at_least_fp32


@dataclass(frozen=True)
class Pool:
    """Prompts for the queries of one role, in each block.

    Args:
        size: entries; 0 for no pool.
        length: prompts of an entry.
        top_k: entries that a query reads, those with the keys nearest to it (T-TCPA); 0 for all,
            without keys (R-TCPA).
    """

    size: int = 0
    length: int = 1
    top_k: int = 0

    def __post_init__(self) -> None:
        sized = self.size > 0
        problems = {
            "size": (self.size < 0, "is negative; give 0 or more entries"),
            "length": (
                self.length < 1 or (self.length > 1 and not sized),
                "does not fit: a pool has entries of 1 or more prompts, and none with size 0",
            ),
            "top_k": (
                not 0 <= self.top_k <= self.size,
                f"is not in [0, {self.size}], the entries of the pool; 0 reads all without keys",
            ),
        }
        check_fields(self, "", problems)

    @property
    def prompts(self) -> int:
        """All prompts of the pool."""
        return self.size * self.length


@dataclass(frozen=True)
class Prompts:
    """Which prompts each block has; all counts 0 is the plain encoder.

    VPT-Deep is `Prompts(shared=36, dropout=0)`, R-TCPA `Prompts(cls=Pool(18), patches=Pool(18))`,
    TCPA `Prompts(cls=Pool(18, top_k=10), patches=Pool(18, top_k=10))`.

    Args:
        shared: prompts that all queries read.
        cls: pool of [CLS].
        patches: pool of the patches.
        mask_mode: "post_softmax" sets the weights of prompts that a query may not read to 0 and
            keeps the others as they are, as the authors' code does, which damps the output;
            "pre_softmax" excludes such prompts from the normalizer.
        registers: whose pool registers read; the authors' encoders have none.
        dropout: probability that a channel of a prompt is 0 for an image, in training.
        fourier: whether prompts pass a Fourier transform over prompts and channels, of which the
            real part is kept (VFPT, the baseline of the authors' scripts). The pools then mix.
        detach_query: whether the matching loss trains keys alone, not earlier prompts too.
    """

    shared: int = 0
    cls: Pool = Pool()
    patches: Pool = Pool()
    mask_mode: Literal["post_softmax", "pre_softmax"] = "post_softmax"
    registers: Literal["none", "cls", "patches"] = "none"
    dropout: float = 0.1
    fourier: bool = False
    detach_query: bool = False

    def __post_init__(self) -> None:
        pools = self.cls.size + self.patches.size
        useless = "has no effect without {0}; leave it out, or give {0}".format
        problems = {
            "shared": (self.shared < 0, "is negative; give 0 or more prompts"),
            "dropout": (not 0 <= self.dropout < 1, "is not in [0, 1); TCPA uses 0.1"),
            "mask_mode": (self.mask_mode != "post_softmax" and not pools, useless("a pool")),
            "registers": (self.registers != "none" and not pools, useless("a pool")),
            "fourier": (self.fourier and not self.count, useless("prompts")),
            "detach_query": (
                self.detach_query and not self.matched,
                useless("a pool with top_k"),
            ),
        }
        check_fields(self, "prompts.", problems)

    @property
    def count(self) -> int:
        """Prompts of a block."""
        return self.shared + self.cls.prompts + self.patches.prompts

    @property
    def matched(self) -> bool:
        """Whether some prompts are selected by keys."""
        return self.cls.top_k + self.patches.top_k > 0


@dataclass(frozen=True)
class PromptKV:
    """The prompts of a block, of which attention takes keys and values.

    Attributes:
        tokens: prompts, of each image or the same for all.
        visible: which token may read which prompt; None for all.
        post: whether the others are masked after the normalizer, not before.
    """

    tokens: Float[Tensor, "#b m d"]
    visible: Bool[Tensor, "#b n m"] | None
    post: bool

    def through(self, layer: Callable[[Tensor], Tensor]) -> "PromptKV":
        """Apply a layer to the prompts."""
        return replace(self, tokens=layer(self.tokens))

    def bias(
        self, own: Float[Tensor, "#b #h n n"] | None, q: Float[Tensor, "b h n e"]
    ) -> Float[Tensor, "#b #h n k"] | None:
        """Return the bias on the scores of prompts, then tokens, given that of tokens."""
        n, m = q.shape[2], self.tokens.shape[1]
        hidden = None if self.post or self.visible is None else ~self.visible
        if own is None and hidden is None:
            return None
        whole = q.new_zeros(1, 1, n, m + n) if own is None else F.pad(own, (m, 0))
        return whole if hidden is None else whole.masked_fill(_beside(hidden, n, 0), -math.inf)

    def gate(self, n: int) -> Bool[Tensor, "#b 1 n k"] | None:
        """Return which weights of prompts and n tokens stay; None if all do."""
        return None if self.visible is None or not self.post else _beside(self.visible, n, 1)


def _beside(prompts: Tensor, n: int, value: int) -> Bool[Tensor, "b 1 n k"]:
    """Return flags of prompts and n tokens, which have all the same one."""
    return F.pad(prompts, (0, n), value=value)[:, None]


class DeepPrompts(nn.Module):
    """The prompts of one block, and their selection.

    `record(encoder, "prompts.mismatch")` collects the matching loss: the mean of 1 - cos(query,
    key) over selected entries, the sum of both roles; `prompts.cls.chosen` and
    `prompts.patches.chosen` the indices (b, q, k) of the entries each query reads.
    """

    def __init__(self, prompts: Prompts, embed_dim: int, patch_size: int):
        super().__init__()
        self.settings = prompts
        self.shared = None
        if prompts.shared:
            bound = math.sqrt(6 / (3 * patch_size**2 + embed_dim))  # 0.0625 for ViT-B/16
            self.shared = _uniform(prompts.shared, embed_dim, bound=bound)
        self.cls = PromptPool(prompts.cls, embed_dim) if prompts.cls.size else None
        self.patches = PromptPool(prompts.patches, embed_dim) if prompts.patches.size else None
        self.mismatch = HookPoint()

    def forward(self, x: Float[Tensor, "b n d"], grid: Grid) -> PromptKV:
        """Return the prompts, and which of them the tokens that enter the block may read."""
        b, n, _ = x.shape
        prefix, settings = prefix_length(n, grid), self.settings
        ends = prefix if settings.registers == "cls" else 1  # of those that read [CLS]'s pool
        begins = 1 if settings.registers == "patches" else prefix
        tokens: list[Tensor] = []
        visible: list[Tensor] = []
        mismatch = x.new_zeros(())
        if self.shared is not None:
            tokens.append(self.shared)
            visible.append(x.new_ones(1, n, len(self.shared), dtype=torch.bool))
        for pool, queries, rows in (
            (self.cls, split_at(x, ends)[0], (0, n - ends)),
            (self.patches, split_at(x, begins)[1], (begins, 0)),
        ):
            if pool is not None:
                read, distance = pool(queries.detach() if settings.detach_query else queries)
                mismatch = mismatch + distance
                tokens.append(pool.prompts.flatten(0, 1))
                visible.append(F.pad(read, (0, 0, *rows)))
        self.mismatch(mismatch)
        prompts = torch.cat(tokens)[None]
        if self.training and settings.dropout:  # of each image its own
            prompts = F.dropout(prompts.expand(b, -1, -1), settings.dropout)
        if settings.fourier:
            prompts = torch.fft.fft2(prompts).real
        whole = None
        if self.cls is not None or self.patches is not None:
            most = b if settings.matched else 1  # 1 where all images may read the same
            whole = torch.cat([each.expand(most, -1, -1) for each in visible], dim=2)
        return PromptKV(prompts, whole, settings.mask_mode == "post_softmax")


class PromptPool(nn.Module):
    """A pool of prompts and, where queries select among them, a key of each entry.

    All are initialized uniformly in [-1, 1], as in the authors' code.

    Attributes:
        drawing: whether, in training, entries are drawn at random instead of by keys; their keys
            are then pulled towards the queries that drew them.
    """

    def __init__(self, pool: Pool, embed_dim: int):
        super().__init__()
        self.pool, self.drawing = pool, False
        self.prompts = _uniform(pool.size, pool.length, embed_dim)
        self.keys = _uniform(pool.size, embed_dim) if pool.top_k else None
        self.chosen = HookPoint()

    def forward(
        self, x: Float[Tensor, "b q d"]
    ) -> tuple[Bool[Tensor, "#b q m"], Float[Tensor, ""]]:
        """Return which query reads which prompt, and the mean of 1 - cos(query, key) over these.

        Among equals the lower index is selected. Without keys all is read, and the mean is 0.
        """
        if self.keys is None:
            everything = x.new_ones(1, x.shape[1], self.pool.prompts, dtype=torch.bool)
            return everything, x.new_zeros(())
        with torch.autocast(x.device.type, enabled=False):
            x = at_least_fp32(x)
            keys = F.normalize(self.keys.to(x.dtype), dim=-1)
            similarity = F.normalize(x, dim=-1) @ keys.mT
        chosen = self.chosen(self.choose(similarity))
        opened = torch.zeros_like(similarity, dtype=torch.bool).scatter(-1, chosen, True)
        mismatch = (1 - similarity.gather(-1, chosen)).mean()
        return opened.repeat_interleave(self.pool.length, dim=-1), mismatch

    def choose(self, similarity: Float[Tensor, "b q s"]) -> Int[Tensor, "b q k"]:
        """Return the indices of the selected entries of each query, all different."""
        if self.training and self.drawing:
            order = torch.rand_like(similarity).argsort(-1)
        else:  # a stable order, since that of topk among equals depends on the device
            order = similarity.detach().sort(stable=True, dim=-1, descending=True).indices
        return order[..., : self.pool.top_k]


def _uniform(*shape: int, bound: float = 1.0) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))
