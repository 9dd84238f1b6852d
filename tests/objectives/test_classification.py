"""Identities first: what is switched off equals the plain loss; then formulas, then bad input."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from refusals import refused
from timm.layers import DropPath

from vitlab.data.batch import Batch
from vitlab.encoders import Pixels, ViT
from vitlab.objectives import Classification, Mixup, RandomErasing
from vitlab.objectives.classification import classification_loss
from vitlab.optim.schedules import Progress

START = Progress(0, 10, 1, 4)
OFF = {"mixup": Mixup(0.0, 0.0), "random_erasing": RandomErasing(0.0), "ema_decay": 0.0}


@pytest.fixture
def model():
    def build(**options):
        torch.manual_seed(0)
        return Classification(ViT("nano", 8, 32), 5, **options)

    return build


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_without_mixing_it_is_the_plain_cross_entropy(model, labeled, smoothing):
    objective = model(label_smoothing=smoothing, **OFF)
    state = torch.get_rng_state()
    value = objective.loss(labeled, START).value
    assert torch.equal(torch.get_rng_state(), state)  # nothing was drawn
    logits = objective.model(labeled.views[0][0])
    expected = F.cross_entropy(logits, labeled.labels, label_smoothing=smoothing)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)


def test_images_and_labels_are_mixed_with_one_share(labeled):
    images, labels = labeled.views[0][0], labeled.labels
    torch.manual_seed(3)
    mixed, targets = Mixup(1.0, 0.0)(images, labels, 5, 0.0)
    share = targets[0, 0]  # image 0 is of class 0 and image 3, its partner, of class 3
    assert 0 < share < 1
    assert targets[0, 3] == pytest.approx(1 - share.item())
    assert torch.allclose(mixed, share * images + (1 - share) * images.flip(0), atol=1e-6)
    mixed, targets = Mixup(0.0, 1.0)(images, labels, 5, 0.0)  # CutMix: the share of the area
    foreign = (mixed[0] != images[0]).all(0)
    assert torch.equal(mixed[0][:, foreign], images[3][:, foreign])
    assert targets[0, 3].item() == pytest.approx(foreign.float().mean().item())


def test_what_is_drawn_depends_on_torchs_stream_alone_and_images_stay_as_they_are(labeled):
    images, found = labeled.views[0][0], []
    before = images.clone()
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(7)
        erased = RandomErasing(1.0)(images)
        found.append((erased, *Mixup()(erased, labeled.labels, 5, 0.1)))
    assert all(map(torch.equal, *found))
    assert torch.equal(images, before)
    changed = (erased != images).any(1).float().mean((1, 2))
    assert ((changed > 0.015) & (changed < 0.4)).all()


def test_binary_cross_entropy_counts_every_positive_target_as_present(model, labeled):
    objective = model(loss="binary_cross_entropy", label_smoothing=0.0, **OFF)
    logits = objective.model(labeled.views[0][0])
    expected = F.binary_cross_entropy_with_logits(logits, F.one_hot(labeled.labels, 5).float())
    assert objective.loss(labeled, START).value.item() == pytest.approx(expected.item(), rel=1e-6)
    mixed = torch.tensor([[0.3, 0.7, 0.0, 0.0, 0.0]])
    present = torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0]])
    value = classification_loss(logits[:1], mixed, "binary_cross_entropy")
    assert torch.equal(value, F.binary_cross_entropy_with_logits(logits[:1], present))


def test_the_average_follows_the_weights_and_is_scored_beside_them(model, labeled):
    objective = model(ema_decay=0.9)
    start = [p.clone() for p in objective.ema.parameters()]
    with torch.no_grad():
        for p in objective.model.parameters():
            p.add_(1.0)
    objective.after_step(START)
    for before, after in zip(start, objective.ema.parameters(), strict=True):
        assert torch.allclose(after, before + 0.1, atol=1e-6)
        assert not after.requires_grad
    assert objective.encoder is objective.model.encoder
    assert list(objective.classifiers()) == ["val", "ema"]
    assert list(model(ema_decay=0.0).classifiers()) == ["val"]
    modules = model(drop_path=0.05).encoder.modules()  # the same in all blocks
    assert {m.drop_prob for m in modules if isinstance(m, DropPath)} == {0.05}


def test_settings_out_of_range_or_without_effect_are_refused(model):
    for field, make in (
        ("label_smoothing", lambda: model(loss="binary_cross_entropy")),
        ("label_smoothing", lambda: model(label_smoothing=1.0)),
        ("ema_decay", lambda: model(ema_decay=1.0)),
        ("drop_path", lambda: model(drop_path=1.0)),
        ("drop_path", lambda: Classification(ViT("nano", 8, 32, drop_path=0.1), 5, drop_path=0.05)),
        ("drop_path", lambda: Classification(Pixels(8), 5, drop_path=0.05)),
        ("mixup.mixup_alpha", lambda: Mixup(mixup_alpha=-1.0)),
        ("mixup.switch_prob", lambda: Mixup(switch_prob=2.0)),
        ("random_erasing.prob", lambda: RandomErasing(-0.1)),
    ):
        with refused(f"model.objective.{field}"):
            make()
    with refused("data"):
        Classification(ViT("nano", 8, 32), 1)


def test_batches_that_do_not_suit_are_refused(model, labeled):
    for labels in (None, torch.tensor([0, 1, 2, 5]), torch.tensor([0, -1, 2, 3])):
        with refused("data"):
            model().loss(Batch(labeled.views, labels), START)
    odd = Batch([labeled.views[0][:, :3]], labeled.labels[:3])
    for use in (lambda: model().loss(odd, START), lambda: model().check_micro_batch(3)):
        with refused("data.micro_batch_size"):
            use()
    model(**OFF).check_micro_batch(3)
    model(**OFF).loss(odd, START)
    with refused("data.transform"):
        model().check_crops([(2, 32), (8, 16)])
    with pytest.raises(ValueError, match="multiple of patch 8"):
        model().check_crops([(1, 30)])
    model().check_crops([(1, 32)])
