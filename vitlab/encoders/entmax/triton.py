"""1.5-entmax attention on CUDA: scores stay on chip, and are computed again when needed.

One program owns a block of rows (in the last kernel, of keys). Rows of up to 256 tokens are held
whole while their thresholds are found; longer ones are walked through once per step, so no length
is too long. Of each row three numbers are kept for the backward pass: its maximum and its
threshold below it, apart since their sum would round at large logits, and the mean gradient.

Halved logits throughout: z = q k^T / (2 sqrt(e)). The steps are those of `entmax.threshold`.
Sums and matrix products accumulate in fp32; fp32 is multiplied as fp32, not TF32.

Axis letters: b images, h heads, n tokens, e channels of a head.
"""

import contextlib
from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from vitlab.encoders.entmax.operator import Heads

_LONGEST_WHOLE = 256  # tokens of a row that is held on chip
_TOLERANCE = tl.constexpr(2e-6)  # on the sum of a row
_GUESSES = tl.constexpr(5)  # steps before those of Newton, as in `entmax.threshold`
_STEPS = tl.constexpr(25)  # all steps together; rows that need more do not occur


@triton.jit
@no_type_check  # a checker's wrapper would hide the source from the compiler
def _load(pointer, first, n, e: tl.constexpr, size: tl.constexpr, wide: tl.constexpr):
    """Rows first to first + size of an (n, e) table, 0 outside of it."""
    row, channel = first + tl.arange(0, size), tl.arange(0, wide)
    inside = (row[:, None] < n) & (channel[None, :] < e)
    return tl.load(pointer + row[:, None] * e + channel[None, :], mask=inside, other=0.0)


@triton.jit
@no_type_check
def _save(pointer, x, first, n, e: tl.constexpr, size: tl.constexpr, wide: tl.constexpr):
    row, channel = first + tl.arange(0, size), tl.arange(0, wide)
    inside = (row[:, None] < n) & (channel[None, :] < e)
    at = pointer + row[:, None] * e + channel[None, :]
    tl.store(at, x.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def _halved(q, k, first, n, half_scale, keys: tl.constexpr):
    """Halved logits of rows q and keys k, which start at first; -inf beyond the last key."""
    z = tl.dot(q, tl.trans(k), input_precision="ieee") * half_scale
    column = first + tl.arange(0, keys)
    return tl.where(column[None, :] < n, z, float("-inf"))


@triton.jit
@no_type_check
def _logits(q, k_at, first, n, half_scale, e: tl.constexpr, keys: tl.constexpr, wide: tl.constexpr):
    """Halved logits of rows q and the keys from first on."""
    return _halved(q, _load(k_at, first, n, e, keys, wide), first, n, half_scale, keys)


@triton.jit
@no_type_check
def _step(tau, s1, s2, support, step, highest):
    """The next threshold of rows with these sums, and which rows are not there yet."""
    excess = s2 - 1
    root = tl.sqrt(tl.maximum(s1 * s1 - support * excess, 0.0))
    better = tau + excess / tl.where(step < _GUESSES, s1 + root, 2 * s1)
    better = tl.minimum(tl.maximum(better, -1.0), highest)
    unsolved = (tl.abs(excess) > _TOLERANCE) & (s2 > 0)
    return tl.where(unsolved, better, tau), tl.max(unsolved.to(tl.int32), 0)


@triton.jit
@no_type_check
def _forward(  # noqa: PLR0913
    q_at, k_at, v_at, out_at, top_at, tau_at, n, half_scale, highest,
    e: tl.constexpr, wide: tl.constexpr, rows: tl.constexpr, keys: tl.constexpr,
    whole: tl.constexpr,
):  # fmt: skip
    group, first = tl.program_id(0).to(tl.int64), tl.program_id(1) * rows
    base = group * n * e
    q = _load(q_at + base, first, n, e, rows, wide)
    if whole:
        kept = _logits(q, k_at + base, 0, n, half_scale, e, keys, wide)
    top = tl.full([rows], float("-inf"), tl.float32)
    spoiled = tl.zeros([rows], tl.float32)  # becomes NaN with a logit that is NaN or +inf
    for start in range(0, n, keys):
        z = kept if whole else _logits(q, k_at + base, start, n, half_scale, e, keys, wide)
        top = tl.maximum(top, tl.max(z, 1))
        fine = (z == z) & (z < float("inf"))
        spoiled += tl.sum(tl.where(fine, 0.0, float("nan")), 1)
    top = tl.where(top == float("-inf"), 0.0, top) + spoiled
    tau = tl.full([rows], -1.0, tl.float32)
    step = 0
    going = 1
    while (step < _STEPS) & (going > 0):
        s1, s2 = tl.zeros([rows], tl.float32), tl.zeros([rows], tl.float32)
        support = tl.zeros([rows], tl.float32)
        for start in range(0, n, keys):
            z = kept if whole else _logits(q, k_at + base, start, n, half_scale, e, keys, wide)
            gap = tl.maximum(z - top[:, None] - tau[:, None], 0.0)
            s1 += tl.sum(gap, 1)
            s2 += tl.sum(gap * gap, 1)
            support += tl.sum((gap > 0).to(tl.float32), 1)
        tau, going = _step(tau, s1, s2, support, step, highest)
        step += 1
    out = tl.zeros([rows, wide], tl.float32)
    for start in range(0, n, keys):
        z = kept if whole else _logits(q, k_at + base, start, n, half_scale, e, keys, wide)
        gap = z - top[:, None] - tau[:, None]
        s = tl.where(gap < 0, 0.0, gap)  # NaN stays
        v = _load(v_at + base, start, n, e, keys, wide)
        out += tl.dot((s * s).to(v.dtype), v, input_precision="ieee")
    _save(out_at + base, out, first, n, e, rows, wide)
    row = first + tl.arange(0, rows)
    tl.store(top_at + group * n + row, top, mask=row < n)
    tl.store(tau_at + group * n + row, tau, mask=row < n)


@triton.jit
@no_type_check
def _of_queries(  # noqa: PLR0913
    q_at, k_at, v_at, grad_at, top_at, tau_at, mean_at, of_q_at, n, half_scale,
    e: tl.constexpr, wide: tl.constexpr, rows: tl.constexpr, keys: tl.constexpr,
):  # fmt: skip
    """Gradient of queries; and each row's mean gradient, which the keys need."""
    group, first = tl.program_id(0).to(tl.int64), tl.program_id(1) * rows
    base = group * n * e
    row = first + tl.arange(0, rows)
    q = _load(q_at + base, first, n, e, rows, wide)
    grad = _load(grad_at + base, first, n, e, rows, wide)
    top = tl.load(top_at + group * n + row, mask=row < n, other=0.0)
    tau = tl.load(tau_at + group * n + row, mask=row < n, other=0.0)
    weighted, total = tl.zeros([rows], tl.float32), tl.zeros([rows], tl.float32)
    for start in range(0, n, keys):
        z = _logits(q, k_at + base, start, n, half_scale, e, keys, wide)
        gap = z - top[:, None] - tau[:, None]
        s = tl.where(gap < 0, 0.0, gap)
        v = _load(v_at + base, start, n, e, keys, wide)
        weighted += tl.sum(s * tl.dot(grad, tl.trans(v), input_precision="ieee"), 1)
        total += tl.sum(s, 1)
    mean = weighted / tl.where(total == 0, 1.0, total)
    tl.store(mean_at + group * n + row, mean, mask=row < n)
    of_q = tl.zeros([rows, wide], tl.float32)
    for start in range(0, n, keys):
        k = _load(k_at + base, start, n, e, keys, wide)
        gap = _halved(q, k, start, n, half_scale, keys) - top[:, None] - tau[:, None]
        s = tl.where(gap < 0, 0.0, gap)
        v = _load(v_at + base, start, n, e, keys, wide)
        of_p = tl.dot(grad, tl.trans(v), input_precision="ieee")
        of_q += tl.dot((s * (of_p - mean[:, None])).to(k.dtype), k, input_precision="ieee")
    _save(of_q_at + base, of_q * 2 * half_scale, first, n, e, rows, wide)


@triton.jit
@no_type_check
def _of_keys(  # noqa: PLR0913
    q_at, k_at, v_at, grad_at, top_at, tau_at, mean_at, of_k_at, of_v_at, n, half_scale,
    e: tl.constexpr, wide: tl.constexpr, rows: tl.constexpr, keys: tl.constexpr,
):  # fmt: skip
    """Gradients of keys and values; each program walks through all rows."""
    group, first = tl.program_id(0).to(tl.int64), tl.program_id(1) * keys
    base = group * n * e
    k = _load(k_at + base, first, n, e, keys, wide)
    v = _load(v_at + base, first, n, e, keys, wide)
    of_k, of_v = tl.zeros([keys, wide], tl.float32), tl.zeros([keys, wide], tl.float32)
    for start in range(0, n, rows):
        row = start + tl.arange(0, rows)
        q = _load(q_at + base, start, n, e, rows, wide)
        grad = _load(grad_at + base, start, n, e, rows, wide)
        top = tl.load(top_at + group * n + row, mask=row < n, other=0.0)
        # rows beyond the last have no weights
        tau = tl.load(tau_at + group * n + row, mask=row < n, other=float("inf"))
        mean = tl.load(mean_at + group * n + row, mask=row < n, other=0.0)
        gap = _halved(q, k, first, n, half_scale, keys) - top[:, None] - tau[:, None]
        s = tl.where(gap < 0, 0.0, gap)
        of_v += tl.dot(tl.trans((s * s).to(v.dtype)), grad, input_precision="ieee")
        of_s = s * (tl.dot(grad, tl.trans(v), input_precision="ieee") - mean[:, None])
        of_k += tl.dot(tl.trans(of_s.to(q.dtype)), q, input_precision="ieee")
    _save(of_k_at + base, of_k * 2 * half_scale, first, n, e, keys, wide)
    _save(of_v_at + base, of_v, first, n, e, keys, wide)


def _on(x: Tensor) -> contextlib.AbstractContextManager:
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def forward(
    q: Heads, k: Heads, v: Heads, bias: None = None
) -> tuple[Heads, Float[Tensor, "2 b h n"]]:
    """Return entmax15(q k^T / sqrt(e)) v, and the maximum and threshold of each row, halved."""
    b, h, n, e = q.shape
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out = torch.empty_like(q)
    kept = torch.empty(2, b, h, n, dtype=torch.float32, device=q.device)
    wide = max(16, triton.next_power_of_2(e))
    whole = n <= _LONGEST_WHOLE and wide <= 64
    rows = 32 if whole or wide > 64 else 64
    keys = max(16, triton.next_power_of_2(n)) if whole else 64
    with _on(q):
        _forward[(b * h, triton.cdiv(n, rows))](
            *(q, k, v, out, kept[0], kept[1], n, 0.5 * e**-0.5, -(n**-0.5)),
            *(e, wide, rows, keys, whole),
            num_warps=8 if keys > 64 else 4,
            num_stages=1,
        )
    return out, kept


def backward(
    grad: Heads,
    q: Heads,
    k: Heads,
    v: Heads,
    bias: None,
    rows: Float[Tensor, "2 b h n"],
    wants_bias: bool = False,
) -> list[Tensor | None]:
    """Return the gradients of q, k, v, and None for the bias that there cannot be."""
    b, h, n, e = q.shape
    q, k, v, grad = q.contiguous(), k.contiguous(), v.contiguous(), grad.contiguous()
    of_q, of_k, of_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    mean = torch.empty_like(rows[0])
    wide = max(16, triton.next_power_of_2(e))
    size = 64 if wide <= 64 else 32
    grid, inputs = (b * h, triton.cdiv(n, size)), (q, k, v, grad, rows[0], rows[1], mean)
    rest = (n, 0.5 * e**-0.5, e, wide, size, size)
    with _on(q):
        _of_queries[grid](*inputs, of_q, *rest, num_stages=1)
        _of_keys[grid](*inputs, of_k, of_v, *rest, num_stages=1)
    return [of_q, of_k, of_v, None]
