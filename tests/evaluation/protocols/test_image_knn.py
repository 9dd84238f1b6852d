from dataclasses import replace

import numpy as np
import pytest
from refusals import refused
from sklearn.neighbors import KNeighborsClassifier

from vitlab.encoders import Encoder, Pixels, TokenSequence
from vitlab.evaluation.evaluate import check
from vitlab.evaluation.protocols import ImageKNN


def by_hand(train, test, k):
    """Vote as the paper says."""
    (x, y), (queries, truth) = train, test
    votes = KNeighborsClassifier(
        k, metric="cosine", weights=lambda distances: np.exp((1 - distances) / 0.07)
    ).fit(x.numpy(), y.numpy())
    return 100 * votes.score(queries.numpy(), truth.numpy())


def test_votes_are_those_by_hand_with_any_batch_memory_and_cache(
    imagenet, encoder, context, tmp_path
):
    protocol = ImageKNN(3, (1, 5), size=64)
    check(encoder, protocol, imagenet)
    train, test = (protocol.table(encoder, imagenet, s, context()) for s in ("train", "val"))
    cached = {"cache": tmp_path / "cache"}
    # the second reads what the first kept
    for work in (context(**cached), context(**cached), context(), context(7, memory=5000)):
        found = protocol.run(encoder, imagenet, work)
        for k in (1, 3, 5):
            assert found.scores[f"top1/k {k}"] == pytest.approx(by_hand(train, test, k))
        assert found.headline == "top1"
        assert found.scores["top1"] == found.counts.value == found.scores["top1/k 3"]
        assert (found.chosen, found.chosen_on) == ("", "")


def test_training_images_find_themselves(imagenet, context):
    train = imagenet.samples("train")
    # by another name, since images that are scored must not be learned from
    again = np.array([b"./" + name for name in train.images.tolist()])
    imagenet._samples["val"] = replace(train, images=again)
    assert ImageKNN(1, (1,), size=64).run(Pixels(16), imagenet, context()).scores["top1"] == 100


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
    for changes in ({"k": images + 1}, {"k": 0}, {"temperature": 0.0}, {"ks": (0,)}):
        with refused("protocol.k"):
            check(encoder, ImageKNN(**{"k": 1, "size": 64, **changes}), imagenet)
    with refused("protocol.features.cls"):
        check(NoCls(), ImageKNN(1, (1,), size=64), imagenet)
    with refused("--protocol"):
        check(encoder, ImageKNN(1, (1,), size=64), colors)


def test_a_k_beyond_the_images_is_left_out_with_a_warning(imagenet, encoder, context):
    with pytest.warns(UserWarning, match="no score for k 100000"):
        found = ImageKNN(1, (1, 100_000), size=64).run(encoder, imagenet, context())
    assert set(found.scores) == {"top1", "top1/k 1"}
