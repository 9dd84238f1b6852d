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
from vitlab.evaluation.evaluate import check
from vitlab.evaluation.protocols import DenseKNN, DenseLogistic
from vitlab.probes.layer_selection import LayerSelection
from vitlab.probes.patch_dataset import patchify


@pytest.mark.parametrize(
    "protocol", [DenseKNN((1, 3), size=64), DenseLogistic(-2, 4, 3, 50, size=64)]
)
def test_colors_that_are_classes_are_all_found(colors, context, protocol):
    check(Pixels(16), protocol, colors)
    found = protocol.run(Pixels(16), colors, context())
    assert found.scores == {"miou": 100.0, "miou/without void": 100.0, "accuracy": 100.0}
    assert found.counts.value == 100.0
    assert found.chosen_on == "held out"
    assert list(found.tried) == [name for name, _ in protocol.settings]
    assert found.tried[found.chosen] == max(found.tried.values())
    _, mask = colors.segmentation_dataset("val", SegmentationSquare(64))[0]
    assert torch.equal(found.predictions[0], mask)


@pytest.mark.parametrize(
    ("protocol", "peer"),
    [
        *(
            (DenseKNN((3,), (ours,), transfer, size=64), KNeighborsClassifier(3, metric=metric))
            for ours, metric in (("cosine", "cosine"), ("l2", "euclidean"))
            for transfer in ("pixels", "patches")
        ),
        (DenseLogistic(0, 0, 1, size=64), SklearnLogistic(C=1.0, tol=1e-8, max_iter=1000)),
    ],
    ids=["cosine pixels", "cosine patches", "l2 pixels", "l2 patches", "logistic"],
)
def test_scores_are_those_of_scikit_learn(make, context, encoder, protocol, peer):
    data = make(void=20)  # patches of the second row have a few void pixels
    found = protocol.run(encoder, data, context())
    assert found.tried == {}
    tables = []
    for split in ("train", "val"):  # rows of patches, rows of their pixels
        x, masks = protocol.table(encoder, data, split, context())
        pixels = torch.stack([patchify(mask, (4, 4)) for mask in masks])
        tables.append((x.flatten(0, 1).numpy(), pixels.flatten(0, 1).numpy()))
    (x, train), (queries, test) = tables
    scale = SklearnScaler().fit(x)
    most = np.array([np.bincount(row, minlength=256).argmax() for row in train])
    targets = most[most < 3]
    if isinstance(protocol, DenseKNN) and protocol.transfer == "pixels":
        targets = np.where(train == 255, 3, train)[most < 3]
    predicted = peer.fit(scale.transform(x)[most < 3], targets).predict(scale.transform(queries))
    predicted = np.broadcast_to(predicted.reshape(len(test), -1), test.shape)
    known = test < 3
    for name, labels in (("miou", None), ("miou/without void", range(3))):
        expected = jaccard_score(test[known], predicted[known], labels=labels, average="macro")
        assert found.scores[name] == pytest.approx(100 * expected, abs=1e-4)
    void = isinstance(protocol, DenseKNN) and protocol.transfer == "pixels"
    assert (found.scores["miou"] < found.scores["miou/without void"]) == void
    accuracy = 100 * (test == predicted)[known].mean()
    assert found.scores["accuracy"] == pytest.approx(accuracy, abs=1e-4)


@pytest.mark.parametrize("protocol", [DenseKNN, DenseLogistic])
def test_batches_and_memory_do_not_change_the_score(make, context, encoder, protocol):
    data = make(void=20)
    scores = []
    for batch, memory in ((1, 2**30), (4, 2**18), (2, 2**21)):
        found = protocol(size=64).run(encoder, data, context(batch, memory=memory))
        scores.append((found.scores["miou"], found.chosen))
    assert scores[0] == scores[1] == scores[2]


@pytest.mark.parametrize(
    ("kind", "changes", "field"),
    [
        (DenseKNN, {"size": 60}, "protocol.size"),
        (DenseKNN, {"layer_selection": LayerSelection((7,))}, "layers"),
        (DenseKNN, {}, "data.train_split"),  # one image
        (DenseKNN, {"ks": ()}, "protocol.ks"),
        (DenseKNN, {"ks": (3, 1)}, "protocol.ks"),
        (DenseKNN, {"ks": (0,)}, "protocol.ks"),
        (DenseKNN, {"holdout_fraction": 1.0}, "protocol.holdout_fraction"),
        (DenseLogistic, {"log10_c_min": 2.0, "log10_c_max": 1.0}, "protocol.log10_c_min"),
        (DenseLogistic, {"holdout_fraction": 0.0}, "protocol.holdout_fraction"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(make, encoder, kind, changes, field):
    with refused(field):
        check(encoder, kind(**{"size": 64, **changes}), make(train=1))


def test_too_few_patches_and_too_little_memory_are_refused(make, context, encoder):
    data = make(train=1)
    with refused(kind=ValueError):
        DenseKNN((30,), ("l2",), size=64).run(encoder, data, context())
    with refused("--memory"):
        DenseKNN((1,), ("l2",), size=64).run(encoder, data, context(memory=5000))
