import numpy as np
import pytest
import torch
import torch.nn.functional as F
from refusals import refused

from vitlab.data import normalize
from vitlab.encoders import Pixels
from vitlab.evaluation.evaluate import evaluate
from vitlab.evaluation.protocols.hummingbird import (
    Hummingbird,
    Quirks,
    sample_patches,
    soft_labels,
)
from vitlab.evaluation.square_transforms import HummingbirdCrop, SquareResize
from vitlab.probes.metrics import (
    IoUAccumulator,
    PerImageConfusion,
    best_columns,
    matched_counts,
)
from vitlab.probes.neighbors import Neighbors

COMPAT = Quirks(
    (0.5, 2.0), bicubic=False, void="background", blue_std=0.255, hungarian_matching=True
)


def by_hand(encoder, data, protocol, memory_patches):
    """Go through every patch of the memory and of the test images in turn."""
    quirks, keys, labels = protocol.quirks, [], []
    blue = torch.tensor([1.0, 1.0, 0.225 / quirks.blue_std]).view(3, 1, 1)
    for number in range(protocol.augmentation_epochs):
        view = HummingbirdCrop(64, quirks.scale, bicubic=quirks.bicubic)
        images = data.segmentation_dataset("train", view)
        for index in range(len(images)):
            image, mask = images[number, index]
            patches = encoder(normalize(image[None]) * blue).patches[0]
            cells = mask.view(4, 16, 4, 16).transpose(1, 2).reshape(16, 256)
            counts = torch.stack([(cells == c).sum(1) for c in range(3)], 1)
            if quirks.void == "background":
                counts[:, 0] += (cells == 255).sum(1)
            for patch in sample_patches(counts, (0, number, index), memory_patches).tolist():
                keys.append(F.normalize(patches[patch], dim=0))
                labels.append(counts[patch] / counts[patch].sum())
    maps = []
    test = data.segmentation_dataset("val", SquareResize(64, quirks.bicubic))
    for image, mask in (test[index] for index in range(len(test))):
        soft = []
        for query in F.normalize(encoder(normalize(image[None]) * blue).patches[0], dim=1):
            cosine = torch.stack([query @ key for key in keys])
            best = cosine.argsort(descending=True)[: protocol.num_neighbors]
            weights = (cosine[best] / protocol.temperature).softmax(0)
            soft.append(sum(w * labels[i] for w, i in zip(weights, best.tolist(), strict=True)))
        grid = torch.stack(soft).T.reshape(1, 3, 4, 4)
        maps.append((F.interpolate(grid, (64, 64), mode="bilinear")[0].argmax(0), mask))
    return maps


@pytest.mark.parametrize("quirks", [Quirks(), COMPAT])
@pytest.mark.parametrize(("memory", "work"), [(0, (4, 2**30)), (60, (1, 20_000))])
def test_scores_are_those_of_a_loop_over_patches(make, context, encoder, quirks, memory, work):
    data = make(void=20)
    protocol = Hummingbird(64, memory, 2, 5, quirks=quirks)
    found = evaluate(encoder, protocol, data, context(work[0], memory=work[1]))
    maps = by_hand(encoder, data, protocol, memory // 12 if memory else 16)
    counting, names = IoUAccumulator(3), torch.arange(3)
    if quirks.hungarian_matching:
        confusion = torch.zeros(3, 3, dtype=torch.long)
        for predicted, mask in maps:
            for truth in range(3):
                for column in range(3):
                    confusion[truth, column] += ((mask == truth) & (predicted == column)).sum()
        names = best_columns(confusion).argsort()
    for predicted, mask in maps:
        counting.update(names[predicted], mask)
    assert found.scores["miou"] == pytest.approx(counting.overlaps().value, abs=0.05)
    assert found.scores["miou/every class"] == pytest.approx(found.scores["miou"])
    assert found.counts.value == found.scores["miou"]


def test_colors_that_are_classes_are_all_found(colors, context):
    found = Hummingbird(64, 0, 1, 1, quirks=Quirks((1.0, 1.0))).run(Pixels(64), colors, context())
    assert 0 < found.scores["miou"] < 100  # one patch for an image: nothing to be told
    colors_by_cell = Hummingbird(64, 0, 1, 1).run(Pixels(8), colors, context())
    # labels are enlarged smoothly, so borders are not exact
    assert colors_by_cell.scores["miou"] > 75
    assert len(colors_by_cell.predictions) == 4
    assert colors_by_cell.predictions[0].shape == (64, 64)


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


def test_reading_out_weighs_shares_by_similarity():
    neighbors = Neighbors(torch.tensor([[1, 0]]), torch.tensor([[0.9, 0.88]]))
    counts = torch.tensor([[4, 0], [1, 3]], dtype=torch.int16)
    weight = np.exp(1) / (1 + np.exp(1))  # a difference of one temperature
    expected = weight * np.array([0.25, 0.75]) + (1 - weight) * np.array([1, 0])
    assert soft_labels(neighbors, counts, 0.02)[0].tolist() == pytest.approx(expected)


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
    ("changes", "field"),
    [
        ({"memory_size": 5}, "protocol.memory_size"),
        ({"num_neighbors": 300}, "protocol.num_neighbors"),
        ({"size": 8}, "protocol.size"),
        ({"temperature": 0}, "protocol.temperature"),
        ({"quirks": Quirks(scale=(0.0, 1.0))}, "scale"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(colors, context, encoder, changes, field):
    with refused(field):
        protocol = Hummingbird(**{"size": 64, "memory_size": 0, **changes})
        evaluate(encoder, protocol, colors, context())
