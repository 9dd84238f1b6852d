"""CAPI's logistic regression of patches (arXiv:2502.08769, code facebookresearch/capi)."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from vitlab.evaluation.protocol import EvaluationContext, Precision
from vitlab.evaluation.protocols.resized import Predicted, Query, ResizedProtocol
from vitlab.probes.layer_selection import LayerSelection
from vitlab.probes.logistic import LogisticRegression
from vitlab.probes.patch_dataset import PatchDataset


class DenseLogistic(ResizedProtocol):
    """Multinomial logistic regression of patches by their most frequent label, for several C.

    C weighs the sum of cross-entropies against |W|^2 / 2, as in scikit-learn and cuML. A patch's
    label is that of all its pixels.

    Args:
        low: decimal logarithm of the smallest C.
        high: decimal logarithm of the largest C.
        steps: how many C, evenly spaced by their logarithm.
        iterations: of L-BFGS at most.
        history: steps that L-BFGS remembers.
        size: pixels of the square's edge.
        reading: which features of patches.
        held_out: share of the training images that decides.
        precision: of the forward pass.
    """

    def __init__(
        self,
        low: float = -6.0,
        high: float = 5.0,
        steps: int = 8,
        iterations: int = 1000,
        history: int = 5,
        size: int = 224,
        reading: LayerSelection = LayerSelection(),  # noqa: B008, frozen
        held_out: float = 0.1,
        precision: Precision = "fp32",
    ):
        super().__init__(size, reading, held_out, precision)
        if steps < 1 or iterations < 1 or history < 1 or low > high:
            raise ValueError(
                f"steps {steps}, iterations {iterations} and history {history} must be 1 or more, "
                f"and low {low} not above high {high}"
            )
        self.iterations, self.history = iterations, history
        self.strengths = [10**x for x in torch.linspace(low, high, steps, dtype=torch.float64)]

    @property
    def settings(self) -> list[str]:
        """Every C."""
        return [f"C {float(strength):.3g}" for strength in self.strengths]

    def label(
        self,
        bank: PatchDataset,
        query: Query,
        settings: Sequence[int],
        classes: int,
        context: EvaluationContext,
    ) -> Predicted:
        """Fit each C, one after the other."""
        blocks = _Blocks(bank, context)
        found = []
        for index in context.track(settings, "logistic regression", total=len(settings)):
            decay = 1 / (float(self.strengths[index]) * len(bank))
            fitted = LogisticRegression.fit(blocks, classes, decay, self.iterations, self.history)
            rows = max(1, context.memory // (8 * classes))
            labels = [fitted(x).argmax(1).to(torch.uint8).cpu() for x in query.x.split(rows)]
            found.append(torch.cat(labels)[:, None])
        return found


class _Blocks:
    """The rows of a bank: kept where they fit into memory, else standardized again in each pass."""

    def __init__(self, bank: PatchDataset, context: EvaluationContext):
        self.bank, self.context = bank, context
        self.kept: list[tuple[Tensor, Tensor]] = []
        if 4 * len(bank) * bank.x.shape[2] <= context.memory:
            self.kept = list(bank.blocks(context.memory // 4, context.device))

    def __call__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (
            iter(self.kept)
            if self.kept
            else self.bank.blocks(self.context.memory, self.context.device)
        )
