from collections import Counter
from dataclasses import replace

import pytest

from vitlab.evaluation.references import PUBLISHED, read_references

IMAGES = {"ImageNet": 50000, "VOC2012": 1449, "ADE20K": 2000, "Cityscapes": 500}


@pytest.fixture(scope="module")
def published():
    return read_references()


def test_each_number_is_there_once_with_its_source(published):
    assert len(published) > 100
    count = Counter(
        (each.protocol, each.dataset, each.model, each.conditions, each.source)
        for each in published
    )
    assert max(count.values()) == 1
    for each in published:
        assert 0 < each.percent < 100
        assert each.images == IMAGES[each.dataset]
        assert each.source


@pytest.mark.parametrize(
    ("protocol", "dataset", "model", "percent"),
    [
        ("knn", "ImageNet", "DINO ViT-S/16, 800 epochs", 74.5),
        ("linear-grid", "ImageNet", "DINOv2 ViT-g/14", 86.5),
        ("dinov2-linear", "ADE20K", "DINO ViT-B/8", 31.8),
        ("dinov2-linear", "VOC2012", "DINO ViT-B/16", 62.9),
        ("dinov2-linear-ms", "Cityscapes", "DINOv2 ViT-L/14", 80.9),
        ("dinov3-linear", "Cityscapes", "DINOv3 7B", 81.1),
        ("ibot-linear", "ADE20K", "iBOT ViT-B/16", 38.3),
        ("capi-logreg", "ADE20K", "CAPI ViT-L/14, Places205", 39.1),
    ],
)
def test_numbers_are_those_of_the_papers(published, protocol, dataset, model, percent):
    (found,) = [
        each
        for each in published
        if (each.protocol, each.dataset, each.model) == (protocol, dataset, model)
    ]
    assert found.percent == percent


def test_only_the_same_protocol_unchanged_on_the_whole_set_fits(results, published):
    (reference,) = [each for each in published if each.learned == 1464 and "DeiT" in each.model]
    result = results.result(results.overlaps())
    whole = replace(result.data, counts={"train": 1464, "val": 1449})
    assert reference.fits(replace(result, data=whole))
    assert not reference.fits(result)  # a subset
    assert not reference.fits(
        replace(result, data=replace(whole, counts={"train": 10582, "val": 1449}))
    )
    assert not reference.fits(replace(result, data=replace(whole, dataset="ADE20K")))
    changed = replace(result.protocol, changed={"steps": (1, 2)})
    assert not reference.fits(replace(result, data=whole, protocol=changed))
    other = replace(result.protocol, name="dinov3-linear")
    assert not reference.fits(replace(result, data=whole, protocol=other))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: [", "is not YAML"),
        ("a: 1", "no list"),
        ("- {protocol: knn}", "a group of published numbers has"),
        (PUBLISHED.read_text().replace("82.1", "high", 1), "could not convert"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(tmp_path, text, why):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ValueError, match=why):
        read_references(tmp_path / "x.yaml")


def test_a_missing_file_says_where_it_comes_from(tmp_path):
    with pytest.raises(ValueError, match="come with a clone"):
        read_references(tmp_path / "x.yaml")
