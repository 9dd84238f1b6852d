from dataclasses import replace

import numpy as np
import pytest
import torch

from vitlab.data import ImageNet
from vitlab.encoders import Encoder, Pixels, TokenSequence, ViT
from vitlab.evaluation.protocols.image_knn import ImageKNN
from vitlab.probes import image_features


@pytest.fixture
def imagenet(drawn):
    return ImageNet(str(drawn / "imagenet"), max_unreadable=0)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return ViT("nano", 16, 64).eval()


def by_hand(train, test, k):
    """Vote as the paper says, one image after another."""
    keys = train.x.numpy() / np.linalg.norm(train.x.numpy(), axis=1, keepdims=True)
    right = []
    for x, y in zip(test.x.numpy(), test.y.tolist(), strict=True):
        cosine = keys @ (x / np.linalg.norm(x))
        votes: dict[int, float] = {}
        for index in np.argsort(-cosine)[:k]:
            label = int(train.y[index])
            votes[label] = votes.get(label, 0.0) + np.exp(cosine[index] / 0.07)
        right.append(max(votes, key=lambda label: votes[label]) == y)
    return 100 * np.mean(right)


@pytest.mark.parametrize("cached", [True, False])
def test_votes_are_those_by_hand(imagenet, encoder, job, tmp_path, cached):
    protocol = ImageKNN(3, (1, 5), size=64)
    protocol.check(encoder, imagenet)
    plan = job(cache=tmp_path / "cache" if cached else None)
    for _ in range(2):  # the second reads what the first kept
        found = protocol.run(encoder, imagenet, plan)
        train, test = (
            image_features(encoder, imagenet.classification_dataset(split, 64), plan.loading)
            for split in ("train", "val")
        )
        for k in (1, 3, 5):
            expected = by_hand(train, test, k)
            assert found.scores[f"top1/k {k}"] == pytest.approx(expected)
        assert found.headline == "top1"
        assert found.scores["top1"] == found.evidence.value == found.scores["top1/k 3"]
        assert (found.chosen, found.chosen_on) == ("", "")


def test_training_images_find_themselves(imagenet, job):
    train = imagenet.samples("train")
    # by another name, since images that are scored must not be learned from
    again = np.array([b"./" + name for name in train.images.tolist()])
    imagenet._samples["val"] = replace(train, images=again)
    assert ImageKNN(1, (1,), size=64).run(Pixels(16), imagenet, job()).scores["top1"] == 100


def test_memory_and_batch_do_not_change_the_score(imagenet, encoder, job):
    scores = [
        ImageKNN(3, (3,), size=64).run(encoder, imagenet, job(batch, memory=memory)).scores
        for batch, memory in ((1, 2**30), (7, 5000))
    ]
    assert scores[0] == scores[1]


class NoCls(Encoder):
    """Patches of color, and nothing for the image."""

    embed_dim, patch_size = 0, 16

    def walk(self, images):
        grid = (images.shape[2] // 16, images.shape[3] // 16)
        yield TokenSequence(images.new_zeros(len(images), 1 + grid[0] * grid[1], 0), grid)

    def forward(self, images):
        return next(iter(self.walk(images))).tokens()


def test_what_cannot_be_evaluated_is_refused(imagenet, encoder, colors):
    images = len(imagenet.samples("train"))
    with pytest.raises(ValueError, match=rf"use protocol.k {images} or less"):
        ImageKNN(images + 1).check(encoder, imagenet)
    with pytest.raises(ValueError, match="has no image labels"):
        ImageKNN(1, (1,), size=64).check(encoder, colors)
    with pytest.raises(ValueError, match=r"NoCls has no \[CLS\]"):
        ImageKNN(1, (1,), size=64).check(NoCls(), imagenet)
    with pytest.raises(ValueError, match="must be 1 or more"):
        ImageKNN(0)


def test_a_k_beyond_the_images_is_left_out_with_a_warning(imagenet, encoder, job):
    with pytest.warns(UserWarning, match="no score for k 100000"):
        found = ImageKNN(1, (1, 100_000), size=64).run(encoder, imagenet, job())
    assert set(found.scores) == {"top1", "top1/k 1"}
