import pytest
import torch
from refusals import refused

from vitlab.encoders import Locality, Pixels, Pool, PromptedViT, Prompts, ViT, record
from vitlab.probes import InferenceConfig
from vitlab.visualization.colors import ZERO, Key, attention_image, attention_keys
from vitlab.visualization.features import CLS, PatchMatrix, extract_block_features

LOADING = InferenceConfig(torch.device("cpu"))
OPTIONS = {
    "entmax with registers": {"normalizer": "entmax15", "num_registers": 3},
    "local": {"locality": Locality(kind="gaussian", refine=True)},
    "prompted": {"num_registers": 2},
}


def images(b=2, height=32, width=48):
    drawn = torch.randint(256, (b, 3, height, width), generator=torch.Generator().manual_seed(0))
    return drawn.to(torch.uint8)


@pytest.mark.parametrize("name", OPTIONS)
def test_features_and_attention_are_those_of_the_encoder(name):
    torch.manual_seed(0)
    encoder, pictures = ViT("nano", 8, 32, **OPTIONS[name]).eval(), images()
    if name == "prompted":
        encoder = PromptedViT(encoder, Prompts(shared=3, cls=Pool(4))).eval()
    last, first = extract_block_features(encoder, pictures, LOADING, [-1, 0], [CLS, 5])
    with record(encoder, "attn.weights") as weights, torch.no_grad():
        tokens = LOADING.encode(encoder, pictures)
    p = tokens.patches.shape[1]
    assert torch.allclose(last.tokens.patches, tokens.patches, atol=1e-5)
    assert not torch.allclose(first.tokens.patches, tokens.patches, atol=1e-2)
    for seen, matrix in ((last, weights[-1]), (first, weights[0])):
        patch = matrix.shape[2] - p + 5  # keys have prompts before [CLS], queries do not
        assert torch.allclose(seen.attention[0], matrix[0, :, 0, -p:], atol=1e-6)
        assert torch.allclose(seen.attention[1], matrix[1, :, patch, -p:], atol=1e-6)
        assert (seen.attention.sum(-1) < 1 + 1e-5).all()
    (alone,) = extract_block_features(encoder, pictures, LOADING)
    assert alone.attention is None
    assert torch.allclose(alone.tokens.patches, last.tokens.patches, atol=1e-5)


def test_encoders_without_blocks_have_features_and_broken_ones_are_refused():
    (seen,) = extract_block_features(Pixels(8), images(), LOADING)
    assert seen.tokens.grid == (4, 6)
    broken = ViT("nano", 8, 32).eval()
    with refused("layers"):
        extract_block_features(broken, images(), LOADING, [4])
    torch.nn.init.constant_(broken.norm.weight, torch.nan)
    with refused("features"):
        extract_block_features(broken, images(), LOADING)


def test_a_table_gives_every_image_its_map_back():
    vit = ViT("nano", 8, 32).eval()
    shapes = [(32, 48), (16, 8), (8, 8)]
    tokens = [extract_block_features(vit, images(1, *each), LOADING)[0].tokens for each in shapes]
    table = PatchMatrix.from_tokens(tokens)
    assert table.grids == [(4, 6), (2, 1), (1, 1)]
    for found, each in zip(table.split(table.x), tokens, strict=True):
        assert torch.equal(found, each.map[0])
    assert [each.shape for each in table.split(table.x[:, 0])] == [(4, 6), (2, 1), (1, 1)]


def test_exact_zeros_are_darker_than_all_attention():
    attention = torch.tensor([0.0, 1e-9, 0.25, 0.5])
    shown = attention_image(attention, (2, 2)).flatten(1).T
    assert torch.allclose(shown[0], torch.tensor(ZERO))
    assert len({tuple(each.tolist()) for each in shown}) == 4
    gray = shown @ torch.tensor([0.2126, 0.7152, 0.0722])
    assert gray.diff().min() > 0.02  # what is bright is mass, in print without color too
    assert attention_keys([attention])[:1] == [Key(ZERO, "exactly 0")]
    assert len(attention_keys([attention[1:]])) == 1
    nowhere = attention_image(torch.zeros(4), (2, 2))
    assert torch.equal(nowhere, torch.tensor(ZERO)[:, None, None].expand(3, 2, 2))
