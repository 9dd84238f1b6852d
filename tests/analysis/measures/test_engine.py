"""The engine on real encoders: against the measures of what `walk` and `record` give."""

import numpy as np
import pytest
import torch
from refusals import refused
from scipy import stats

from vitlab.analysis.measures import attention, tokens
from vitlab.analysis.measures.context import BatchContext, label_patches, no_objects
from vitlab.analysis.measures.engine import RANGES, MeasureEngine, mean_interval
from vitlab.analysis.measures.foreground import foreground
from vitlab.analysis.online_statistics import LastStateRecorder
from vitlab.analysis.results import Row
from vitlab.encoders import (
    CLSSpecialization,
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
from vitlab.encoders.hooks import POINTS

OPTIONS = {
    "plain": {},
    "registers": {"num_registers": 3, "normalizer": "entmax15", "layer_scale": 0.5},
    "locality": {"locality": Locality("gaussian", refine=True)},
    "specialized": {"cls_specialization": CLSSpecialization(norm=1.0, qkv=0.5, mlp=1.0)},
    "prompts": {},
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(vit.SHAPES, "nano", vit.Shape(embed_dim=16, depth=2, num_heads=2))


def encoder_of(name="plain"):
    torch.manual_seed(0)
    made = ViT("nano", 8, 32, **OPTIONS[name])
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    if name == "prompts":
        made = PromptedViT(made, Prompts(shared=2, cls=Pool(3), patches=Pool(4, top_k=1)))
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


def arrays_of(found, measure):
    arrays = [x for x in found if x.measure == measure and not isinstance(x, Row)]
    return {(x.block, x.head, x.role): x.values for x in arrays}


@torch.no_grad()
def expected_of(encoder, images, labels, prefix):
    """The measures of each image by block and point, called on what the encoder gives."""
    context = BatchContext((4, 5), 8, prefix, *labels, rows=20)
    with record(encoder, "attn.weights") as weights:
        states = [state.x for state in encoder.walk(images)]
    found = {}
    for block in range(2):
        x = states[block + 1]
        read = encoder.read(TokenSequence(x, (4, 5)))
        sequence = torch.cat([read.cls[:, None], read.registers, read.patches], 1)
        w = weights[block]
        found[block, "input"] = tokens.cosines(states[block], context)
        found[block, "output"] = tokens.cosines(x, context) | tokens.norms(x, context)[0]
        found[block, "output"] |= tokens.locality(x, context)
        found[block, "read"] = tokens.cosines(sequence, context) | foreground(read, context)
        found[block, ""] = attention.attention(w, context) | attention.prompts(w, context)[0]
    found[None, "final"] = found[1, "read"]
    return found


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("name", OPTIONS)
def test_rows_are_means_over_images(name, masked, images, objects):
    encoder, prefix = encoder_of(name), 1 + OPTIONS[name].get("num_registers", 0)
    labels = label_patches(objects, 8) if masked else no_objects(5, (4, 5), torch.device("cpu"))
    rows = rows_of(found_of(encoder, images, objects if masked else None))
    for point, values in expected_of(encoder, images, labels, prefix).items():
        for (measure, role), each in values.items():
            heads = {None: each if each.ndim == 1 else each.nanmean(1)}
            heads |= dict(enumerate(each.T)) if each.ndim == 2 else {}
            for head, numbers in heads.items():
                key, known = (measure, *point, head, role), numbers[~numbers.isnan()].double()
                if not len(known):
                    assert key not in rows
                    continue
                row, mean = rows[key], float(known.mean())
                assert row.images == len(known)
                assert row.mean == pytest.approx(mean, abs=1e-5, rel=1e-4), key
                sums = float(known.sum()), float(known.square().sum())
                bounds = mean_interval(len(known), *sums, *RANGES[measure])[1:]
                assert (row.low, row.high) == pytest.approx(bounds, abs=1e-4, rel=1e-3)
    assert {key[2] for key in rows} == {*POINTS, "read", "final", ""}
    assert any("registers" in key for key in rows) == (prefix > 1)
    if "layer_scale" not in OPTIONS[name]:
        for key, row in rows.items():
            if key[2] == "scale1":  # there is no LayerScale
                assert row.mean == rows[key[0], key[1], "attention", *key[3:]].mean


@pytest.mark.parametrize(
    ("values", "limits", "bounds"),
    [
        ([0.0, 0.0], (0, 1), (0.0, 0.988)),
        ([1.0, 1.0], (0, 1), (0.012, 1.0)),
        ([0.0] * 4, (0, 1), (0.0, 0.717)),
        ([1.0] * 4, (0, 1), (0.283, 1.0)),
        ([1.0, 1.0, 1.0, 0.0], (0, 1), (0.131, 0.984)),
        ([0.0, 0.0, 0.0, 0.172], (0, 1), (0.003, 0.368)),
        ([0.3, 0.3, 0.3], (0, 1), (0.3, 0.3)),
        ([1.0] * 1000, (0, 1), (0.996, 1.0)),
        ([0.98, 0.99], (-1, 1), (0.736, 0.999)),
        ([5.0, 95.0], (0, float("inf")), (0.0, 621.779)),
    ],
)
def test_intervals_stay_where_the_numbers_can_be(values, limits, bounds):
    sums = len(values), sum(values), sum(each**2 for each in values)
    mean, low, high = mean_interval(*sums, *limits)
    assert limits[0] <= low <= mean <= high <= limits[1]
    assert (low, high) == pytest.approx(bounds, abs=1e-3)


def test_intervals_of_shares_are_wilsons_and_of_little_spread_those_of_student():
    zeros_and_ones = np.repeat([0.0, 1.0], [70, 30])
    _, low, high = mean_interval(100, 30, 30, 0, 1)
    t = stats.t.ppf(0.975, 99)
    for bound in (low, high):  # 99: the variance of a sample has n - 1
        assert (0.3 - bound) ** 2 == pytest.approx(t**2 * bound * (1 - bound) / 99)
    for values in (0.4 + 0.1 * zeros_and_ones, 0.5 + 0.01 * zeros_and_ones):
        found = mean_interval(100, values.sum(), np.square(values).sum(), 0, 1)
        student = stats.t.interval(0.95, 99, values.mean(), stats.sem(values))
        assert found[1:] == pytest.approx(student, abs=2e-4)


@pytest.mark.parametrize("name", ["registers", "locality"])
def test_batches_and_the_order_of_images_change_nothing(name, images, objects):
    encoder = encoder_of(name)
    whole = rows_of(found_of(encoder, images, objects))
    order = torch.tensor([3, 0, 4, 2, 1])
    for more in ((images, objects, 2), (images[order], objects[order])):
        rows = rows_of(found_of(encoder, *more))
        assert list(rows) == list(whole)
        for key, row in whole.items():
            assert rows[key].mean == pytest.approx(row.mean, abs=2e-4, rel=1e-4), key
            assert rows[key].images == row.images


def test_one_image_has_no_interval_and_measuring_changes_no_feature(images, objects):
    encoder = encoder_of("specialized")
    with torch.no_grad():
        before = encoder(images)
        for row in rows_of(found_of(encoder, images[:1], objects[:1])).values():
            assert (row.low, row.high, row.images) == (None, None, 1)
        after = encoder(images)
    assert torch.equal(before.patches, after.patches)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in encoder.modules())


def test_arrays_are_means_over_images_of_all_batches(images):
    encoder = encoder_of("prompts")
    found = found_of(encoder, images, batch=2)
    with torch.no_grad(), record(encoder, "attn.weights") as weights:
        encoder(images)
    arrays = arrays_of(found, "prompt_mass")
    assert {(0, None, "cls"), (1, None, "cls")} <= set(arrays)
    per_prompt = weights[0][:, :, 1:, :9].mean((0, 1, 2)).tolist()
    assert arrays[0, None, "patches"] == pytest.approx(per_prompt, abs=1e-5)
    found = found_of(encoder_of("locality"), images, batch=2)
    maps = arrays_of(found, "bias_alpha")
    assert list(maps) == [(block, head, "patches") for block in (0, 1) for head in (0, 1)]
    row = rows_of(found)["bias_alpha", 1, "", 0, "patches"]
    assert np.asarray(maps[1, 0, "patches"]).shape == (4, 5)
    assert np.mean(maps[1, 0, "patches"]) == pytest.approx(row.mean, rel=1e-4)


def test_features_that_are_not_finite_are_refused(images):
    encoder = encoder_of()
    with torch.no_grad():
        encoder.blocks[1].mlp.fc2.bias.fill_(torch.nan)
    with refused("--weights"):
        MeasureEngine(encoder, 5).update(images)


def test_of_an_encoder_without_blocks_the_walk_is_measured(images, objects):
    own = LastStateRecorder(encoder_of())
    own.blocks = [None, None]  # of another class: they have no hooks
    found, plain = (rows_of(found_of(each, images, objects)) for each in (own, encoder_of()))
    assert ("cls_patch_cosine", 1, "output", None, "all") in found
    assert ("feature_rank", None, "final", None, "patches") in found
    for key, row in found.items():  # without hooks attention is fused
        assert row.mean == pytest.approx(plain[key].mean, rel=1e-4, abs=1e-5)
    assert {key[1] for key in rows_of(found_of(Pixels(8), images))} == {0, None}


def test_large_images_pass_a_few_at_a_time():
    engine = MeasureEngine(encoder_of(), 5)
    cpu = torch.device("cpu")
    assert engine.max_batch_size(32, cpu) > engine.max_batch_size(512, cpu) >= 1
