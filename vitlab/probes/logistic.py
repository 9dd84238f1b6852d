"""Logistic regression on frozen features, fitted to convergence by L-BFGS.

Axis letters: s rows, d width, c classes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vitlab.probes.features import Features, Probe, StandardScaler

Target = Int[Tensor, " s"] | Float[Tensor, "s c"]  # the class of each row, or their distribution
Blocks = Callable[[], Iterator[tuple[Tensor, Tensor]]]  # rows (s, d) with their targets

_COLUMNS = 32


@dataclass(frozen=True)
class LogisticRegression:
    """Multinomial logistic regression: logits = x weight + bias.

    It minimizes mean cross-entropy + weight_decay / 2 |weight|^2 by L-BFGS from zero, on all rows
    at once: no learning rate is chosen and no random number drawn. scikit-learn's C is
    1 / (weight_decay * rows).
    """

    weight: Float[Tensor, "d c"]
    bias: Float[Tensor, " c"]

    @classmethod
    def fit(
        cls,
        blocks: Blocks,
        classes: int,
        weight_decay: float,
        steps: int,
        history: int = 100,
        tolerance: float = 1e-7,
    ) -> "LogisticRegression":
        """Fit weight and bias.

        Args:
            blocks: returns all rows, in blocks of any size.
            classes: number of classes.
            weight_decay: L2 penalty on W.
            steps: L-BFGS iterations at most.
            history: steps in the memory of L-BFGS.
            tolerance: largest entry of the gradient at which it ends.
        """
        x, _ = next(blocks())
        d, rows = x.shape[1], sum(len(y) for _, y in blocks())
        # the unknown is W / scale: with a strong penalty, W is as easy to find as b, which has none
        scale = (1 + classes * weight_decay) ** -0.5
        both = x.new_zeros(d + 1, classes, dtype=torch.float32)  # the last row is b
        solver = torch.optim.LBFGS(
            [both],
            max_iter=steps,
            history_size=history,
            tolerance_grad=tolerance,
            line_search_fn="strong_wolfe",
        )

        # products are twice as fast with columns of a round number, of which some stay zero
        columns = x.new_zeros(d, -(-classes // _COLUMNS) * _COLUMNS, dtype=torch.float32)
        slopes = torch.zeros_like(columns)

        def loss() -> Tensor:
            weight, bias = scale * both[:d], both[d]
            columns[:, :classes] = weight
            slopes.zero_()
            total = weight_decay / 2 * weight.square().sum()
            slope_of_bias = torch.zeros_like(bias)
            for x, y in blocks():
                logits = x @ columns
                value, slope = cross_entropy(logits[:, :classes].add_(bias), y)
                total = total + value / rows
                slopes.addmm_(x.T, logits, alpha=1 / rows)  # by now the slope, and zeros
                slope_of_bias += slope.sum(0) / rows
            slope_of_weight = slopes[:, :classes] + weight_decay * weight
            both.grad = torch.cat([scale * slope_of_weight, slope_of_bias[None]])
            return total

        with torch.no_grad():
            solver.step(loss)
        return cls(scale * both[:d], both[d])

    def __call__(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows c"]:
        """Return the logits of the classes."""
        return x @ self.weight + self.bias


def cross_entropy(logits: Float[Tensor, "s c"], target: Target) -> tuple[Tensor, Tensor]:
    """Return the sum of cross-entropies over rows and its gradient by the logits.

    The gradient is softmax(logits) - target, written over the logits.
    """
    index = target[:, None] if target.dim() == 1 else None
    logits -= logits.amax(1, keepdim=True)
    found = ((logits * target) if index is None else logits.gather(1, index)).sum()
    exponents = logits.exp_()
    sums = exponents.sum(1, keepdim=True)
    value = sums.log().sum() - found
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
        steps: L-BFGS iterations at most.
    """

    def __init__(
        self,
        x: Float[Tensor, "s d"],
        target: Float[Tensor, "s c"],
        weight_decay: float = 1e-4,
        steps: int = 100,
    ):
        self.scaler = StandardScaler(x.mean(0), x.std(0).clamp_min(1e-6))
        rows = [(self.scaler.transform(x), target)]
        fitted = LogisticRegression.fit(lambda: iter(rows), target.shape[1], weight_decay, steps)
        self.weight, self.bias = fitted.weight, fitted.bias

    def __call__(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows c"]:
        """Return the logits of the classes."""
        return self.scaler.transform(x) @ self.weight + self.bias


class LogisticProbe(Probe):
    """Top-1 of a logistic regression on features of one view per image, see `LinearClassifier`.

    Quick enough to run during training. Published linear results train with augmentation and
    choose a learning rate; this probe compares encoders with each other, not with them.
    """

    def __init__(self, weight_decay: float = 1e-4, steps: int = 100):
        self.weight_decay, self.steps = weight_decay, steps

    def fit(self, train: Features, num_classes: int) -> "LogisticProbe":
        """Fit the classifier to convergence."""
        target = F.one_hot(train.y, num_classes).float()
        self.classifier = LinearClassifier(train.x, target, self.weight_decay, self.steps)
        return self

    def predict(self, x: Float[Tensor, "s d"]) -> Int[Tensor, " s"]:
        """Return the class of the largest logit."""
        return self.classifier(x).argmax(1)

    def score(self, test: Features) -> dict[str, float]:
        """Return top-1 accuracy in percent."""
        return {"top1": 100 * float((self.predict(test.x) == test.y).float().mean())}
