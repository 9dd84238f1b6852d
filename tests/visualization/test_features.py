import pytest
import torch

from vitlab.encoders import Locality, Pixels, Pool, PromptedViT, Prompts, ViT, record
from vitlab.probes import InferenceConfig
from vitlab.visualization.attention import attention_image, attention_keys, attention_note
from vitlab.visualization.colors import ZERO
from vitlab.visualization.features import CLS, PatchMatrix, extract_block_features, query_attention

LOADING = InferenceConfig(torch.device("cpu"))


def images(b=2, height=32, width=48, seed=0):
    drawn = torch.randint(256, (b, 3, height, width), generator=torch.Generator().manual_seed(seed))
    return drawn.to(torch.uint8)


def encoders():
    torch.manual_seed(0)
    made = {
        "plain": ViT("nano", 8, 32),
        "entmax with registers": ViT("nano", 8, 32, normalizer="entmax15", num_registers=3),
        "local": ViT("nano", 8, 32, locality=Locality(kind="gaussian", refine=True)),
        "prompted": PromptedViT(
            ViT("nano", 8, 32, num_registers=2), Prompts(shared=3, cls=Pool(4))
        ),
    }
    return {name: encoder.eval() for name, encoder in made.items()}


@pytest.mark.parametrize("name", encoders())
def test_features_and_attention_are_those_of_the_encoder(name):
    encoder, pictures = encoders()[name], images()
    last, first = extract_block_features(encoder, pictures, LOADING, [-1, 0], [CLS, 5])
    with record(encoder, "attn.weights") as weights, torch.no_grad():
        tokens = LOADING.encode(encoder, pictures)
    p = tokens.patches.shape[1]
    assert torch.allclose(last.tokens.patches, tokens.patches, atol=1e-5)
    for seen, matrix in ((last, weights[-1]), (first, weights[0])):
        prefix = matrix.shape[2] - p
        assert torch.allclose(seen.attention[0], matrix[0, :, 0, -p:], atol=1e-6)
        assert torch.allclose(seen.attention[1], matrix[1, :, prefix + 5, -p:], atol=1e-6)
        assert (seen.attention.sum(-1) < 1 + 1e-5).all()


def test_features_alone_are_the_same_and_need_no_attention():
    encoder = encoders()["entmax with registers"]
    (alone,), (both,) = (
        extract_block_features(encoder, images(), LOADING, [-1], q) for q in (None, [CLS, CLS])
    )
    assert alone.attention is None
    assert torch.allclose(alone.tokens.patches, both.tokens.patches, atol=1e-5)


def test_an_encoder_without_blocks_has_features():
    (seen,) = extract_block_features(Pixels(8), images(), LOADING)
    assert seen.tokens.grid == (4, 6)


def test_a_row_is_that_of_its_query_behind_prompts_and_registers():
    """Keys are 2 prompts, [CLS], 1 register and 4 patches; queries have no prompts."""
    weights = torch.arange(6.0 * 8).view(1, 1, 6, 8)
    assert query_attention(weights, [CLS], 4).flatten().tolist() == [4, 5, 6, 7]
    assert query_attention(weights, [1], 4).flatten().tolist() == [3 * 8 + 4 + i for i in range(4)]


def test_blocks_that_are_not_there_and_broken_weights_are_refused():
    encoder = encoders()["plain"]
    with pytest.raises(ValueError, match="layer 4 is asked of an encoder with 4 blocks"):
        extract_block_features(encoder, images(), LOADING, [4])
    torch.nn.init.constant_(encoder.norm.weight, torch.nan)
    with pytest.raises(ValueError, match="not finite"):
        extract_block_features(encoder, images(), LOADING)


def test_a_table_gives_every_image_its_map_back():
    encoder = encoders()["plain"]
    shapes = [(32, 48), (16, 8), (8, 8)]
    tokens = [
        extract_block_features(encoder, images(1, *shape), LOADING)[0].tokens for shape in shapes
    ]
    table = PatchMatrix.from_tokens(tokens)
    assert table.grids == [(4, 6), (2, 1), (1, 1)]
    for found, each in zip(table.split(table.x), tokens, strict=True):
        assert torch.equal(found, each.map[0])
    assert [each.shape for each in table.split(table.x[:, 0])] == [(4, 6), (2, 1), (1, 1)]


def test_exact_zeros_have_a_color_of_their_own_and_nothing_else_has():
    attention = torch.tensor([0.0, 1e-9, 0.25, 0.5])
    shown = attention_image(attention, (2, 2)).flatten(1).T
    assert torch.allclose(shown[0], torch.tensor(ZERO))
    assert len({tuple(each.tolist()) for each in shown}) == 4
    assert attention_note(attention) == "max 50.0 %, 25 % are 0"
    assert len(attention_keys([attention])) == 2
    assert attention_note(attention[1:]) == "max 50.0 %"
    assert len(attention_keys([attention[1:]])) == 1


def test_attention_that_is_nowhere_is_shown():
    assert (attention_image(torch.zeros(4), (2, 2)) == torch.tensor(ZERO)[:, None, None]).all()
