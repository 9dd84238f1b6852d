"""The Triton kernels, in Triton's interpreter on a CPU, and compiled for GPUs that need not exist.

The interpreter is chosen when triton is first imported, so each part has a process of its own. It
cannot multiply bf16 (Triton 3.7 multiplies the bits as integers); only a GPU can show that.
"""

import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not on every platform")

INTERPRETED = """
import os
os.environ["TRITON_INTERPRET"] = "1"
import torch
from vitlab.encoders.entmax import triton as entmax_triton
from vitlab.encoders.entmax.attention import _Fused, _trial, plain

for n, e, dtype, scale, tolerance in [
    (1, 16, torch.float32, 1, 1e-6),
    (5, 24, torch.float32, 1, 2e-6),
    (37, 64, torch.float32, 5, 5e-5),
    (37, 128, torch.float32, 1, 2e-6),
    (70, 64, torch.float16, 1, 4e-3),
    (197, 64, torch.float32, 1, 4e-6),
    (270, 16, torch.float32, 2, 1e-5),
]:
    g = torch.Generator().manual_seed(n)
    q, k, v, grad = (torch.randn(4, 1, 2 - n // 100 % 2, n, e, generator=g)).to(dtype)
    q = (q * scale).transpose(2, 3).contiguous().transpose(2, 3)  # any strides will do
    out, rows = entmax_triton.forward(q, k, v)
    found = [out, *entmax_triton.backward(grad, q, k, v, None, rows)[:3]]
    exact = [x.double().requires_grad_() for x in (q, k, v)]
    expected = plain(*exact, None)
    expected = [expected, *torch.autograd.grad(expected, exact, grad.double())]
    for x, y in zip(found, expected, strict=True):
        assert x.dtype == dtype
        worst = (x.double() - y).abs().max() / max(y.abs().max(), 1)
        assert worst <= tolerance, (n, e, dtype, worst)
for n in (40, 260):  # held whole, and walked through
    q, k, v = torch.randn(3, 1, 1, n, 16)
    q[0, 0, 3] = torch.nan
    out, rows = entmax_triton.forward(q, k, v)
    assert out[0, 0, 3].isnan().all() and out[0, 0, 4:].isfinite().all()
    q[0, 0, 3] = 1e4
    out, rows = entmax_triton.forward(q, k, torch.ones_like(v))
    assert (out - 1).abs().max() <= 1e-5

q, k, v = inputs = [x.requires_grad_() for x in torch.randn(3, 1, 1, 9, 16)]
for attend in (plain, lambda *x: _Fused.apply(entmax_triton, *x)):  # twice
    first = torch.autograd.grad(attend(q, k, v, None).sum(), inputs, create_graph=True)
    expected, found = found, torch.autograd.grad(first[0].square().sum(), inputs)
torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)

with torch.inference_mode():
    assert _trial(torch.device("cpu"), torch.float32, 37, 16) is None
assert _trial(torch.device("cpu"), torch.float16, 300, 16) is None
right = entmax_triton.forward
entmax_triton.forward = lambda *x: (right(*x)[0] * 1.1, right(*x)[1])
assert "differs from that of the plain path" in _trial(torch.device("cpu"), torch.float32, 9, 16)
entmax_triton.forward = None
assert "TypeError" in _trial(torch.device("cpu"), torch.float32, 8, 16)
"""

COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from vitlab.encoders.entmax import triton as module

def build(kernel, dtype, **constants):
    def kind(name):
        if name in constants:
            return "constexpr"
        if name in ("top_at", "tau_at", "mean_at"):
            return "*fp32"
        return f"*{dtype}" if name.endswith("_at") else "i32" if name == "n" else "fp32"
    signature = {name: kind(name) for name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    options = {"num_stages": 1, "num_warps": 8 if constants["keys"] > 64 else 4}
    built = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options)
    assert built.metadata.shared <= 99 * 1024  # the least that a GPU of capability 8 has

build(module._forward, "bf16", e=64, wide=64, rows=32, keys=256, whole=True)
build(module._forward, "fp32", e=64, wide=64, rows=32, keys=256, whole=True)
build(module._forward, "bf16", e=80, wide=128, rows=32, keys=64, whole=False)
for kernel in (module._of_queries, module._of_keys):
    build(kernel, "bf16", e=64, wide=64, rows=64, keys=64)
    build(kernel, "fp16", e=128, wide=128, rows=32, keys=32)
"""


def run(program, folder):
    """Run a program in a process whose compiled kernels are kept in the folder."""
    program = f"import os; os.environ['TRITON_CACHE_DIR'] = {str(folder)!r}\n{program}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_the_kernels_are_the_formula_in_the_interpreter(tmp_path):
    run(INTERPRETED, tmp_path)


@pytest.mark.slow
def test_the_kernels_compile_for_a_gpu_that_is_not_here(tmp_path):
    run(COMPILED, tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("n", [1, 37, 197, 1025, 4097])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_kernels_are_the_formula_on_a_gpu(n, dtype):
    from vitlab.encoders.entmax.attention import entmax_attention, plain

    q, k, v, grad = torch.randn(4, 2, 2, n, 64, device="cuda").to(dtype)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    out = entmax_attention(*inputs, path="triton")
    found = [out, *torch.autograd.grad(out, inputs, grad)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected = plain(*exact, None)
    expected = [expected, *torch.autograd.grad(expected, exact, grad.double())]
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}[dtype]
    for x, y in zip(found, expected, strict=True):
        assert (x.double() - y).abs().max() <= tolerance * max(y.abs().max(), 1)
