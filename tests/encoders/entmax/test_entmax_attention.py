"""Every path of entmax attention against the formula in fp64, and what happens without a path."""

import shutil
import subprocess
import sys
import warnings

import entmax as package
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from vitlab.encoders.attention import Attention
from vitlab.encoders.entmax import attention as module
from vitlab.encoders.entmax import cpu
from vitlab.encoders.entmax.attention import entmax_attention

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler"
)
SHAPES = [(2, 3, 1, 8), (2, 3, 5, 16), (3, 2, 197, 64), (1, 2, 600, 48)]


def draw(shape, scale=1.0, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    q, k, v, grad = torch.randn(4, *shape, generator=g)
    return [x.to(dtype) for x in (q * scale, k * scale, v, grad)]


def results(call, inputs, grad):
    inputs = [None if x is None else x.detach().clone().requires_grad_() for x in inputs]
    out = call(*inputs)
    return [out, *torch.autograd.grad(out, [x for x in inputs if x is not None], grad)]


def formula(q, k, v, bias=None):
    scores = q @ k.mT / q.shape[-1] ** 0.5
    return package.entmax15(scores if bias is None else scores + bias, dim=-1) @ v


def by_cpu(*inputs):
    return entmax_attention(*inputs, path="cpu")


def close(found, expected, tolerance):
    for x, y in zip(found, expected, strict=True):
        assert (x.double() - y).abs().max() <= tolerance * max(y.abs().max(), 1)


@needs_compiler
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("biased", [False, True])
def test_the_cpu_path_is_the_formula(shape, biased):
    for scale in (0.3, 1, 4):
        q, k, v, grad = draw(shape, scale)
        bias = torch.randn(*shape[:2], shape[2], shape[2]) if biased else None
        found = results(by_cpu, (q, k, v, bias), grad)
        exact = [None if x is None else x.double() for x in (q, k, v, bias)]
        close(found, results(formula, exact, grad.double()), 2e-6 * max(1, scale**4))


@needs_compiler
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
def test_the_cpu_path_takes_half_precision_and_autocast(dtype, tolerance):
    q, k, v, grad = draw((2, 2, 197, 64), 1, dtype)
    found = results(by_cpu, (q, k, v), grad)
    assert all(x.dtype == dtype for x in found)
    exact = [x.double() for x in (q, k, v)]
    close(found, results(formula, exact, grad.double()), tolerance)
    with torch.autocast("cpu", dtype=dtype):
        out = by_cpu(10 * q.float(), k.float(), torch.ones_like(v).float())
    assert out.dtype == dtype
    assert (out.float() - 1).abs().max() < 5e-3  # the rows still sum to one


@needs_compiler
def test_a_bias_that_repeats_gets_the_sum_of_its_gradients():
    q, k, v, grad = draw((2, 6, 4, 6))
    for shape in ((1, 1, 4, 4), (2, 6, 1, 4), (1, 6, 4, 1)):
        bias = torch.randn(shape)
        found = results(by_cpu, (q, k, v, bias), grad)
        close(found, results(module.plain, (q, k, v, bias), grad), 1e-6)


@needs_compiler
@pytest.mark.parametrize("n", [1, 37, 1025])
def test_the_cpu_path_solves_adversarial_rows_as_the_package_does(n):
    g = torch.Generator().manual_seed(n)
    ties = torch.randint(0, 3, (4, n), generator=g) * torch.tensor([[0.01], [0.3], [1], [5]])
    ramps = torch.linspace(0, 1, n) * torch.tensor([[0.1], [1], [100], [1e4]])
    noise = torch.randn(3, n, generator=g) * torch.tensor([[0.1], [1], [1e4]])
    clusters = torch.randn(1, n, generator=g) * 1e-3 + torch.randint(0, 2, (1, n), generator=g)
    logits = torch.cat([ties, ramps, noise, clusters, torch.zeros(1, n)])
    groups = -(-len(logits) // n)
    bias = torch.zeros(groups * n, n)
    bias[: len(logits)] = logits
    blank = torch.zeros(groups, 1, n, 8)
    v = torch.eye(n, 8).expand(groups, 1, n, 8).clone()  # shows the first probabilities
    v[..., -1] = 1  # and the sum
    p = by_cpu(blank, blank, v, bias.view(groups, 1, n, n)).flatten(0, 2)
    expected = package.entmax15(logits.double(), dim=-1)[:, :7]
    torch.testing.assert_close(p[: len(logits), : min(n, 7)].double(), expected, rtol=0, atol=1e-6)
    assert (p[:, -1] - 1).abs().max() <= 1e-5  # most of it is the rounding of the last product


@pytest.mark.parametrize("path", ["plain", pytest.param("cpu", marks=needs_compiler)])
def test_excluded_rows_have_no_weight_and_bad_ones_spoil_no_other(path):
    q, k, v, grad = draw((1, 2, 7, 8))
    bias = torch.zeros(1, 2, 7, 7)
    bias[..., 4:] = -torch.inf
    bias[:, :, 2] = -torch.inf
    out, *gradients = results(lambda *x: entmax_attention(*x, path=path), (q, k, v, bias), grad)
    assert (out[:, :, 2] == 0).all()
    rest = [0, 1, 3]
    expected = formula(q[:, :, rest], k[:, :, :4], v[:, :, :4])
    torch.testing.assert_close(out[:, :, rest], expected, rtol=0, atol=2e-6)
    assert all(x.isfinite().all() for x in gradients)
    assert (gradients[1][:, :, 4:] == 0).all()
    for bad in (torch.nan, torch.inf):
        bias[:, :, 2, 3] = bad
        out = entmax_attention(q, k, v, bias, path=path)
        assert out[:, :, 2].isnan().all()
        assert out[:, :, [0, 1, 3, 4, 5, 6]].isfinite().all()


@needs_compiler
def test_the_cpu_path_can_be_differentiated_twice():
    q, k, v, grad = draw((1, 2, 9, 8))

    def second(path):
        inputs = [x.clone().requires_grad_() for x in (q, k, v)]
        out = entmax_attention(*inputs, path=path)
        first = torch.autograd.grad(out, inputs, grad, create_graph=True)
        return torch.autograd.grad(sum(x.square().sum() for x in first), inputs)

    close(second("cpu"), second("plain"), 1e-5)


@needs_compiler
def test_large_work_takes_the_cpu_path_by_itself(monkeypatch):
    monkeypatch.setattr(cpu, "FASTER_FROM", 2 * 197**2)
    calls = []
    forward = cpu.forward
    monkeypatch.setattr(cpu, "forward", lambda *x: calls.append(1) or forward(*x))
    attention = Attention(32, 2, "entmax15")
    attention(torch.randn(1, 196, 32), (14, 14))
    assert not calls
    attention(torch.randn(1, 197, 32), (14, 14))
    assert calls


def no_compiler(monkeypatch):
    monkeypatch.setattr(cpu.shutil, "which", lambda name: None)


def bad_compiler(monkeypatch):
    def run(command, **_):
        raise subprocess.CalledProcessError(1, command, stderr="unknown option -fopenmp")

    monkeypatch.setattr(cpu.shutil, "which", lambda name: name)
    monkeypatch.setattr(cpu.subprocess, "run", run)


@pytest.mark.parametrize(
    ("change", "reason"), [(no_compiler, "no C compiler"), (bad_compiler, "unknown option")]
)
def test_without_a_compiler_the_plain_path_is_taken_and_said_once(monkeypatch, change, reason):
    monkeypatch.setattr(cpu, "FASTER_FROM", 1)
    kept = (cpu.library, module._warn_once)
    for each in kept:
        each.cache_clear()
    with monkeypatch.context() as patch:
        change(patch)
        q, k, v, _ = draw((1, 2, 7, 8))
        with pytest.warns(UserWarning, match=reason):
            out = entmax_attention(q, k, v)
        assert torch.equal(out, module.plain(q, k, v, None))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            entmax_attention(q, k, v)
        with pytest.raises(ValueError, match=reason):
            entmax_attention(q, k, v, path="cpu")
    for each in kept:
        each.cache_clear()


def test_a_path_that_cannot_is_refused_with_the_reason():
    half, double = torch.zeros(1, 2, 7, 8), torch.zeros(1, 2, 7, 8, dtype=torch.float64)
    for path, x, message in (
        ("cpu", double, "fp32, bf16, fp16"),
        ("cpu", half[:0], "without 0"),
        ("triton", half, "8 channels, it takes 16 to 128"),
        ("triton", torch.zeros(1, 2, 7, 129), "129 channels"),
        ("triton", torch.zeros(1, 2, 7, 64), "on cpu"),
    ):
        with pytest.raises(ValueError, match=message):
            entmax_attention(x, x, x, path=path)
    with FakeTensorMode():  # without memory, it takes the plain path
        x = torch.zeros(8, 6, 300, 64)
        assert entmax_attention(x, x, x).shape == x.shape


COMPILED = """
import torch
from vitlab.encoders.entmax.attention import entmax_attention

q, k, v, grad = torch.randn(4, 2, 2, 37, 16)
inputs = [x.requires_grad_() for x in (q, k, v)]
for attend in (entmax_attention, torch.compile(entmax_attention, fullgraph=True)):
    out = attend(q, k, v)
    results = [out, *torch.autograd.grad(out, inputs, grad)]
    if attend is entmax_attention:
        expected = results
for x, y in zip(results, expected, strict=True):
    torch.testing.assert_close(x, y, rtol=0, atol=1e-5)
"""


@pytest.mark.slow
@needs_compiler
def test_attention_can_be_compiled_and_keeps_results_and_gradients():
    # in a process of its own, since torch cannot compile what checks shapes while tests run
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
