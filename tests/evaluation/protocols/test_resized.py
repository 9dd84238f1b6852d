import numpy as np
import pytest
import torch
from refusals import refused
from sklearn.linear_model import LogisticRegression as SklearnLogistic
from sklearn.metrics import jaccard_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler as SklearnScaler

from vitlab.data import SegmentationSquare
from vitlab.encoders import Pixels
from vitlab.evaluation.features import Source, patch_table
from vitlab.evaluation.protocols.dense_knn import DenseKNN
from vitlab.evaluation.protocols.dense_logistic import DenseLogistic
from vitlab.probes.layer_selection import LayerSelection
from vitlab.probes.patch_dataset import patchify


@pytest.mark.parametrize(
    "protocol", [DenseKNN((1, 3), size=64), DenseLogistic(-2, 4, 3, 50, size=64)]
)
def test_colors_that_are_classes_are_all_found(colors, context, protocol):
    protocol.check(Pixels(16), colors)
    found = protocol.run(Pixels(16), colors, context())
    assert found.scores == {"miou": 100.0, "accuracy": 100.0}
    assert found.counts.value == 100.0
    assert found.chosen_on == "held out"
    assert found.chosen in found.tried
    image, mask = colors.segmentation_dataset("val", SegmentationSquare(64))[0]
    assert image.shape == (3, 64, 64)
    assert torch.equal(found.predictions[0], mask)


def tables(encoder, data, work):
    """Read features and masks as plain arrays: rows of patches, rows of their pixels."""
    source = Source(encoder, data, LayerSelection(), 64)
    found = []
    for split in ("train", "val"):
        table = patch_table(source, split, work)
        pixels = torch.stack([patchify(mask, table.grid) for mask in table.masks])
        found.append((table.x.flatten(0, 1).numpy(), pixels.flatten(0, 1).numpy()))
    return found


@pytest.mark.parametrize(("metric", "theirs"), [("cosine", "cosine"), ("l2", "euclidean")])
@pytest.mark.parametrize("transfer", ["pixels", "patches"])
def test_neighbors_vote_as_in_scikit_learn(make, context, encoder, metric, theirs, transfer):
    data = make(void=20)  # patches of the second row have a few void pixels
    protocol = DenseKNN((3,), (metric,), transfer, size=64)
    found = protocol.run(encoder, data, context())
    assert found.tried == {}
    (x, train), (queries, test) = tables(encoder, data, context())
    scale = SklearnScaler().fit(x)
    most = np.array([np.bincount(row, minlength=256).argmax() for row in train])
    bank = scale.transform(x)[most < 3]
    targets = np.where(train == 255, 3, train)[most < 3]
    if transfer == "patches":
        targets = most[most < 3]
    peer = KNeighborsClassifier(3, algorithm="brute", metric=theirs).fit(bank, targets)
    predicted = peer.predict(scale.transform(queries))
    predicted = np.broadcast_to(predicted.reshape(len(test), -1), test.shape)
    known = test < 3
    expected = jaccard_score(test[known], predicted[known], labels=range(3), average="macro")
    assert found.scores["miou"] == pytest.approx(100 * expected, abs=1e-4)
    assert found.scores["accuracy"] == pytest.approx(
        100 * (test == predicted)[known].mean(), abs=1e-4
    )


def test_logistic_regression_is_that_of_scikit_learn(make, context, encoder):
    data = make(void=4)
    found = DenseLogistic(0, 0, 1, size=64).run(encoder, data, context())
    (x, train), (queries, test) = tables(encoder, data, context())
    scale = SklearnScaler().fit(x)
    most = np.array([np.bincount(row, minlength=256).argmax() for row in train])
    peer = SklearnLogistic(C=1.0, tol=1e-8, max_iter=1000).fit(scale.transform(x), most)
    predicted = np.repeat(peer.predict(scale.transform(queries))[:, None], 256, 1)
    known = test < 3
    expected = jaccard_score(test[known], predicted[known], labels=range(3), average="macro")
    assert found.scores["miou"] == pytest.approx(100 * expected, abs=1e-4)


@pytest.mark.parametrize("protocol", [DenseKNN, DenseLogistic])
def test_batches_and_memory_do_not_change_the_score(make, context, encoder, protocol):
    data = make(void=20)
    scores = []
    for batch, memory in ((1, 2**30), (4, 2**18), (2, 2**21)):
        found = protocol(size=64).run(encoder, data, context(batch, memory=memory))
        scores.append((found.scores["miou"], found.chosen))
    assert scores[0] == scores[1] == scores[2]


def test_what_cannot_be_evaluated_is_refused(make, context, encoder):
    data = make(train=1)
    with refused("data.train_split"):
        DenseKNN(size=64).check(encoder, data)
    with refused(kind=ValueError):
        DenseKNN((30,), ("l2",), size=64).run(encoder, data, context())
    with refused(kind=ValueError):
        DenseKNN(size=60).check(encoder, data)
    with refused(kind=ValueError):
        DenseKNN(size=64, layer_selection=LayerSelection((7,))).check(encoder, data)
    with refused("--memory"):
        DenseKNN((1,), ("l2",), size=64).run(encoder, data, context(memory=5000))
    for ks in ((), (3, 1), (0,)):
        with refused("protocol.ks"):
            DenseKNN(ks)
    with refused("protocol.holdout_fraction"):
        DenseKNN(holdout_fraction=1.0)
    with refused("protocol.log10_c_min"):
        DenseLogistic(2.0, 1.0)
