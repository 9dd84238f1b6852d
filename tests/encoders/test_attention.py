import pytest
import torch

from vitlab.encoders.attention import Attention
from vitlab.encoders.entmax.normalizer import NORMALIZERS, Normalizer

FAMILY = {**NORMALIZERS, "other": Normalizer(1.25), "sharp": Normalizer(1, sharpness=2)}


@pytest.mark.parametrize("normalizer", FAMILY.values(), ids=FAMILY)
def test_it_is_the_equation(normalizer):
    attention = Attention(24, 3, normalizer).double()
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    bias = torch.randn(2, 3, 7, 7, dtype=torch.float64)  # added to sharpened scores
    heads, biased = [], []
    for h in range(3):
        w = attention.qkv.weight.view(3, 3, 8, 24)[:, h]
        b = attention.qkv.bias.view(3, 3, 8)[:, h]
        q, k, v = (x @ w[i].T + b[i] for i in range(3))
        scores = q @ k.transpose(1, 2) * normalizer.sharpness / 8**0.5
        heads.append(normalizer(scores) @ v)
        biased.append(normalizer(scores + bias[:, h]) @ v)
    expected = attention.proj(torch.cat(heads, dim=2))
    torch.testing.assert_close(attention(x, (2, 3)), expected, rtol=0, atol=1e-12)
    attention.gaug = lambda *_: bias
    expected = attention.proj(torch.cat(biased, dim=2))
    torch.testing.assert_close(attention(x, (2, 3)), expected, rtol=0, atol=1e-12)
