"""The engine on real encoders: against numpy on what `walk` and `record` give, and invariances."""

import numpy as np
import pytest
import torch
from batch_contexts import cos
from refusals import refused
from scipy import stats
from sklearn.metrics import roc_auc_score

from vitlab.analysis.measures.engine import MeasureEngine
from vitlab.analysis.results import Row
from vitlab.encoders import (
    CLSSpecialization,
    Encoder,
    Locality,
    Pixels,
    Pool,
    PromptedViT,
    Prompts,
    TokenSequence,
    ViT,
    record,
    vit,
)

OPTIONS = {
    "plain": {},
    "registers": {"num_registers": 3, "normalizer": "entmax15", "layer_scale": 0.5},
    "locality": {"locality": Locality("gaussian", refine=True)},
    "specialized": {"cls_specialization": CLSSpecialization(norm=1.0, qkv=0.5, mlp=1.0)},
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(vit.SHAPES, "nano", vit.Shape(embed_dim=16, depth=2, num_heads=2))


def encoder_of(**options):
    torch.manual_seed(0)
    made = ViT("nano", 8, 32, **options)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return made.eval()


@pytest.fixture
def images():
    return torch.randn(5, 3, 32, 40, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def objects():
    masks = torch.zeros(5, 32, 40, dtype=torch.uint8)
    masks[:, 8:24, 8:24] = 1
    masks[:, 16:, :8] = 255
    masks[4] = 0
    return masks


def found_of(encoder, images, objects=None, batch=5):
    engine = MeasureEngine(encoder, len(images))
    for start in range(0, len(images), batch):
        part = slice(start, start + batch)
        engine.update(images[part], None if objects is None else objects[part])
    return list(engine.compute("m"))


def rows_of(found):
    return {
        (row.measure, row.block, row.point, row.head, row.role): row
        for row in found
        if isinstance(row, Row)
    }


@pytest.mark.parametrize("name", OPTIONS)
def test_numbers_of_an_encoder_are_those_of_plain_loops(name, images, objects):
    encoder = encoder_of(**OPTIONS[name])
    rows = rows_of(found_of(encoder, images, objects))
    prefix = 1 + OPTIONS[name].get("num_registers", 0)
    fore = [row * 5 + column for row in (1, 2) for column in (1, 2)]
    unknown = [10, 15]
    back = [p for p in range(20) if p not in fore + unknown]
    with torch.no_grad(), record(encoder, "attn.weights") as weights:
        states = list(encoder.walk(images))
        for block in range(2):
            x = states[block + 1].x.double().numpy()
            read = encoder.read(TokenSequence(states[block + 1].x, (4, 5)))
            cls, patches = read.cls.double().numpy(), read.patches.double().numpy()
            expected = {name: [] for name in ("all", "cross", "auroc", "norm", "locality", "hit")}
            for b in range(5):
                raw = x[b, prefix:]
                expected["all"].append(np.mean([cos(x[b, 0], t) for t in raw]))
                expected["norm"].append(np.mean([np.linalg.norm(t) for t in raw]))
                pairs = [(i, j) for i in range(20) for j in range(i)]
                alike = [cos(raw[i], raw[j]) for i, j in pairs]
                apart = [np.hypot(i // 5 - j // 5, i % 5 - j % 5) for i, j in pairs]
                expected["locality"].append(stats.spearmanr(alike, apart).statistic)
                if b < 4:
                    likeness = [cos(cls[b], t) for t in patches[b]]
                    expected["cross"].append(
                        np.mean([cos(raw[i], raw[j]) for i in fore for j in back])
                    )
                    known = fore + back
                    truth = [p in fore for p in known]
                    expected["auroc"].append(roc_auc_score(truth, [likeness[p] for p in known]))
                    expected["hit"].append(max(known, key=lambda p: likeness[p]) in fore)
            places = {
                "all": ("cls_patch_cosine", block, "output", None, "all"),
                "norm": ("token_norm", block, "output", None, "patches"),
                "locality": ("locality", block, "output", None, ""),
                "cross": ("diffusion_index", block, "output", None, ""),
                "auroc": ("foreground_auroc", block, "read", None, ""),
                "hit": ("foreground_hit", block, "read", None, ""),
            }
            for key, place in places.items():
                row, values = rows[place], np.asarray(expected[key], float)
                assert row.images == len(values)
                assert row.mean == pytest.approx(values.mean(), abs=3e-5), key
                low, high = stats.t.interval(
                    0.95, len(values) - 1, values.mean(), max(stats.sem(values), 1e-12)
                )
                assert (row.low, row.high) == (
                    pytest.approx(low, abs=2e-4),
                    pytest.approx(high, abs=2e-4),
                )
        for block, each in enumerate(weights):
            w = each.double().numpy()
            for head in range(2):
                entropy = stats.entropy(w[:, head], axis=-1)
                for role, part in (
                    ("cls", entropy[:, 0]),
                    ("patches", entropy[:, prefix:].mean(1)),
                ):
                    row = rows["attention_entropy", block, "", head, role]
                    assert row.mean == pytest.approx(part.mean(), abs=1e-5)
                zeros = rows["attention_zeros", block, "", head, "patches"].mean
                assert zeros == pytest.approx((w[:, head, prefix:] == 0).mean(), abs=1e-6)
            dead = (w == 0).all(2).mean()
            assert rows["dead_keys", block, "", None, ""].mean == pytest.approx(dead, abs=1e-6)
    final = rows["foreground_auroc", None, "final", None, ""]
    assert final.mean == rows["foreground_auroc", 1, "read", None, ""].mean


@pytest.mark.parametrize("name", ["registers", "locality"])
def test_batches_and_the_order_of_images_change_nothing(name, images, objects):
    encoder = encoder_of(**OPTIONS[name])
    whole = rows_of(found_of(encoder, images, objects))
    order = torch.tensor([3, 0, 4, 2, 1])
    for batch, other in ((2, images), (1, images)):
        part = rows_of(found_of(encoder, other, objects, batch))
        assert list(part) == list(whole)
        for key, row in whole.items():
            assert part[key].mean == pytest.approx(row.mean, abs=2e-4, rel=1e-4), key
            assert part[key].images == row.images
    turned = rows_of(found_of(encoder, images[order], objects[order]))
    for key, row in whole.items():
        assert turned[key].mean == pytest.approx(row.mean, abs=2e-4, rel=1e-4), key


def test_one_image_has_no_interval(images, objects):
    for row in rows_of(found_of(encoder_of(), images[:1], objects[:1])).values():
        assert (row.low, row.high, row.images) == (None, None, 1)


def test_looking_changes_no_feature_and_leaves_no_hook(images):
    encoder = encoder_of(cls_specialization=CLSSpecialization(mlp=1.0))
    with torch.no_grad():
        before = encoder(images)
        found_of(encoder, images)
        after = encoder(images)
    assert torch.equal(before.patches, after.patches)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in encoder.modules())


def test_without_masks_nothing_is_said_of_objects(images):
    found = found_of(encoder_of(), images)
    assert not {row.role for row in found} & {"foreground", "background"}
    assert not [row for row in found if "foreground" in row.measure or "diffusion" in row.measure]


def test_registers_are_apart_and_scale_is_a_point_of_its_own(images):
    encoder = encoder_of(num_registers=3, layer_scale=0.1)
    rows = rows_of(found_of(encoder, images))
    assert ("registers_patch_cosine", 0, "norm1", None, "") in rows
    assert ("attention_entropy", 1, "", 0, "registers") in rows
    plain = rows_of(found_of(encoder_of(), images))
    assert not any("regist" in part for key in plain for part in (key[0], key[4]))
    for key, row in plain.items():
        if key[2] == "scale1":  # there is no LayerScale
            assert row.mean == plain[key[0], key[1], "attention", *key[3:]].mean


def test_prompts_are_measured_beside_the_sequence(images):
    pools = Prompts(shared=2, cls=Pool(3), patches=Pool(4, top_k=1))
    encoder = PromptedViT(encoder_of(), pools).eval()
    found = found_of(encoder, images)
    rows = rows_of(found)
    with torch.no_grad(), record(encoder, "attn.weights") as weights:
        encoder(images)
    for block, w in enumerate(weights):
        assert w.shape[-1] == 9 + 21
        for role, part in (("cls", w[:, :, :1]), ("patches", w[:, :, 1:])):
            mass = part[..., :9].sum(-1).mean()
            assert rows["prompt_mass", block, "", None, role].mean == pytest.approx(
                float(mass), abs=1e-5
            )
        used = rows["prompt_used", block, "", None, "cls"].mean
        assert used == pytest.approx(5 / 9)  # shared and its own pool
    arrays = [each for each in found if each.measure == "prompt_mass" and not isinstance(each, Row)]
    assert {tuple(each.axes) for each in arrays} == {("prompt",)}
    assert [len(each.values) for each in arrays] == [9] * 4
    per_prompt = weights[0][:, :, 1:, :9].mean((0, 1, 2)).tolist()
    (first,) = (each for each in arrays if (each.block, each.role) == (0, "patches"))
    assert first.values == pytest.approx(per_prompt, abs=1e-5)


def test_the_maps_of_the_bias_are_means_over_images(images):
    encoder = encoder_of(locality=Locality("gaussian"))
    found = found_of(encoder, images, batch=2)
    arrays = [each for each in found if each.measure == "bias_alpha" and not isinstance(each, Row)]
    assert [(each.block, each.head) for each in arrays] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    row = rows_of(found)["bias_alpha", 1, "", 0, "patches"]
    assert np.asarray(arrays[2].values).shape == (4, 5)
    assert np.mean(arrays[2].values) == pytest.approx(row.mean, rel=1e-4)


def test_features_that_are_not_finite_are_refused(images):
    encoder = encoder_of()
    with torch.no_grad():
        encoder.blocks[1].mlp.fc2.bias.fill_(torch.nan)
    with refused("--weights"):
        MeasureEngine(encoder, 5).update(images)


def test_of_an_encoder_without_blocks_the_walk_is_measured(images, objects):
    class Own(Encoder):
        """An encoder of the user's own, around a ViT."""

        def __init__(self, inner):
            super().__init__()
            self.inner, self.blocks = inner, [None] * len(inner.blocks)
            self.embed_dim, self.patch_size = inner.embed_dim, inner.patch_size

        def walk(self, images):
            return self.inner.walk(images)

        def read(self, state):
            return self.inner.read(state)

        def forward(self, images):
            return self.inner(images)

    own, plain = (rows_of(found_of(e, images, objects)) for e in (Own(encoder_of()), encoder_of()))
    assert ("cls_patch_cosine", 1, "output", None, "all") in own
    assert ("feature_rank", None, "final", None, "patches") in own
    for key, row in own.items():  # without hooks attention is fused
        assert row.mean == pytest.approx(plain[key].mean, rel=1e-4, abs=1e-5)
    final = rows_of(found_of(Pixels(8), images))
    assert {key[1] for key in final} == {0, None}


def test_large_images_pass_a_few_at_a_time():
    engine = MeasureEngine(encoder_of(), 5)
    cpu = torch.device("cpu")
    assert engine.max_batch_size(32, cpu) > engine.max_batch_size(512, cpu) >= 1
