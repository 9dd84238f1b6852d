import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression as SklearnLogistic
from sklearn.metrics import jaccard_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler as SklearnScaler

from vitlab.data import SegmentationSquare
from vitlab.encoders import Pixels, ViT
from vitlab.evaluation.features import Source, patch_table
from vitlab.evaluation.protocols.dense_knn import DenseKNN
from vitlab.evaluation.protocols.dense_logistic import DenseLogistic
from vitlab.probes.layer_selection import LayerSelection
from vitlab.probes.patch_dataset import PatchDataset, StandardScaler, patchify, unpatchify


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return ViT("nano", 16, 64).eval()


@pytest.mark.parametrize(
    "protocol", [DenseKNN((1, 3), size=64), DenseLogistic(-2, 4, 3, 50, size=64)]
)
def test_colors_that_are_classes_are_all_found(colors, job, protocol):
    protocol.check(Pixels(16), colors)
    found = protocol.run(Pixels(16), colors, job())
    assert found.scores == {"miou": 100.0, "accuracy": 100.0}
    assert found.evidence.value == 100.0
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
        with patch_table(source, split, work) as table:
            pixels = torch.stack([patchify(mask, table.grid) for mask in table.masks])
            found.append((table.x.flatten(0, 1).numpy(), pixels.flatten(0, 1).numpy()))
    return found


@pytest.mark.parametrize(("metric", "theirs"), [("cosine", "cosine"), ("l2", "euclidean")])
@pytest.mark.parametrize("transfer", ["pixels", "patches"])
def test_neighbors_vote_as_in_scikit_learn(make, job, encoder, metric, theirs, transfer):
    data = make(void=20)  # patches of the second row have a few void pixels
    protocol = DenseKNN((3,), (metric,), transfer, size=64)
    found = protocol.run(encoder, data, job())
    assert found.tried == {}
    (x, train), (queries, test) = tables(encoder, data, job())
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


def test_logistic_regression_is_that_of_scikit_learn(make, job, encoder):
    data = make(void=4)
    found = DenseLogistic(0, 0, 1, size=64).run(encoder, data, job())
    (x, train), (queries, test) = tables(encoder, data, job())
    scale = SklearnScaler().fit(x)
    most = np.array([np.bincount(row, minlength=256).argmax() for row in train])
    peer = SklearnLogistic(C=1.0, tol=1e-8, max_iter=1000).fit(scale.transform(x), most)
    predicted = np.repeat(peer.predict(scale.transform(queries))[:, None], 256, 1)
    known = test < 3
    expected = jaccard_score(test[known], predicted[known], labels=range(3), average="macro")
    assert found.scores["miou"] == pytest.approx(100 * expected, abs=1e-4)


@pytest.mark.parametrize("protocol", [DenseKNN, DenseLogistic])
def test_batches_and_memory_do_not_change_the_score(make, job, encoder, protocol):
    data = make(void=20)
    scores = []
    for batch, memory in ((1, 2**30), (4, 2**18), (2, 2**21)):
        found = protocol(size=64).run(encoder, data, job(batch, memory=memory))
        scores.append((found.scores["miou"], found.chosen))
    assert scores[0] == scores[1] == scores[2]


def test_standardizing_is_scikit_learns():
    x = torch.randn(4, 9, 5, generator=torch.Generator().manual_seed(0)) * 3 + 100
    x[..., 2] = 0.1  # constant
    standard = StandardScaler.fit(x, torch.tensor([0, 3]), memory=10)
    scale = SklearnScaler().fit(x[[0, 3]].flatten(0, 1).double().numpy())
    assert np.allclose(standard.mean, scale.mean_, rtol=1e-6)
    assert np.allclose(standard.std, scale.scale_, rtol=1e-5)


def test_patches_of_masks_go_back_where_they_were():
    mask = torch.arange(64, dtype=torch.uint8).view(8, 8)
    assert torch.equal(unpatchify(patchify(mask, (2, 2)), (2, 2), 8), mask)
    assert unpatchify(torch.tensor([[1], [2], [3], [4]]), (2, 2), 4).tolist() == [
        [1, 1, 2, 2],
        [1, 1, 2, 2],
        [3, 3, 4, 4],
        [3, 3, 4, 4],
    ]


def test_a_bank_of_void_is_refused():
    masks = torch.full((2, 8, 8), 255, dtype=torch.uint8)
    standard = StandardScaler(torch.zeros(3), torch.ones(3))
    with pytest.raises(ValueError, match="nothing to learn from"):
        PatchDataset(torch.zeros(2, 4, 3), masks, torch.arange(2), standard, 2)


def test_what_cannot_be_evaluated_is_refused(make, job, encoder):
    data = make(train=1)
    with pytest.raises(ValueError, match="give 2 or more, or one setting only"):
        DenseKNN(size=64).check(encoder, data)
    with pytest.raises(ValueError, match="30 neighbors are asked of 16 training features"):
        DenseKNN((30,), ("l2",), size=64).run(encoder, data, job())
    with pytest.raises(ValueError, match="not a multiple of patch 16"):
        DenseKNN(size=60).check(encoder, data)
    with pytest.raises(ValueError, match="use 0 to 3"):
        DenseKNN(size=64, reading=LayerSelection((7,))).check(encoder, data)
    with pytest.raises(ValueError, match="does not hold the votes of one patch"):
        DenseKNN((1,), ("l2",), size=64).run(encoder, data, job(memory=5000))


@pytest.mark.parametrize("options", [{"ks": ()}, {"ks": (3, 1)}, {"ks": (0,)}, {"held_out": 1.0}])
def test_impossible_settings_are_refused(options):
    with pytest.raises(ValueError, match=r"no rising counts|no share of images"):
        DenseKNN(**options)


def test_an_impossible_range_of_c_is_refused():
    with pytest.raises(ValueError, match="not above high"):
        DenseLogistic(2.0, 1.0)
