"""The entmax operator: a softmax that can be exactly zero.

entmax_alpha(z)_j = [(alpha - 1) z_j - tau]_+^(1 / (alpha - 1)), with the one tau for which a row
sums to 1 (Peters, Niculae and Martins, "Sparse Sequence-to-Sequence Models", arXiv:1905.05702).
At alpha 2 it is sparsemax (arXiv:1602.02068); towards 1 it becomes softmax. With alpha 1.5, as
attention in DINO: "Vision Transformers Need Better Token Interaction" (arXiv:2605.23868).
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

Heads = Float[Tensor, "b h n e"]  # n tokens in e channels, of each image and head of attention
Rows = Float[Tensor, "b h n"]  # a number for each row of scores

_TOLERANCE = 2e-6  # on the sum of a row, in fp32; fp64 goes to 1e-13
# A step of Newton's divides the product of excess and slope by 4 or more, since the sum is convex:
# from n^2 to the tolerance these are enough for rows of 4,097.
_NEWTON_STEPS = 40
_COMPILED_STEPS = 24
_COMPILED_STEPS_15 = 5  # after five that are better than Newton's


def entmax15(scores: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows n"]:
    """Return the 1.5-entmax of each row; a logit 2 or more below the maximum gets exactly 0."""
    return entmax(scores, 1.5)


def entmax(scores: Float[Tensor, "*rows n"], alpha: float) -> Float[Tensor, "*rows n"]:
    """Return the alpha-entmax of each row.

    Computed in fp32 (or fp64, if given) whatever the dtype of the scores and whether or not
    autocast is on, since a threshold found in bf16 lets rows sum to 0.8; then cast back. Scores of
    -inf are excluded. Differentiable twice. Compiled or exported it is a fixed number of steps.

    Args:
        scores: logits, finite or -inf.
        alpha: above 1, at most 2.

    Returns:
        Probabilities; a logit at least 1 / (alpha - 1) below its row's maximum gets exactly 0. A
        row of -inf only is 0 throughout, as in torch's attention; one with NaN or +inf is NaN.
    """
    with torch.autocast(scores.device.type, enabled=False):
        precise = scores if scores.dtype == torch.float64 else scores.float()
        return _Entmax.apply(precise, alpha).to(scores.dtype)


def threshold(z: Float[Tensor, "*rows n"], alpha: float = 1.5) -> Float[Tensor, "*rows 1"]:
    """Return tau for rows of logits times alpha - 1 whose maximum is 0.

    Newton's method from -1, which cannot miss since the sum of a row is convex and decreasing in
    tau. For alpha 1.5 each of five steps before solves sum (z - t)^2 = 1 over the current support
    exactly, which almost always converges but may overshoot. A graph cannot ask whether rows are
    left: compiled, the number of steps is fixed, enough for all rows of up to 4,097 ever tried.
    """
    power = 1 / (alpha - 1)
    highest = -(z.shape[-1] ** (1 - alpha))  # tau of a uniform row; all others are below it
    tau = torch.full_like(z[..., :1], -1.0)
    for _ in range(5 if alpha == 1.5 else 0):
        distance = (z - tau).clamp_min_(0)
        n = distance.count_nonzero(-1).unsqueeze(-1)
        s1 = distance.sum(-1, keepdim=True)
        excess = distance.square().sum(-1, keepdim=True) - 1
        root = (s1.square() - n * excess).clamp_min_(0).sqrt_()
        tau = (tau + excess / (s1 + root)).clamp_(-1.0, highest)
    # rounding grows with the power
    tolerance = (1e-13 if z.dtype == torch.float64 else _TOLERANCE) * max(power / 2, 1)
    traced = in_graph(z)
    fixed = _COMPILED_STEPS_15 if alpha == 1.5 else _COMPILED_STEPS
    for _ in range(fixed if traced else _NEWTON_STEPS):
        distance = (z - tau).clamp_min_(0)
        excess = distance.pow(power).sum(-1, keepdim=True) - 1
        if not traced and bool((excess.abs() <= tolerance).all()):
            break
        slope = distance.count_nonzero(-1).unsqueeze(-1)  # at alpha 2, where 0^0 must be 0
        if alpha < 2:
            slope = power * distance.pow(power - 1).sum(-1, keepdim=True)
        tau = (tau + excess / slope).clamp_(-1.0, highest)
    return tau


def in_graph(x: Tensor) -> bool:
    """Return whether this is being compiled or exported, so that x has no numbers to look at."""
    return torch.compiler.is_compiling() or type(x) not in (Tensor, torch.nn.Parameter)


class _Entmax(Function):
    """Saves only the probabilities; a power of them is all that the Jacobian needs."""

    @staticmethod
    def forward(ctx, scores, alpha):
        top = scores.amax(-1, keepdim=True)
        # without this a row of -inf only would be NaN
        z = (scores - top.masked_fill(top == -torch.inf, 0)) * (alpha - 1)
        p = (z - threshold(z, alpha)).clamp_min_(0).pow_(1 / (alpha - 1))
        if alpha != 1.5:
            # a last step of Newton's on p itself, since in fp32 tau has no finer ones
            s = _slope(p, alpha)
            p = (p - (p.sum(-1, keepdim=True) - 1) * s / _total(s)).clamp_min_(0)
        ctx.alpha = alpha
        ctx.save_for_backward(p)
        return p

    @staticmethod
    def backward(ctx, grad):
        (p,) = ctx.saved_tensors
        return _EntmaxBackward.apply(p, grad, ctx.alpha), None


class _EntmaxBackward(Function):
    """dz = s * (g - <s, g> / sum(s)) with s = p^(2 - alpha) where p > 0, itself differentiable.

    Autograd would differentiate the power at 0 and return NaN for every row with a zero.
    """

    @staticmethod
    def forward(ctx, p, grad, alpha):
        ctx.alpha = alpha
        ctx.save_for_backward(p, grad)
        s = _slope(p, alpha)
        return s * (grad - (s * grad).sum(-1, keepdim=True) / _total(s))

    @staticmethod
    def backward(ctx, h):
        p, g = ctx.saved_tensors
        s = _slope(p, ctx.alpha)
        total = _total(s)
        mean_g = (s * g).sum(-1, keepdim=True) / total
        mean_h = (s * h).sum(-1, keepdim=True) / total
        grad_s = g * h - h * mean_g - g * mean_h + mean_g * mean_h
        grad_p = torch.where(p > 0, grad_s * (2 - ctx.alpha) * s / p, 0)
        return grad_p, s * (h - mean_h), None


def _slope(p: Tensor, alpha: float) -> Tensor:
    """Return p^(2 - alpha), and 0 where p is, also at alpha 2."""
    return torch.where(p > 0, 1.0, 0.0).to(p) if alpha == 2 else p.pow(2 - alpha)


def _total(s: Tensor) -> Tensor:
    """Return the sums of rows: at least 1, unless all of a row is excluded and all of s is 0."""
    return s.sum(-1, keepdim=True).clamp_min(0.5)
