"""Logistic regression on frozen features, fitted to convergence by L-BFGS.

Axis letters: s rows, d width, c classes.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vitlab.probes.features import Features, Probe, StandardScaler

Target = Int[Tensor, " s"] | Float[Tensor, "s c"]  # the class of each row, or their distribution
Blocks = Callable[[], Iterator[tuple[Tensor, Tensor]]]  # rows (s, d) with their targets

TOLERANCE = 1e-4  # some times what rounding of fp32 features leaves of the gradient
LIMIT = 3000  # iterations, ten times what the slowest fit of real features took
_COLUMNS = 32


@dataclass(frozen=True)
class Convergence:
    """How a fit has ended.

    Attributes:
        steps: iterations of L-BFGS.
        gradient: largest entry of the last gradient, in units in which the curvature is about 1:
            the loss is about half its square above the least one.
        converged: whether that is within the tolerance, so that more iterations change nothing.
    """

    steps: int
    gradient: float
    converged: bool

    def __str__(self) -> str:
        state = "converged" if self.converged else "NOT CONVERGED"
        return f"{state} after {self.steps} steps (gradient {self.gradient:.1e})"


@dataclass(frozen=True)
class LogisticRegression:
    """Multinomial logistic regression: logits = x weight + bias.

    It minimizes mean cross-entropy + weight_decay / 2 |weight|^2 by L-BFGS from zero, on all rows
    at once: no learning rate is chosen and no random number drawn. scikit-learn's C is
    1 / (weight_decay * rows).
    """

    weight: Float[Tensor, "d c"]
    bias: Float[Tensor, " c"]
    convergence: Convergence = Convergence(0, 0.0, True)

    @classmethod
    def fit(
        cls,
        blocks: Blocks,
        classes: int,
        weight_decay: float,
        limit: int = LIMIT,
        history: int = 20,
        tolerance: float = TOLERANCE,
    ) -> "LogisticRegression":
        """Fit weight and bias until the gradient is within the tolerance.

        As features are correlated, the unknown is U in [weight; bias] = P U, where P P^T is the
        inverse of the curvature at the start: X^T X / (rows classes) + weight_decay, with a column
        of ones in X. In U, the curvature is about 1 in every direction.

        Args:
            blocks: returns all rows, in blocks of any size.
            classes: number of classes.
            weight_decay: L2 penalty on the weight.
            limit: iterations at which it ends in any case.
            history: steps in the memory of L-BFGS.
            tolerance: largest entry of the gradient by U at which it ends.
        """
        x, _ = next(blocks())
        d, dtype = x.shape[1], torch.promote_types(x.dtype, torch.float32)
        p, rows = _preconditioner(blocks, classes, weight_decay)
        unknown = p.new_zeros(d + 1, classes)  # in fp64; products with rows are in their precision
        solver = torch.optim.LBFGS(
            [unknown],
            max_iter=limit,
            max_eval=25 * limit,
            history_size=history,
            tolerance_grad=tolerance,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )
        # products are twice as fast with columns of a round number, of which some stay zero
        columns = x.new_zeros(d, -(-classes // _COLUMNS) * _COLUMNS, dtype=dtype)

        def loss() -> Tensor:
            weight, bias = (p @ unknown).split([d, 1])
            columns[:, :classes] = weight
            slope_of_weight, slope_of_bias = weight_decay * weight, torch.zeros_like(bias)
            total = weight_decay / 2 * weight.square().sum()
            for x, y in blocks():
                logits = x @ columns
                value, slope = cross_entropy(logits[:, :classes].add_(bias), y)
                total = total + value / rows
                slope_of_weight += (x.T @ logits)[:, :classes] / rows  # by now the slope
                slope_of_bias += slope.sum(0, dtype=p.dtype) / rows
            unknown.grad = p.T @ torch.cat([slope_of_weight, slope_of_bias])
            return total

        with torch.no_grad():
            solver.step(loss)
            loss()
            weight, bias = (p @ unknown).to(dtype).split([d, 1])
        assert unknown.grad is not None
        steps, gradient = solver.state[unknown]["n_iter"], float(unknown.grad.abs().max())
        return cls(weight, bias[0], Convergence(steps, gradient, gradient <= tolerance))

    def __call__(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows c"]:
        """Return the logits of the classes."""
        return x @ self.weight + self.bias


def _preconditioner(
    blocks: Blocks, classes: int, weight_decay: float
) -> tuple[Float[Tensor, "n n"], int]:
    """Return P, whose last row is the bias's, and the number of rows."""
    x, _ = next(blocks())
    gram, rows = x.new_zeros(x.shape[1] + 1, x.shape[1] + 1, dtype=torch.float64), 0
    for x, _ in blocks():
        gram[:-1, :-1] += x.T @ x
        gram[-1, :-1] += x.sum(0)  # eigh reads the lower triangle
        rows += len(x)
    gram[-1, -1] = rows
    curvature = gram / (rows * classes)
    curvature.diagonal()[:-1] += weight_decay
    values, directions = torch.linalg.eigh(curvature)
    # features that depend on each other have a curvature of rounding
    return directions * values.clamp_min(1e-7 * float(values[-1])).rsqrt(), rows


def cross_entropy(logits: Float[Tensor, "s c"], target: Target) -> tuple[Tensor, Tensor]:
    """Return the sum of cross-entropies over rows, in fp64, and its gradient by the logits.

    The gradient is softmax(logits) - target, written over the logits.
    """
    index = target[:, None] if target.dim() == 1 else None
    logits -= logits.amax(1, keepdim=True)
    found = (logits * target) if index is None else logits.gather(1, index)
    found = found.sum(dtype=torch.float64)
    exponents = logits.exp_()
    sums = exponents.sum(1, keepdim=True)
    value = sums.log().sum(dtype=torch.float64) - found
    slope = exponents.div_(sums)
    if index is None:
        slope -= target
    else:
        slope.scatter_add_(1, index, slope.new_full((len(slope), 1), -1.0))
    return value, slope


class LinearClassifier:
    """Logistic regression on standardized features: logits = standardize(x) W + b.

    Features are standardized by the training rows, without which encoders of different feature
    scale are not compared fairly.

    Args:
        x: features of the training rows.
        target: the class distribution of each row.
        weight_decay: L2 penalty on W.
        tolerance: largest entry of the gradient, see `LogisticRegression.fit`.
    """

    def __init__(
        self,
        x: Float[Tensor, "s d"],
        target: Float[Tensor, "s c"],
        weight_decay: float = 1e-4,
        tolerance: float = TOLERANCE,
    ):
        self.scaler = StandardScaler(x.mean(0), x.std(0).clamp_min(1e-6))
        rows = [(self.scaler.transform(x), target)]
        self.fitted = LogisticRegression.fit(
            lambda: iter(rows), target.shape[1], weight_decay, tolerance=tolerance
        )
        if not self.fitted.convergence.converged:
            warnings.warn(
                f"the logistic regression of {len(x)} rows has {self.fitted.convergence}, so its "
                "scores depend on the limit; a larger weight_decay converges",
                stacklevel=2,
            )

    def __call__(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows c"]:
        """Return the logits of the classes."""
        return self.fitted(self.scaler.transform(x))


class LogisticProbe(Probe):
    """Top-1 of a logistic regression on features of one view per image, see `LinearClassifier`.

    Quick enough to run during training. Published linear results train with augmentation and
    choose a learning rate; this probe compares encoders with each other, not with them.
    """

    def __init__(self, weight_decay: float = 1e-4):
        self.weight_decay = weight_decay

    def fit(self, train: Features, num_classes: int) -> "LogisticProbe":
        """Fit the classifier to convergence."""
        target = F.one_hot(train.y, num_classes).to(train.x.dtype)
        self.classifier = LinearClassifier(train.x, target, self.weight_decay)
        return self

    def predict(self, x: Float[Tensor, "s d"]) -> Int[Tensor, " s"]:
        """Return the class of the largest logit."""
        return self.classifier(x).argmax(1)

    def score(self, test: Features) -> dict[str, float]:
        """Return top-1 accuracy in percent."""
        return {"top1": 100 * float((self.predict(test.x) == test.y).float().mean())}
