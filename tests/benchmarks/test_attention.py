import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks import attention as bench
from vitlab.encoders.entmax.attention import plain


def test_the_attentions_compared_are_the_same_work():
    (_, ours, _, softmax), (_, again, _, package) = bench.of((1, 2, 9, 16))
    assert ours is again
    for mine, theirs in zip(ours(), package(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-6)
    assert [x.shape for x in softmax()] == [x.shape for x in ours()]


def test_on_a_gpu_time_and_memory_are_shares_of_flash_attention(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [*bench.on_gpu(1).columns[2].cells] == ["not measured: no GPU"] * 6
    monkeypatch.setattr(bench, "peak_bytes", lambda call, device: 2**21)
    monkeypatch.setitem(sys.modules, "adasplash", None)
    rows = bench.measured((1, 2, 9, 16), torch.device("cpu"), 1)
    assert rows["softmax, flash"][1:] == ("1.00", "2", "1.00")
    assert rows["entmax, ours"][2:] == ("2", "1.00")
    assert rows["entmax, adasplash"][0].startswith("not measured: ")


@pytest.mark.parametrize("n", [16, 37])
def test_adasplash_is_given_lengths_that_are_powers_of_two(monkeypatch, n):
    def attend(q, k, v, alpha, is_causal, varlen):
        assert (alpha, is_causal) == (1.5, False)
        assert q.shape[2] & (q.shape[2] - 1) == 0
        n = int(varlen[0])
        out = torch.zeros_like(q)
        out[:, :, :n] = plain(q[:, :, :n], k[:, :, :n], v[:, :, :n], None)
        return out

    monkeypatch.setitem(sys.modules, "adasplash", SimpleNamespace(adasplash=attend))
    q, k, v = torch.randn(3, 2, 2, n, 16)
    torch.testing.assert_close(bench.adasplash(q, k, v), plain(q, k, v, None))
