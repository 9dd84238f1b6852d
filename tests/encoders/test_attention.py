import pytest
import torch

from vitlab.encoders.attention import NORMALIZERS, Attention


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_it_is_the_equation(normalizer):
    torch.manual_seed(0)
    attention = Attention(24, 3, normalizer).double()
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    heads = []
    for h in range(3):
        w = attention.qkv.weight.view(3, 3, 8, 24)[:, h]
        b = attention.qkv.bias.view(3, 3, 8)[:, h]
        q, k, v = (x @ w[i].T + b[i] for i in range(3))
        heads.append(NORMALIZERS[normalizer](q @ k.transpose(1, 2) / 8**0.5) @ v)
    expected = attention.proj(torch.cat(heads, dim=2))
    torch.testing.assert_close(attention(x, (2, 3)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_the_fused_and_the_explicit_form_agree_on_a_bias(normalizer):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 7, 8, dtype=torch.float64)
    bias = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    out = Attention(24, 3, normalizer).interact(q, k, v, bias)
    expected = NORMALIZERS[normalizer](q @ k.transpose(-2, -1) / 8**0.5 + bias) @ v
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_the_order_of_tokens_does_not_matter(normalizer):
    torch.manual_seed(0)
    attention = Attention(24, 3, normalizer).double()
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    order = torch.randperm(7)
    torch.testing.assert_close(
        attention(x[:, order], (2, 3)), attention(x, (2, 3))[:, order], rtol=0, atol=1e-12
    )
