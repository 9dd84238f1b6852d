"""Attention with 1.5-entmax weights: one formula and the paths that compute it.

| path | where | memory for scores |
|---|---|---|
| plain | everywhere, also compiled and exported; any dtype | all of them |
| cpu | CPU, fp32, bf16, fp16, with a C compiler | none kept |
| triton | CUDA, fp32, bf16, fp16, heads of 16 to 128 channels, no bias | none kept |

All can be differentiated twice; the second derivative is that of the plain path. The operator is
that of `operator.py` (arXiv:1905.05702).

Axis letters: b images, h heads, n tokens, e channels of a head.
"""

import functools
import importlib
import warnings
from types import ModuleType
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from vitlab.encoders.entmax import cpu
from vitlab.encoders.entmax.operator import Heads, entmax15, in_graph

Path = Literal["auto", "plain", "cpu", "triton"]
Scores = Float[Tensor, "#b #h #n #n"]
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def entmax_attention(
    q: Heads, k: Heads, v: Heads, bias: Scores | None = None, path: Path = "auto"
) -> Heads:
    """Return entmax15(q k^T / sqrt(e) + bias) v.

    Under autocast computed in its dtype, as torch's own attention. A bias of -inf excludes a pair;
    a row of logits that are all -inf gives 0, one with NaN or +inf gives NaN. The path "auto" takes
    the fastest that can compute this, and warns once in a process why a faster one cannot, except
    for fp64, a bias on CUDA, work too small to be worth it, and graphs.

    Raises:
        ValueError: the chosen path cannot compute this; the message has the reason.
    """
    device = q.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    chosen = _fastest(q, bias) if path == "auto" else path
    if reason := _reason_against(chosen, q, k, v, bias):
        if path != "auto":
            raise ValueError(f"entmax attention cannot take the path {path}: {reason}")
        _warn_once(f"entmax attention takes the slower path plain, since {chosen} cannot: {reason}")
        chosen = "plain"
    with torch.autocast(device, enabled=False):
        if chosen == "plain":
            return plain(q, k, v, bias)
        if bias is not None:
            bias = bias.expand(*q.shape[:3], q.shape[2])
        return _Fused.apply(_kernel(chosen), q, k, v, bias)


def plain(q: Heads, k: Heads, v: Heads, bias: Scores | None) -> Heads:
    """Return the attention by torch's operations, all scores at once."""
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    return entmax15(scores if bias is None else scores + bias) @ v


def _fastest(q: Tensor, bias: Tensor | None) -> Path:
    if in_graph(q) or q.dtype not in _DTYPES:
        return "plain"
    if q.device.type == "cpu" and q.shape[0] * q.shape[1] * q.shape[2] ** 2 >= cpu.FASTER_FROM:
        return "cpu"
    return "triton" if q.device.type == "cuda" and bias is None else "plain"


def _reason_against(path: Path, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> str | None:
    """Return why the path cannot compute this, or None if it can."""
    inputs = [q, k, v] if bias is None else [q, k, v, bias]
    if path == "plain":
        return None
    if any(map(in_graph, inputs)):
        return "it cannot be part of a graph"
    if not q.shape == k.shape == v.shape or 0 in q.shape:
        return f"queries, keys and values must have one shape without 0, not {tuple(q.shape)}, ..."
    if any(x.dtype != q.dtype or x.device != q.device for x in inputs) or q.dtype not in _DTYPES:
        return "all must have one device and one dtype of fp32, bf16, fp16"
    if path == "triton" and bias is not None:
        return "it takes no bias"
    if path == "triton" and not 16 <= q.shape[-1] <= 128:
        return f"a head has {q.shape[-1]} channels, it takes 16 to 128"
    if q.device.type != {"cpu": "cpu", "triton": "cuda"}[path]:
        return f"the tensors are on {q.device}"
    if path == "cpu":
        library = cpu.library()
        return library if isinstance(library, str) else None
    if torch.cuda.get_device_capability(q.device) < (8, 0):
        return "it needs a GPU of compute capability 8.0 or newer"
    return _trial(q.device, q.dtype, min(q.shape[2], 300), q.shape[3])


@functools.cache
@torch.inference_mode(mode=False)  # its gradients are needed, also for a caller in inference mode
def _trial(device: torch.device, dtype: torch.dtype, n: int, e: int) -> str | None:
    """Compare the Triton kernels with the plain path once per device, dtype and size.

    Drivers, Triton and GPUs come in more combinations than tests can cover. A row of 300 is
    computed as any longer one is.
    """
    q, k, v, grad = torch.linspace(-8, 8, 4 * n * e, device=device).sin().view(4, 1, 1, n, e)
    exact = [x.to(dtype).float().requires_grad_() for x in (q, k, v)]
    try:
        kernel = _kernel("triton")
        half = [x.detach().to(dtype) for x in exact]
        with torch.no_grad():
            out, rows = kernel.forward(*half, None)
            results = [out, *kernel.backward(grad.to(dtype), *half, None, rows, False)[:3]]
    except Exception as error:  # of any kind: the plain path works, and the reason is reported
        return f"{type(error).__name__}: {error}"
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        expected = plain(exact[0], exact[1], exact[2], None)
        gradients = torch.autograd.grad(expected, exact, grad.to(dtype).float())
    tolerance = 1e-3 if dtype == torch.float32 else 0.05
    for x, y in zip(results, (expected, *gradients), strict=True):
        if not (x.float() - y).abs().max() <= tolerance * y.abs().max() + 1e-6:
            return "its result on a trial differs from that of the plain path"
    return None


def _kernel(path: Path) -> ModuleType:
    # not everyone has Triton, and its import takes a while
    return cpu if path == "cpu" else importlib.import_module("vitlab.encoders.entmax.triton")


@functools.cache
def _warn_once(reason: str) -> None:
    warnings.warn(reason, stacklevel=2)


class _Fused(Function):
    """Saves the inputs and what the kernel keeps of each row."""

    @staticmethod
    def forward(ctx, kernel, q, k, v, bias):
        out, rows = kernel.forward(q, k, v, bias)
        ctx.kernel = kernel
        ctx.save_for_backward(q, k, v, bias, rows)
        return out

    @staticmethod
    def backward(ctx, grad):
        *inputs, rows = ctx.saved_tensors
        wanted = ctx.needs_input_grad[1:]
        if not torch.is_grad_enabled():
            return None, *ctx.kernel.backward(grad, *inputs, rows, wanted[3])
        # under create_graph: the gradient must be differentiable itself
        asked = [x for x, wish in zip(inputs, wanted, strict=True) if wish]
        grads = iter(torch.autograd.grad(plain(*inputs), asked, grad, create_graph=True))
        return None, *(next(grads) if wish else None for wish in wanted)
