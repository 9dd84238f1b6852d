"""Statistics of patch features during training, from the tokens that a dense probe computes.

The measures are those of `vitlab analyze` at the encoder's output.

Axis letters: b images, p patches.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vitlab import distributed
from vitlab.analysis.measures.context import VOID, BatchContext, PatchLabels, no_objects
from vitlab.analysis.measures.tokens import ROWS, cosines, gram_matrix, norms, rankme
from vitlab.encoders import Encoder, Tokens, TokenSequence
from vitlab.encoders.tokens import Grid, assemble, prefix_length
from vitlab.precision import at_least_fp32
from vitlab.probes.dense import class_counts

NAMES = ("cls_patch_cosine", "patch_patch_cosine", "diffusion_index", "norm_outliers")


class LastStateRecorder(Encoder):
    """An encoder that keeps the last state of its walk; otherwise the same.

    Attributes:
        state: of the last batch; None before the first.
    """

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.inner = encoder
        self.embed_dim, self.patch_size = encoder.embed_dim, encoder.patch_size
        self.state: TokenSequence | None = None

    def walk(self, images: Float[Tensor, "b 3 height width"]) -> Iterator[TokenSequence]:
        """Yield the encoder's states."""
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
    """Means of patch features over a dataset; `update` with each batch, then `compute`.

    Args:
        recorder: the encoder of the tokens.
        background: the class that is no object; None where a set has none, as street scenes.
            Without it there is no diffusion index.
        images: of the set; decides how many patches of each enter the rank.
    """

    def __init__(self, recorder: LastStateRecorder, background: int | None, images: int):
        self.recorder, self.background, self.images = recorder, background, images
        self._rows: list[Tensor] = []
        self._gram: Tensor | None = None
        self._patches_per_image = 0

    def update(self, tokens: Tokens, masks: list[Tensor]) -> None:
        """Add the features of one batch, and the masks of its images."""
        assert self.recorder.state is not None, "the tokens are not of the recorded encoder"
        x = patches = at_least_fp32(tokens.patches)
        if tokens.cls.shape[1]:
            cls = at_least_fp32(tokens.cls)[:, None]
            x = assemble(cls, at_least_fp32(tokens.registers), patches)
        labels = no_objects(len(x), tokens.grid, x.device)
        if self.background is not None:
            labels = label_patches_of_any_size(masks, tokens.grid, self.background)
            labels = labels[0].to(x.device), labels[1].to(x.device)
        prefix, p = prefix_length(x.shape[1], tokens.grid), patches.shape[1]
        rows = min(p, max(ROWS // self.images, 1))
        context = BatchContext(tokens.grid, self.recorder.patch_size, prefix, *labels, rows)
        last = at_least_fp32(self.recorder.state.x)
        measured = cosines(x, context) | norms(last, context)[0]
        values = {name: value for (name, role), value in measured.items() if role in ("", "all")}
        self._rows.append(torch.stack([values[name].double() for name in NAMES], dim=1))
        self._patches_per_image = rows
        gram = gram_matrix(patches[:, context.order[:rows]].flatten(0, 1))
        self._gram = gram if self._gram is None else self._gram + gram

    def compute(self) -> dict[str, float]:
        """Return means over the images of all processes, and the rank, where they are defined."""
        assert self._gram is not None, "no batch was added"
        means = distributed.all_gather_rows(torch.cat(self._rows)).nanmean(0).tolist()
        found = dict(zip(NAMES, means, strict=True))
        total = distributed.all_reduce_mean(self._gram) * distributed.world_size()
        found["feature_rank"] = rankme(total, self._patches_per_image * self.images)
        return {name: value for name, value in found.items() if value == value}


def background_class(classes: Sequence[str]) -> int | None:
    """Return the index of the class that is no object, or None, as of street scenes."""
    return list(classes).index("background") if "background" in classes else None


def label_patches_of_any_size(masks: Sequence[Tensor], grid: Grid, background: int) -> PatchLabels:
    """Return the labels of patches, by the rule of `label_patches`, from masks of any size.

    Masks hold the class of each pixel, 255 where there is none; patches need not tile them.
    """
    kinds = (torch.where(mask == VOID, 2, (mask != background).long()) for mask in masks)
    counts = torch.stack([class_counts(each.to(torch.uint8), grid, 2) for each in kinds])
    known = counts[:, :, :2].sum(2)
    counted = 2 * known >= counts.sum(2)
    on = 2 * counts[:, :, 1] >= known
    return counted & on, counted & ~on
