import itertools

import pytest
import torch
import torch.nn.functional as F
from refusals import refused
from sklearn.metrics import confusion_matrix

from vitlab.data import normalize
from vitlab.encoders import Pixels
from vitlab.evaluation.evaluate import evaluate
from vitlab.evaluation.protocols.hummingbird import Hummingbird, Quirks, sample_patches
from vitlab.evaluation.square_transforms import HummingbirdCrop, SquareResize
from vitlab.probes.metrics import PerImageConfusion, best_columns, matched_counts

COMPAT = Quirks(
    (0.5, 2.0), bicubic=False, void="background", blue_std=0.255, hungarian_matching=True
)


def by_hand(encoder, data, protocol, memory_patches):
    """Compare every patch of the test images with every one of the memory."""
    quirks, keys, labels = protocol.quirks, [], []
    blue = torch.tensor([1.0, 1.0, 0.225 / quirks.blue_std]).view(3, 1, 1)
    view = HummingbirdCrop(64, quirks.scale, bicubic=quirks.bicubic)
    images = data.segmentation_dataset("train", view)
    for number, index in itertools.product(range(protocol.augmentation_epochs), range(len(images))):
        image, mask = images[number, index]
        cells = mask.view(4, 16, 4, 16).transpose(1, 2).reshape(16, 256)
        if quirks.void == "background":
            cells = cells.where(cells != 255, 0)
        counts = torch.stack([(cells == c).sum(1) for c in range(3)], 1)
        chosen = sample_patches(counts, (0, number, index), memory_patches)
        keys.append(encoder(normalize(image[None]) * blue).patches[0, chosen])
        labels.append(counts[chosen] / counts[chosen].sum(1, keepdim=True))
    keys, labels = F.normalize(torch.cat(keys), dim=1), torch.cat(labels)
    test = data.segmentation_dataset("val", SquareResize(64, quirks.bicubic))
    for image, mask in (test[index] for index in range(len(test))):
        queries = F.normalize(encoder(normalize(image[None]) * blue).patches[0], dim=1)
        cosines, best = (queries @ keys.T).topk(protocol.num_neighbors)
        soft = ((cosines / protocol.temperature).softmax(1)[..., None] * labels[best]).sum(1)
        grid = soft.T.reshape(1, 3, 4, 4)
        yield F.interpolate(grid, (64, 64), mode="bilinear")[0].argmax(0), mask


@pytest.mark.parametrize("quirks", [Quirks(), COMPAT])
@pytest.mark.parametrize(("memory", "work"), [(0, (4, 2**30)), (60, (1, 20_000))])
def test_scores_are_those_of_a_loop_over_patches(make, context, encoder, quirks, memory, work):
    data = make(void=20)
    protocol = Hummingbird(64, memory, 2, 5, quirks=quirks)
    found = evaluate(encoder, protocol, data, context(work[0], memory=work[1]))
    maps = by_hand(encoder, data, protocol, memory // 12 if memory else 16)
    predicted, truth = (torch.stack(each).flatten() for each in zip(*maps, strict=True))
    confusion = confusion_matrix(truth[truth < 3], predicted[truth < 3], labels=range(3))
    if quirks.hungarian_matching:
        confusion = confusion[:, best_columns(torch.from_numpy(confusion))]
    both = confusion.diagonal()
    iou = both / (confusion.sum(0) + confusion.sum(1) - both)
    assert found.scores["miou"] == pytest.approx(100 * iou.mean(), abs=0.05)
    assert found.scores["miou/every class"] == pytest.approx(found.scores["miou"])
    assert found.counts.value == found.scores["miou"]
    assert [tuple(each.shape) for each in found.predictions] == [(64, 64)] * 4


def test_rare_classes_are_chosen_first():
    counts = torch.zeros(100, 3, dtype=torch.long)
    counts[:, 0] = 9
    counts[90:98] = torch.tensor([0, 9, 0])
    counts[98:] = 0  # no class at all
    chosen = sample_patches(counts, (0, 0), 20)
    assert len(set(chosen.tolist()) & set(range(90, 98))) >= 7
    assert len(sample_patches(counts, (0, 0), 100)) == 98
    assert not {98, 99} & set(sample_patches(counts, (0, 0), 100).tolist())
    assert torch.equal(chosen, sample_patches(counts, (0, 0), 20))
    assert not torch.equal(chosen, sample_patches(counts, (0, 1), 20))


def test_renamed_classes_fit_the_truth_best():
    confusions = PerImageConfusion(3, 2, torch.device("cpu"))
    truth = torch.tensor([[0, 0, 1, 1, 255]], dtype=torch.uint8)
    confusions.update(torch.tensor([[1, 1, 0, 2, 2]]), truth)
    matrices = confusions.matrices()
    assert matched_counts(matrices, torch.arange(2)).value == 0
    columns = best_columns(matrices.sum(0))
    assert matched_counts(matrices, columns).iou().tolist() == [100, 50]
    assert columns[0] == 1


@pytest.mark.parametrize("bicubic", [True, False])
def test_crops_show_image_and_mask_alike_and_are_those_of_their_seed(colors, bicubic):
    image, mask = colors.segmentation_dataset("train", SquareResize(64))[0]
    pixels, labels = image.permute(1, 2, 0).numpy(), mask.numpy()
    part, truth = HummingbirdCrop(64, (0.5, 1.0), jitter=0.0, bicubic=bicubic)(pixels, labels, 3)
    assert (part.argmax(0) == truth).float().mean() > 0.95
    first, again, other, plain = (
        HummingbirdCrop(64, (0.5, 2.0), chance=chance, bicubic=bicubic)(pixels, labels, seed).image
        for chance, seed in ((1.0, 3), (1.0, 3), (1.0, 4), (0.0, 3))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, plain)


def test_the_edge_is_the_largest_multiple_of_the_patch():
    assert Hummingbird().edge(Pixels(16)) == Hummingbird().edge(Pixels(8)) == 512
    assert Hummingbird().edge(Pixels(14)) == 504
    assert Hummingbird().patches(Pixels(16), 10_582) == 483


@pytest.mark.parametrize(
    ("name", "value"),
    [("memory_size", 5), ("num_neighbors", 300), ("size", 8), ("temperature", 0)],
)
def test_what_cannot_be_evaluated_is_refused(colors, context, encoder, name, value):
    with refused(f"protocol.{name}"):
        protocol = Hummingbird(**{"size": 64, "memory_size": 0, name: value})
        evaluate(encoder, protocol, colors, context())


def test_crops_without_an_area_are_refused(colors, context, encoder):
    with refused("scale"):
        evaluate(encoder, Hummingbird(64, quirks=Quirks((0.0, 1.0))), colors, context())
