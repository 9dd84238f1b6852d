"""Global batches: the same samples on any hardware, in an order of seed and epoch."""

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused

from vitlab.data import BatchLayout, DataError, GlobalBatchSampler
from vitlab.data.sampler import split_global_batch


def global_batches(samples, batch_size, world, accumulate, seed, epoch, repeats=1):
    """Samples of each optimizer step, gathered from all ranks."""
    ranks = []
    for rank in range(world):
        batches = GlobalBatchSampler(samples, batch_size, world, rank, accumulate, seed, repeats)
        batches.set_epoch(epoch)
        micro_batches = list(batches)
        assert len(micro_batches) == len(batches)
        assert {place[0] for place in chain(*micro_batches)} == {epoch}
        ranks.append([[place[1:] for place in micro] for micro in micro_batches])
    steps = []
    for first in range(0, len(ranks[0]), accumulate):
        parts = [rank[first + a] for rank in ranks for a in range(accumulate)]
        assert {len(part) for part in parts} == {batch_size // (world * accumulate)}
        steps.append(sorted(chain(*parts)))
    return steps


@given(*(st.integers(1, 4) for _ in range(3)), st.integers(0, 60), *[st.integers(0, 3)] * 3)
def test_a_global_batch_is_the_same_set_on_any_hardware(
    world, accumulate, per_device, extra, seed, epoch, more
):
    batch_size = world * accumulate * per_device
    samples = batch_size + extra
    steps = global_batches(samples, batch_size, world, accumulate, seed, epoch, more + 1)
    assert steps == global_batches(samples, batch_size, 1, 1, seed, epoch, more + 1)
    seen = list(chain(*steps))
    assert len(seen) == len(set(seen)) == samples // batch_size * batch_size
    assert {place[0] for place in seen} <= set(range(samples))


def test_epochs_and_seeds_have_different_orders_and_copies_of_a_sample_lie_together():
    orders = [
        global_batches(64, 8, 1, 1, seed, epoch, repeats=2) for seed in (0, 1) for epoch in (0, 1)
    ]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])
    steps = list(GlobalBatchSampler(40, 12, repeats=3, seed=1))
    assert len(steps) == 40 // 12  # as many as without
    for step in steps:
        indices = [index for _, index, _ in step]
        assert [copy for _, _, copy in step] == [0, 1, 2] * 4
        assert indices[::3] == indices[1::3] == indices[2::3]
        assert len({*indices}) == 4


@pytest.mark.parametrize(
    ("given", "expected"),
    [((512, 4), (128, 1)), ((512, 1, 100), (64, 8)), ((96, 2, 17), (16, 3)), ((7, 1, 3), (1, 7))],
)
def test_a_batch_is_split_into_the_fewest_micro_batches(given, expected):
    assert split_global_batch(*given) == BatchLayout(*expected)


def test_batches_that_do_not_fit_are_refused():
    for split, sizes in (
        (GlobalBatchSampler, (3, 4)),
        (GlobalBatchSampler, (30, 4, 3)),
        (split_global_batch, (512, 3)),
        (split_global_batch, (2, 4)),
    ):
        with refused("data.global_batch_size", DataError):
            split(*sizes)
