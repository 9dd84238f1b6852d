"""Entmax attention against torch's softmax attention and against packages of others."""

import importlib
import math
from collections.abc import Callable

import entmax
import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.devices import NO_GPU
from vitlab.encoders.entmax.attention import entmax_attention
from vitlab.encoders.entmax.operator import entmax15
from vitlab.profiling.timing import MIB, fastest

Case = tuple[str, Callable[[], object], str, Callable[[], object]]
SHAPES = ((8, 6, 197, 64), (2, 6, 1025, 64))  # ViT-S/16 at 224 and at 512 px
GPU_SHAPES = ((256, 6, 197, 64), (64, 6, 1025, 64))  # enough images to fill one


def cases() -> list[Case]:
    """Forward and backward of the normalizer alone and of whole attentions, in fp32 on the CPU."""
    return [*normalizers(), *(case for shape in SHAPES for case in of(shape))]


def normalizers() -> list[Case]:
    """Return the cases of normalizing the scores of ViT-S/16 at 224 px."""
    scores = torch.randn(2, 6, 197, 197, requires_grad=True)

    def train(normalize: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        return lambda: normalize(scores).square().sum().backward()

    package = train(lambda x: entmax.entmax15(x, dim=-1))
    name = "entmax15 of (2, 6, 197, 197), forward + backward"
    return [
        (name, train(entmax15), "entmax 1.3", package),
        (name, train(entmax15), "softmax", train(lambda x: x.softmax(-1))),
    ]


def of(shape: tuple[int, ...]) -> list[Case]:
    """Return the cases of images, heads, tokens and channels of a head."""
    train = passes(shape, torch.device("cpu"), torch.float32)
    name, ours = f"entmax attention of {shape}, forward + backward", train(entmax_attention)
    package = train(lambda q, k, v: entmax.entmax15(q @ k.mT * q.shape[-1] ** -0.5, dim=-1) @ v)
    return [
        (name, ours, "softmax, fused", train(F.scaled_dot_product_attention)),
        (name, ours, "entmax 1.3", package),
    ]


def passes(
    shape: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> Callable[[Callable[..., Tensor]], Callable[[], object]]:
    """Return what makes a forward and a backward pass of an attention, over the same inputs."""
    drawn = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    *inputs, grad = drawn.to(device, dtype)
    inputs = [x.requires_grad_() for x in inputs]
    return lambda attend: lambda: torch.autograd.grad(attend(*inputs), inputs, grad)


def flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax attention by the flash kernel and no other."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return F.scaled_dot_product_attention(q, k, v)


def adasplash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return entmax attention by the package adasplash, which wants lengths that are powers of 2.

    Raises:
        ImportError: it is not installed.
    """
    attend = importlib.import_module("adasplash").adasplash
    n = q.shape[2]
    gap = 2 ** math.ceil(math.log2(n)) - n
    lengths = torch.full((len(q),), n, dtype=torch.int32, device=q.device)
    padded = [F.pad(x, (0, 0, 0, gap)) for x in (q, k, v)]
    return attend(*padded, alpha=1.5, is_causal=False, varlen=lengths)[:, :, :n]


PEERS: dict[str, Callable[..., Tensor]] = {
    "softmax, flash": flash,
    "entmax, ours": entmax_attention,
    "entmax, adasplash": adasplash,
}


def on_gpu(repeats: int) -> Table:
    """Measure time and peak memory of forward and backward in bf16 on a GPU, if there is one."""
    title = "attention on a GPU, bf16, forward + backward"
    table = Table("what", "attention", "ms", "/ flash", "peak, MiB", "/ flash", title=title)
    for shape in GPU_SHAPES:
        rows: dict[str, tuple[str, ...]] = dict.fromkeys(PEERS, (NO_GPU,))
        if torch.cuda.is_available():
            rows = measured(shape, torch.device("cuda"), repeats)
        for name, cells in rows.items():
            table.add_row(str(shape), name, *cells)
    return table


def measured(
    shape: tuple[int, ...], device: torch.device, repeats: int
) -> dict[str, tuple[str, ...]]:
    """Return time and peak memory of each attention, and both as shares of flash attention's."""
    train = passes(shape, device, torch.bfloat16)
    rows: dict[str, tuple[str, ...]] = {}
    calls: dict[str, Callable[[], object]] = {}
    for name, attend in PEERS.items():
        try:
            train(attend)()
            calls[name] = train(attend)
        except Exception as error:  # a peer that cannot run here is told, not a reason to stop
            rows[name] = (f"not measured: {type(error).__name__}: {error}",)
    times = fastest(list(calls.values()), repeats, device)
    peaks = [peak_bytes(call, device) for call in calls.values()]
    for name, taken, peak in zip(calls, times, peaks, strict=True):
        shares = f"{taken / times[0]:.2f}", f"{peak / peaks[0]:.2f}"
        rows[name] = f"{taken:.3f}", shares[0], f"{peak / MIB:.0f}", shares[1]
    return rows


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """Return how far the memory in use on a GPU rises during a call."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
