"""A linear classifier on frozen features, fitted to convergence.

Axis letters: s rows, d width, c classes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vitlab.probes.features import Features, Probe

Target = Int[Tensor, " s"] | Float[Tensor, "s c"]  # the class of each row, or their distribution
Blocks = Callable[[], Iterator[tuple[Tensor, Tensor]]]  # rows (s, d) with their targets

_COLUMNS = 32


@dataclass(frozen=True)
class LogisticRegression:
    """The best map by multinomial logistic regression: logits = x W + b.

    It minimizes mean cross-entropy + decay / 2 |W|^2 by L-BFGS from zero, on all rows at once: no
    learning rate is chosen and no random number drawn. scikit-learn's C is 1 / (decay * rows).

    Attributes:
        weight: W.
        bias: b, which is not penalized.
    """

    weight: Float[Tensor, "d c"]
    bias: Float[Tensor, " c"]

    @classmethod
    def fit(
        cls,
        blocks: Blocks,
        classes: int,
        decay: float,
        steps: int,
        history: int = 100,
        tolerance: float = 1e-7,
    ) -> "LogisticRegression":
        """Fit a map.

        Args:
            blocks: gives all rows, in blocks that may be as small as memory asks for.
            classes: number of classes.
            decay: L2 penalty on W.
            steps: L-BFGS iterations at most.
            history: steps that L-BFGS remembers.
            tolerance: it ends when no entry of the gradient is larger.
        """
        x, _ = next(blocks())
        d, rows = x.shape[1], sum(len(y) for _, y in blocks())
        # the unknown is W / scale: with a strong penalty, W is as easy to find as b, which has none
        scale = (1 + classes * decay) ** -0.5
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
            total = decay / 2 * weight.square().sum()
            slope_of_bias = torch.zeros_like(bias)
            for x, y in blocks():
                logits = x @ columns
                value, slope = cross_entropy(logits[:, :classes].add_(bias), y)
                total = total + value / rows
                slopes.addmm_(x.T, logits, alpha=1 / rows)  # by now the slope, and zeros
                slope_of_bias += slope.sum(0) / rows
            slope_of_weight = slopes[:, :classes] + decay * weight
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
    logits -= logits.amax(1, keepdim=True)
    if target.dim() == 1:
        found = logits.gather(1, target[:, None]).sum()
    else:
        found = (logits * target).sum()
    exponents = logits.exp_()
    sums = exponents.sum(1, keepdim=True)
    value = sums.log().sum() - found
    slope = exponents.div_(sums)
    if target.dim() == 1:
        slope.scatter_add_(1, target[:, None], slope.new_full((len(slope), 1), -1.0))
    else:
        slope -= target
    return value, slope


class LinearClassifier:
    """Logistic regression on standardized features: logits = standardize(x) W + b.

    Features are standardized by the training rows, without which encoders of different feature
    scale are not compared fairly.

    Args:
        x: features of the training rows.
        target: the class distribution of each row.
        decay: L2 penalty on W.
        steps: L-BFGS iterations at most.
    """

    def __init__(
        self,
        x: Float[Tensor, "s d"],
        target: Float[Tensor, "s c"],
        decay: float = 1e-4,
        steps: int = 100,
    ):
        self.mean, self.std = x.mean(0), x.std(0).clamp_min(1e-6)
        x = (x - self.mean) / self.std
        fitted = LogisticRegression.fit(lambda: iter([(x, target)]), target.shape[1], decay, steps)
        self.weight, self.bias = fitted.weight, fitted.bias

    def __call__(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows c"]:
        """Return the logits of the classes."""
        return (x - self.mean) / self.std @ self.weight + self.bias


class LogisticProbe(Probe):
    """Top-1 of a logistic regression on features of one view per image.

    Quick enough to run during training. Published linear figures train with augmentation and
    choose a learning rate; this probe is for comparing encoders with each other, not with them.

    Args:
        decay: L2 penalty.
        steps: L-BFGS iterations at most.
    """

    def __init__(self, decay: float = 1e-4, steps: int = 100):
        self.decay, self.steps = decay, steps

    def score(self, train: Features, test: Features) -> dict[str, float]:
        """Return top-1 accuracy in percent."""
        classes = int(max(train.y.max(), test.y.max())) + 1
        target = F.one_hot(train.y, classes).float()
        classify = LinearClassifier(train.x, target, self.decay, self.steps)
        correct = (classify(test.x).argmax(1) == test.y).float().mean()
        return {"top1": 100 * float(correct)}
