"""Standardization of features.

Axis letters: n images, p patches, m chosen images, d width.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitlab.probes.finiteness import check_finite


@dataclass(frozen=True)
class StandardScaler:
    """(x - mean) / std of each feature.

    Attributes:
        mean: over all rows.
        std: deviation; not 0.
    """

    mean: Float[Tensor, " d"]
    std: Float[Tensor, " d"]

    @classmethod
    def fit(
        cls, x: Float[Tensor, "n p d"], images: Int[Tensor, " m"], memory: int
    ) -> "StandardScaler":
        """Measure the patches of some images in fp64, as scikit-learn's StandardScaler.

        The deviation is that of the population; 1 where a feature is constant.

        Args:
            x: patches of all images.
            images: indices of those that are measured.
            memory: bytes that a block of them may take.

        Raises:
            InputError: features that are not finite.
        """
        count = len(images) * x.shape[1]
        mean = torch.zeros(x.shape[2], dtype=torch.float64)
        blocks = images.split(max(1, images_per_block(x, memory) // 2))  # in fp64
        for block in blocks:
            mean += x[block].double().sum((0, 1)) / count
        check_finite(mean)
        variance = torch.zeros_like(mean)
        for block in blocks:
            variance += (x[block].double() - mean).square().sum((0, 1)) / count
        # rounding of fp32 features that are all alike
        constant = variance <= (1e-7 * mean).square()
        std = torch.where(constant, 1.0, variance.sqrt())
        return cls(mean.float(), std.float())

    def transform(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        """Return standardized rows."""
        return (x - self.mean.to(x.device)) / self.std.to(x.device)

    def __call__(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        """Return standardized rows.

        Raises:
            InputError: features that are not finite.
        """
        check_finite(x)
        return self.transform(x)


def images_per_block(x: Float[Tensor, "n p d"], memory: int) -> int:
    """Return how many images a block may have: their rows, a part of these, and a copy."""
    return max(1, memory // (3 * 4 * x.shape[1] * x.shape[2]))
