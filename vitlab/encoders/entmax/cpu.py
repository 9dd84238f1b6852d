"""1.5-entmax attention on a CPU, a cache-sized part of the scores at a time.

The matrix products are those of the BLAS inside torch; what lies between them is the C below,
which a C compiler builds in less than a second, once in a process. Nothing is kept between
processes: a library for this very processor would be wrong on another that shares the folder.

Axis letters: b images, h heads, n tokens, e channels of a head.
"""

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from vitlab.encoders.entmax.operator import Heads, Rows

Scores = Float[Tensor, "b h n n"]
FASTER_FROM = 2**19  # scores; below, the gain is not worth starting a compiler for
_PART = 2**17  # scores of a part: one in fp32 fills half of a usual second cache of 1 MiB
_FLAGS = ["-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math"]
_SOURCE = r"""
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>
#define BLOCK 256 /* summed in fp32; sums of blocks are added in fp64 */

/* x <- (x - max) / 2; returns whether the row is one to solve. NaN or +inf makes it NaN; a row of
   -inf only has no weights at all. */
static int halve(float *restrict x, int64_t n) {
    float top = -INFINITY;
    int bad = 0;
#pragma omp simd reduction(max : top) reduction(| : bad)
    for (int64_t j = 0; j < n; j++) {
        top = x[j] > top ? x[j] : top;
        bad |= x[j] != x[j];
    }
    if (!bad && top > -INFINITY && top < INFINITY) {
#pragma omp simd
        for (int64_t j = 0; j < n; j++) x[j] = (x[j] - top) * 0.5f;
        return 1;
    }
    const float fill = bad || top > 0 ? NAN : 0;
    for (int64_t j = 0; j < n; j++) x[j] = fill;
    return 0;
}

/* As threshold() in entmax.py, for one row. */
static float threshold(const float *restrict x, int64_t n) {
    const float highest = -1 / sqrtf((float)n);
    float tau = -1;
    for (int step = 0; step < 25; step++) {
        double s1 = 0, s2 = 0, support = 0;
        for (int64_t from = 0; from < n; from += BLOCK) {
            const int64_t to = from + BLOCK < n ? from + BLOCK : n;
            float a = 0, b = 0, c = 0;
#pragma omp simd reduction(+ : a, b, c)
            for (int64_t j = from; j < to; j++) {
                const float gap = x[j] - tau;
                const float d = gap > 0 ? gap : 0;
                a += d;
                b += d * d;
                c += gap > 0 ? 1.0f : 0.0f;
            }
            s1 += a, s2 += b, support += c;
        }
        const double excess = s2 - 1;
        if (fabs(excess) <= 1e-6) break;
        const double inside = s1 * s1 - support * excess;
        const double root = inside > 0 ? sqrt(inside) : 0;
        const float next = (float)(tau + excess / (step < 5 ? s1 + root : 2 * s1));
        tau = next < -1 ? -1 : next > highest ? highest : next;
    }
    return tau;
}

/* Probabilities of the scores x, in their place. */
static void weigh(float *restrict x, float *tau, int64_t n) {
    *tau = 0;
    if (!halve(x, n)) return;
    const float t = *tau = threshold(x, n);
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
        const float d = x[j] - t;
        x[j] = d > 0 ? d * d : 0;
    }
}

/* The same from a known threshold; g, a gradient of probabilities, becomes that of scores. */
static void weigh_back(float *restrict x, float *restrict g, float tau, int64_t n) {
    double weighted = 0, total = 0;
    if (!halve(x, n)) {
        memcpy(g, x, n * sizeof(float));
        return;
    }
    for (int64_t from = 0; from < n; from += BLOCK) {
        const int64_t to = from + BLOCK < n ? from + BLOCK : n;
        float a = 0, b = 0;
#pragma omp simd reduction(+ : a, b)
        for (int64_t j = from; j < to; j++) {
            const float d = x[j] - tau;
            const float s = d > 0 ? d : 0;
            a += s * g[j];
            b += s;
            x[j] = s;
        }
        weighted += a, total += b;
    }
    const float mean = (float)(weighted / total);
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
        g[j] = x[j] * (g[j] - mean);
        x[j] *= x[j];
    }
}

typedef void gemm_t(const char *, const char *, const int *, const int *, const int *,
                    const float *, const float *, const int *, const float *, const int *,
                    const float *, float *, const int *);

/* out (m x n) = alpha a b + beta out by rows, a (m x k) and b (k x n) perhaps stored transposed */
static void product(gemm_t *gemm, int ta, int tb, int64_t m_, int64_t n_, int64_t k_, float alpha,
                    const float *a, const float *b, float beta, float *out) {
    const int m = (int)m_, n = (int)n_, k = (int)k_, lda = ta ? m : k, ldb = tb ? k : n;
    gemm(tb ? "T" : "N", ta ? "T" : "N", &n, &m, &k, &alpha, b, &ldb, a, &lda, &beta, out, &n);
}

static void score(gemm_t *gemm, int64_t r, int64_t n, int64_t e, const float *q, const float *k,
                  const float *bias, float *x) {
    if (bias) memcpy(x, bias, r * n * sizeof(float));
    product(gemm, 0, 1, r, n, e, 1 / sqrtf((float)e), q, k, bias ? 1 : 0, x);
}

void forward(gemm_t *gemm, int threads, int64_t groups, int64_t n, int64_t e, int64_t rows,
             const float *q, const float *k, const float *v, const float *bias, float *out,
             float *taus, float *space) {
#pragma omp parallel for collapse(2) num_threads(threads)
    for (int64_t g = 0; g < groups; g++)
        for (int64_t from = 0; from < n; from += rows) {
            const int64_t r = from + rows < n ? rows : n - from, at = g * n + from;
            float *x = space + omp_get_thread_num() * rows * n;
            score(gemm, r, n, e, q + at * e, k + g * n * e, bias ? bias + at * n : 0, x);
            for (int64_t i = 0; i < r; i++) weigh(x + i * n, taus + at + i, n);
            product(gemm, 0, 0, r, e, n, 1, x, v + g * n * e, 0, out + at * e);
        }
}

void backward(gemm_t *gemm, int threads, int64_t groups, int64_t n, int64_t e, int64_t rows,
              const float *q, const float *k, const float *v, const float *bias,
              const float *grad, const float *taus, float *dq, float *dk, float *dv, float *dbias,
              float *space) {
#pragma omp parallel for num_threads(threads)
    for (int64_t g = 0; g < groups; g++)
        for (int64_t from = 0; from < n; from += rows) {
            const int64_t r = from + rows < n ? rows : n - from, at = g * n + from, all = g * n * e;
            float *x = space + 2 * omp_get_thread_num() * rows * n, *dx = x + rows * n;
            const float scale = 1 / sqrtf((float)e), more = from ? 1 : 0;
            score(gemm, r, n, e, q + at * e, k + all, bias ? bias + at * n : 0, x);
            product(gemm, 0, 1, r, n, e, 1, grad + at * e, v + all, 0, dx);
            for (int64_t i = 0; i < r; i++) weigh_back(x + i * n, dx + i * n, taus[at + i], n);
            if (dbias) memcpy(dbias + at * n, dx, r * n * sizeof(float));
            product(gemm, 1, 0, n, e, r, 1, x, grad + at * e, more, dv + all);
            product(gemm, 1, 0, n, e, r, scale, dx, q + at * e, more, dk + all);
            product(gemm, 0, 0, r, e, n, scale, dx, k + all, 0, dq + at * e);
        }
}
"""


@functools.cache
def library() -> tuple[ctypes.CDLL, ctypes.c_void_p] | str:
    """Build the C part and load it, once in a process.

    Returns:
        The library and the address of torch's sgemm; or why not: no compiler, one that fails, or a
        torch whose BLAS is not within reach.
    """
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        return "no C compiler (cc, gcc or clang) was found"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        source, built = Path(folder) / "entmax.c", Path(folder) / "entmax.so"
        source.write_text(_SOURCE)
        command = [compiler, *_FLAGS, "-shared", "-fPIC", "-o", str(built), str(source), "-lm"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
            torch_itself = ctypes.CDLL(str(Path(torch.__file__).parent / "lib/libtorch_cpu.so"))
            gemm = ctypes.cast(torch_itself.sgemm_, ctypes.c_void_p)
            return ctypes.CDLL(str(built)), gemm
        except subprocess.CalledProcessError as error:
            return f"{compiler} failed: {error.stderr.strip()[-500:]}"
        except (OSError, AttributeError, subprocess.TimeoutExpired) as error:
            return str(error)


def _call(name: str, inputs: list[Tensor | None], outputs: list[Tensor | None]) -> None:
    """Call the C function; queries come first. It takes fp32 without gaps, None as null pointer."""
    assert inputs[0] is not None
    b, h, n, e = inputs[0].shape
    threads, rows = torch.get_num_threads(), min(n, max(1, _PART // n))
    space = torch.empty(threads, 2, rows, n, dtype=torch.float32)
    given = [None if x is None else x.float().contiguous() for x in inputs]
    pointers = [
        ctypes.c_void_p(None if x is None else x.data_ptr()) for x in (*given, *outputs, space)
    ]
    built = library()
    assert not isinstance(built, str)
    function, gemm = built
    sizes = [ctypes.c_int64(size) for size in (b * h, n, e, rows)]
    getattr(function, name)(gemm, ctypes.c_int(threads), *sizes, *pointers)


def forward(q: Heads, k: Heads, v: Heads, bias: Scores | None) -> tuple[Heads, Rows]:
    """Return entmax15(q k^T / sqrt(e) + bias) v, and the threshold of each row.

    Everything is computed in fp32, also from half precision. A row of -inf only gives 0; one with
    NaN or +inf gives NaN.
    """
    out = torch.empty(q.shape, dtype=torch.float32)
    taus = torch.empty(q.shape[:3], dtype=torch.float32)
    _call("forward", [q, k, v, bias], [out, taus])
    return out.to(q.dtype), taus


def backward(
    grad: Heads, q: Heads, k: Heads, v: Heads, bias: Scores | None, rows: Rows, wants_bias: bool
) -> list[Tensor | None]:
    """Return the gradients of q, k, v and, if wanted, bias; scores are computed again."""
    outputs: list[Tensor | None] = [torch.empty(q.shape, dtype=torch.float32) for _ in "qkv"]
    scores = (*q.shape[:3], q.shape[2])
    outputs.append(torch.empty(scores, dtype=torch.float32) if wants_bias else None)
    _call("backward", [q, k, v, bias, grad, rows], outputs)
    return [None if x is None else x.to(q.dtype) for x in outputs]
