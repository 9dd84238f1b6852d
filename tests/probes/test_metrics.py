import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from vitlab.probes.metrics import (
    AccuracyCounts,
    IoUAccumulator,
    bootstrap_interval,
    bootstrap_scores,
)


def counted(pairs, classes):
    counting = IoUAccumulator(classes)
    for predicted, truth in pairs:
        counting.update(predicted, truth)
    return counting.overlaps()


@pytest.fixture
def pairs():
    generator = torch.Generator().manual_seed(0)
    sizes = [(5, 7), (8, 3), (6, 6)]
    predicted = [torch.randint(4, size, generator=generator) for size in sizes]
    truth = [torch.randint(4, size, generator=generator) for size in sizes]
    for mask in truth:
        mask[0] = 255
    return list(zip(predicted, truth, strict=True))


def test_miou_is_that_of_one_confusion_matrix_over_the_set(pairs):
    # class 4 is in neither truth nor prediction: torchmetrics is asked for four classes
    metric = MulticlassJaccardIndex(4, ignore_index=255)
    for predicted, truth in pairs:
        metric.update(predicted, truth)
    found = counted(pairs, 5)
    assert found.value == pytest.approx(100 * float(metric.compute()), abs=1e-5)
    assert found.iou()[4].isnan()
    for index, (predicted, truth) in enumerate(pairs):
        known = truth != 255
        assert torch.equal(found.truth[index], truth[known].bincount(minlength=5))
        assert torch.equal(found.predicted[index], predicted[known].bincount(minlength=5))


def test_drawn_sets_without_any_labeled_pixel_are_left_out_of_the_interval(pairs):
    void = (pairs[0][0], torch.full((5, 7), 255))
    alone = counted([pairs[0], *[void] * 4], 4)
    assert bootstrap_scores(5, alone.score).isnan().any()
    # all that have a score have that of the only labeled image
    assert bootstrap_interval(alone) == pytest.approx((alone.value, alone.value))


def test_the_interval_holds_the_score_and_follows_the_binomial():
    correct = AccuracyCounts(torch.arange(400) % 4 > 0)
    low, high = bootstrap_interval(correct)
    assert correct.value == 75
    # 1.96 standard errors of a share of 0.75 among 400
    assert low == pytest.approx(75 - 4.24, abs=0.6)
    assert high == pytest.approx(75 + 4.24, abs=0.6)
    assert bootstrap_interval(correct) == (low, high)
