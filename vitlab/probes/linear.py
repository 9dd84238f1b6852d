"""A linear classifier on frozen features, fitted to convergence.

Axis letters: s rows, d width, c classes.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitlab.probes.probe import Features, Probe


class LinearMap:
    """Multinomial logistic regression on standardized features: logits = standardize(x) W + b.

    Fitted by L-BFGS from zero on all rows at once, so there is no learning rate to choose and no
    random number is drawn. Features are standardized by the training rows, without which encoders
    of different feature scale are not compared fairly.

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
        self.weight = x.new_zeros(x.shape[1], target.shape[1]).requires_grad_()
        self.bias = x.new_zeros(target.shape[1]).requires_grad_()
        solver = torch.optim.LBFGS(
            [self.weight, self.bias], max_iter=steps, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            solver.zero_grad()
            logits = x @ self.weight + self.bias
            value = F.cross_entropy(logits, target) + decay / 2 * self.weight.square().sum()
            value.backward()
            return value

        with torch.enable_grad():
            solver.step(loss)
        self.weight.requires_grad_(False)
        self.bias.requires_grad_(False)

    def __call__(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows c"]:
        """Return the logits of the classes."""
        return (x - self.mean) / self.std @ self.weight + self.bias


class Linear(Probe):
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
        classify = LinearMap(train.x, target, self.decay, self.steps)
        correct = (classify(test.x).argmax(1) == test.y).float().mean()
        return {"top1": 100 * float(correct)}
