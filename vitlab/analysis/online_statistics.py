"""What is cheap to know of patch features, from tokens that a dense probe has computed anyway.

The measures are those of `vitlab analyze`, at the encoder's output.

Axis letters: b images, p patches.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vitlab import distributed
from vitlab.analysis.measures import cosines, norms, rank
from vitlab.analysis.measures.context import VOID, BatchContext, Labels
from vitlab.encoders import Encoder, Tokens, TokenSequence
from vitlab.encoders.tokens import Grid, assemble, prefix_length
from vitlab.probes.dense import class_counts

NAMES = ("cls_patch_cosine", "patch_patch_cosine", "diffusion_index", "norm_outliers")
RANK = "feature_rank"


class LastStateRecorder(Encoder):
    """An encoder that keeps its last state, which only the final norm follows; else the same.

    Attributes:
        state: of the last batch; None before the first.
    """

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.inner = encoder
        self.embed_dim, self.patch_size = encoder.embed_dim, encoder.patch_size
        self.state: TokenSequence | None = None

    def walk(self, images: Float[Tensor, "b 3 height width"]) -> Iterator[TokenSequence]:
        """Walk through the encoder."""
        return self.inner.walk(images)

    def read(self, state: TokenSequence) -> Tokens:
        """Return a state as the encoder reads it."""
        return self.inner.read(state)

    def forward(self, images: Float[Tensor, "b 3 height width"]) -> Tokens:
        """Return the encoder's features, by the one walk of its contract."""
        for state in self.walk(images):  # noqa: B007
            pass
        self.state = state
        return self.read(state)


class OnlineFeatureStatistics:
    """Sums up the patch features of a set, batch by batch; of an image, a few numbers are kept.

    Args:
        watched: the encoder whose tokens will be seen.
        background: the class that is no object; None where a set has none, as street scenes.
            Without it there is no diffusion index.
        images: of the set, which decides how many patches of each enter the rank.
    """

    def __init__(self, watched: LastStateRecorder, background: int | None, images: int):
        self.watched, self.background, self.images = watched, background, images
        self._rows: list[Tensor] = []
        self._gram: Tensor | None = None
        self._ranked = 0

    def update(self, tokens: Tokens, masks: list[Tensor]) -> None:
        """Take in the features of one batch, and the masks of its images."""
        assert self.watched.state is not None, "the tokens are not of the watched encoder"
        patches = tokens.patches.float()
        p = patches.shape[1]
        if tokens.cls.shape[1]:
            x = assemble(tokens.cls[:, None].float(), tokens.registers.float(), patches)
        else:
            x = patches
        scene = self._scene(tokens.grid, x, masks)
        last = self.watched.state.x.float()
        found = {**cosines.measure(x, scene), **norms.measure(last, scene)}
        values = {name: value for (name, role), value in found.items() if role in ("", "all")}
        self._rows.append(torch.stack([values[name].double() for name in NAMES], dim=1))
        self._ranked = min(p, max(rank.ROWS // self.images, 1))
        order = torch.randperm(p, generator=torch.Generator().manual_seed(0))
        gram = rank.gram_matrix(patches[:, order[: self._ranked].to(x.device)].flatten(0, 1))
        self._gram = gram if self._gram is None else self._gram + gram

    def _scene(self, grid: Grid, x: Float[Tensor, "b n d"], masks: list[Tensor]) -> BatchContext:
        b, p = len(x), grid[0] * grid[1]
        none = torch.zeros(b, p, dtype=torch.bool)
        labels = Labels(none, none)
        if self.background is not None:
            labels = labels_of_any_size(masks, grid, self.background)
        return BatchContext(
            grid=grid,
            patch=self.watched.patch_size,
            prefix=prefix_length(x.shape[1], grid),
            foreground=labels.foreground.to(x.device),
            background=labels.background.to(x.device),
            order=torch.arange(p, device=x.device),
            rows=0,
        )

    def compute(self) -> dict[str, float]:
        """Return the means over images, and the rank of patches, of all ranks together.

        What has no value is left out.
        """
        assert self._gram is not None, "nothing was seen"
        means = distributed.all_gather_rows(torch.cat(self._rows)).nanmean(0).tolist()
        found = dict(zip(NAMES, means, strict=True))
        total = distributed.all_reduce_mean(self._gram) * distributed.world_size()
        found[RANK] = rank.rankme(total, self._ranked * self.images)
        return {name: value for name, value in found.items() if value == value}


def background_class(classes: Sequence[str]) -> int | None:
    """Return the index of the class that is no object, or None, as of street scenes."""
    return list(classes).index("background") if "background" in classes else None


def labels_of_any_size(masks: Sequence[Tensor], grid: Grid, background: int) -> Labels:
    """Return the labels of patches, by the rule of `scene.labels_of`, from masks of any size.

    Args:
        masks: class of each pixel, 255 where there is none; patches need not tile them.
        grid: rows and columns of patches.
        background: class that is no object.
    """
    counts = torch.stack(
        [
            class_counts(
                torch.where(mask == VOID, 2, (mask != background).long()).to(torch.uint8), grid, 2
            )
            for mask in masks
        ]
    )
    known = counts[:, :, :2].sum(2)
    counted = 2 * known >= counts.sum(2)
    on = 2 * counts[:, :, 1] >= known
    return Labels(counted & on, counted & ~on)
