"""Every combination of options: train ten steps, write, read back, compare to the bit."""

from itertools import product

import pytest
import torch

import vitlab
from vitlab.encoders import CLSSpecialization, Locality, Normalizer, Tokens, ViT, save

NORMALIZERS = ["softmax", "entmax15", "sparsemax", Normalizer(1.25, sharpness=2, blocks=(0, 2))]
SPECIALIZE = [
    CLSSpecialization(),
    CLSSpecialization(norm=1, qkv=0.334, registers="cls"),
    CLSSpecialization(norm=0.67, qkv=1, proj=0.67, mlp=0.334, final_norm=True, init="random"),
]
LOCALITY = [
    Locality(),
    Locality(refine=True),
    Locality("gaussian", refine=True, resolution="quadratic"),
    Locality("constant", init="warm"),
    Locality("fixed", refine=True),
    Locality("uniform", boost_prefix=True),
]
OTHERS = [(0, 0.0), (2, 1e-2)]  # registers, layer_scale
COMBINATIONS = list(product(NORMALIZERS, SPECIALIZE, LOCALITY, OTHERS))
SIZES = [(64, 64), (48, 80)]  # the constructed one and another


def parts(tokens: Tokens) -> list[torch.Tensor]:
    return [tokens.cls, tokens.registers, tokens.patches]


@pytest.mark.parametrize(
    ("normalizer", "cls_specialization", "locality", "others"), COMBINATIONS, ids=str
)
def test_an_encoder_is_trained_exported_and_read_back_to_the_bit(
    tmp_path, normalizer, cls_specialization, locality, others
):
    torch.manual_seed(0)
    vit = ViT("nano", 16, 64, normalizer, cls_specialization, locality, *others)
    optimizer = torch.optim.AdamW(vit.parameters(), lr=1e-3, foreach=True)
    images = [torch.randn(2, 3, *size) for size in SIZES]
    targets = [[torch.randn_like(x) for x in parts(vit(stack))] for stack in images]
    before = {name: value.clone() for name, value in vit.state_dict().items()}
    for step in range(10):
        which = step % 2
        found = parts(vit(images[which]))
        loss = sum((x - y).square().sum() for x, y in zip(found, targets[which], strict=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert not any(value.equal(before[name]) for name, value in vit.state_dict().items())
    save(vit.eval(), tmp_path / "folder")
    again = vitlab.load(tmp_path / "folder")
    assert again.config == vit.config
    with torch.no_grad():
        for stack in images:
            for ours, theirs in zip(parts(vit(stack)), parts(again(stack)), strict=True):
                assert ours.isfinite().all()
                assert ours.equal(theirs)
