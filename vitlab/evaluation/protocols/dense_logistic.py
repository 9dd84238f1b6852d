"""CAPI's logistic regression of patches (arXiv:2502.08769, code facebookresearch/capi)."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vitlab.errors import InputError
from vitlab.evaluation.protocol import EvaluationContext, Precision
from vitlab.evaluation.protocols.resized import Predicted, ResizedProtocol
from vitlab.probes.layer_selection import LayerSelection
from vitlab.probes.logistic import LogisticRegression
from vitlab.probes.patch_dataset import PatchDataset


class DenseLogistic(ResizedProtocol):
    """Multinomial logistic regression of patches by their most frequent label, for several C.

    C weighs the sum of cross-entropies against |W|^2 / 2, as in scikit-learn and cuML. A patch's
    label is that of all its pixels.

    Args:
        log10_c_min: decimal logarithm of the smallest C.
        log10_c_max: decimal logarithm of the largest C.
        num_c: how many C, evenly spaced by their logarithm.
        max_iter: of L-BFGS at most.
        history_size: steps that L-BFGS remembers.
        size: pixels of the square's edge.
        layer_selection: which features of patches.
        holdout_fraction: share of the training images that decides.
        precision: of the forward pass.
    """

    def __init__(
        self,
        log10_c_min: float = -6.0,
        log10_c_max: float = 5.0,
        num_c: int = 8,
        max_iter: int = 1000,
        history_size: int = 5,
        size: int = 224,
        layer_selection: LayerSelection = LayerSelection(),  # noqa: B008, frozen
        holdout_fraction: float = 0.1,
        precision: Precision = "fp32",
    ):
        super().__init__(size, layer_selection, holdout_fraction, precision)
        if min(num_c, max_iter, history_size) < 1 or log10_c_min > log10_c_max:
            raise InputError(
                f"num_c {num_c}, max_iter {max_iter} and history_size {history_size} must be 1 or "
                f"more, and log10_c_min {log10_c_min} not above log10_c_max {log10_c_max}",
                field="protocol.log10_c_min",
            )
        self.max_iter, self.history_size = max_iter, history_size
        self.strengths = [
            10**x for x in torch.linspace(log10_c_min, log10_c_max, num_c, dtype=torch.float64)
        ]

    @property
    def settings(self) -> list[str]:
        """Every C."""
        return [f"C {float(strength):.3g}" for strength in self.strengths]

    def label(
        self,
        patches: PatchDataset,
        x: Float[Tensor, "s d"],
        settings: Sequence[int],
        classes: int,
        context: EvaluationContext,
    ) -> Predicted:
        """Fit each C, one after the other."""
        kept: list[tuple[Tensor, Tensor]] = []
        if 4 * len(patches) * patches.x.shape[2] <= context.memory:
            kept = list(patches.blocks(context.memory // 4, context.device))

        def blocks() -> Iterator[tuple[Tensor, Tensor]]:
            """Rows of patches; where memory has no room, standardized again in each pass."""
            return iter(kept) if kept else patches.blocks(context.memory, context.device)

        found = []
        for index in context.track(settings, "logistic regression", total=len(settings)):
            decay = 1 / (float(self.strengths[index]) * len(patches))
            fitted = LogisticRegression.fit(
                blocks, classes, decay, self.max_iter, self.history_size
            )
            rows = max(1, context.memory // (8 * classes))
            labels = [fitted(part).argmax(1).to(torch.uint8).cpu() for part in x.split(rows)]
            found.append(torch.cat(labels)[:, None])
        return found
