import pytest

from vitlab.evaluation.references import read_references

IMAGES = {"ImageNet": 50000, "VOC2012": 1449, "ADE20K": 2000, "Cityscapes": 500}


def test_each_number_is_there_once_with_its_source():
    published = read_references()
    assert len(published) > 100
    same = ["protocol", "dataset", "model", "conditions", "source"]
    assert not published.duplicated(same).any()
    assert published.percent.between(0, 100).all()
    assert (published.images == published.dataset.map(IMAGES)).all()
    assert published.source.all()


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
def test_numbers_are_those_of_the_papers(protocol, dataset, model, percent):
    published = read_references()
    fits = (published.protocol == protocol) & (published.dataset == dataset)
    (found,) = published[fits & (published.model == model)].percent
    assert found == percent
