"""The 1.5-entmax operator: a softmax that can be exactly zero.

entmax15(z)_j = [z_j / 2 - tau]_+^2, with the one tau for which a row sums to 1
(Peters, Niculae and Martins, "Sparse Sequence-to-Sequence Models", arXiv:1905.05702).
As attention in DINO: "Vision Transformers Need Better Token Interaction" (arXiv:2605.23868).
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

_TOLERANCE = 2e-6  # on the sum of a row, in fp32; fp64 goes to 1e-13
_NEWTON_STEPS = 20  # enough for the slowest rows, the uniform ones
_COMPILED_STEPS = 5


def entmax15(scores: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows n"]:
    """Return the 1.5-entmax of each row.

    Computed in fp32 (or fp64, if given) whatever the dtype of the scores and whether or not
    autocast is on, since a threshold found in bf16 lets rows sum to 0.8; then cast back. Scores of
    -inf are excluded. Differentiable twice. Compiled or exported it is a fixed number of steps.

    Args:
        scores: logits, finite or -inf.

    Returns:
        Probabilities; a logit at least 2 below its row's maximum gets exactly 0. A row of -inf
        only is 0 throughout, as in torch's attention; one with NaN or +inf is NaN throughout.
    """
    with torch.autocast(scores.device.type, enabled=False):
        precise = scores if scores.dtype == torch.float64 else scores.float()
        return _Entmax15.apply(precise).to(scores.dtype)


def threshold(z: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows 1"]:
    """Return tau for rows of halved logits whose maximum is 0.

    Each step solves sum (z - t)^2 = 1 over the current support exactly, which converges in about
    five steps but may overshoot; Newton's method, which cannot miss since the sum is convex and
    decreasing in tau, finishes the rows that are not there yet. A graph cannot ask whether there
    are any: compiled, it always takes five, enough for all rows of up to 4,097 that were tried.
    """
    highest = -(z.shape[-1] ** -0.5)  # tau of a uniform row; all others are below it
    tau = torch.full_like(z[..., :1], -1.0)
    for _ in range(5):
        distance = (z - tau).clamp_min_(0)
        n = distance.count_nonzero(-1).unsqueeze(-1)
        s1 = distance.sum(-1, keepdim=True)
        excess = distance.square().sum(-1, keepdim=True) - 1
        root = (s1.square() - n * excess).clamp_min_(0).sqrt_()
        tau = (tau + excess / (s1 + root)).clamp_(-1.0, highest)
    tolerance = 1e-13 if z.dtype == torch.float64 else _TOLERANCE
    traced = in_graph(z)
    for _ in range(_COMPILED_STEPS if traced else _NEWTON_STEPS):
        distance = (z - tau).clamp_min_(0)
        excess = distance.square().sum(-1, keepdim=True) - 1
        if not traced and bool((excess.abs() <= tolerance).all()):
            break
        step = excess / (2 * distance.sum(-1, keepdim=True))
        tau = (tau + step).clamp_(-1.0, highest)
    return tau


def in_graph(x: Tensor) -> bool:
    """Return whether this is being compiled or exported, so that x has no numbers to look at."""
    return torch.compiler.is_compiling() or type(x) not in (Tensor, torch.nn.Parameter)


class _Entmax15(Function):
    """Saves only the probabilities; their square root is all that the Jacobian needs."""

    @staticmethod
    def forward(ctx, scores):
        top = scores.amax(-1, keepdim=True)
        # without this a row of -inf only would be NaN
        z = (scores - top.masked_fill(top == -torch.inf, 0)) / 2
        p = (z - threshold(z)).clamp_min_(0).square_()
        ctx.save_for_backward(p)
        return p

    @staticmethod
    def backward(ctx, grad):
        (p,) = ctx.saved_tensors
        return _Entmax15Backward.apply(p, grad)


class _Entmax15Backward(Function):
    """dz = s * (g - <s, g> / sum(s)) with s = sqrt(p), itself differentiable.

    Autograd would differentiate sqrt at 0 and return NaN for every row with a zero.
    """

    @staticmethod
    def forward(ctx, p, grad):
        ctx.save_for_backward(p, grad)
        s = p.sqrt()
        return s * (grad - (s * grad).sum(-1, keepdim=True) / _total(s))

    @staticmethod
    def backward(ctx, h):
        p, g = ctx.saved_tensors
        s = p.sqrt()
        total = _total(s)
        mean_g = (s * g).sum(-1, keepdim=True) / total
        mean_h = (s * h).sum(-1, keepdim=True) / total
        grad_s = g * h - h * mean_g - g * mean_h + mean_g * mean_h
        grad_p = torch.where(p > 0, grad_s / (2 * s), 0)
        return grad_p, s * (h - mean_h)


def _total(s: Tensor) -> Tensor:
    """Return the sums of rows: at least 1, unless all of a row is excluded and all of s is 0."""
    return s.sum(-1, keepdim=True).clamp_min(0.5)
