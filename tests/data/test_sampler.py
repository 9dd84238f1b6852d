from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitlab.data import BatchLayout, DataError, GlobalBatchSampler
from vitlab.data.sampler import split_global_batch


def global_batches(samples, batch_size, world, accumulate, seed, epoch):
    """Indices of each optimizer step, gathered from all ranks."""
    ranks = []
    for rank in range(world):
        batches = GlobalBatchSampler(samples, batch_size, world, rank, accumulate, seed)
        batches.set_epoch(epoch)
        micro_batches = list(batches)
        assert len(micro_batches) == len(batches)
        assert {e for e, _ in chain(*micro_batches)} == {epoch}
        ranks.append([[index for _, index in micro] for micro in micro_batches])
    steps = []
    for first in range(0, len(ranks[0]), accumulate):
        parts = [rank[first + a] for rank in ranks for a in range(accumulate)]
        assert {len(part) for part in parts} == {batch_size // (world * accumulate)}
        steps.append(sorted(chain(*parts)))
    return steps


@given(
    world=st.integers(1, 4),
    accumulate=st.integers(1, 4),
    per_device=st.integers(1, 4),
    extra=st.integers(0, 60),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 3),
)
def test_a_global_batch_is_the_same_set_on_any_hardware(
    world, accumulate, per_device, extra, seed, epoch
):
    batch_size = world * accumulate * per_device
    samples = batch_size + extra
    steps = global_batches(samples, batch_size, world, accumulate, seed, epoch)
    assert steps == global_batches(samples, batch_size, 1, 1, seed, epoch)
    seen = list(chain(*steps))
    assert len(seen) == len(set(seen)) == samples // batch_size * batch_size
    assert set(seen) <= set(range(samples))


def test_epochs_and_seeds_have_different_orders():
    orders = [global_batches(64, 8, 1, 1, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])


def test_resuming_leaves_out_what_was_done_in_that_epoch_only():
    whole, resumed = (
        GlobalBatchSampler(20, 4, accumulate=2),
        GlobalBatchSampler(20, 4, accumulate=2),
    )
    whole.set_epoch(3)
    resumed.resume(epoch=3, done=4)
    assert list(resumed) == list(whole)[4:]
    assert len(resumed) == len(whole) == 10
    for batches in (whole, resumed):
        batches.set_epoch(4)
    assert list(resumed) == list(whole)


def test_a_set_smaller_than_a_batch_is_refused():
    with pytest.raises(DataError, match=r"3 training samples .* batch of 4; use .* at most 3"):
        GlobalBatchSampler(3, 4)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(DataError, match=r"batch_size 4 .* 3 ranks x 1 .* multiple of 3"):
        GlobalBatchSampler(30, 4, world=3)


@pytest.mark.parametrize(
    ("batch_size", "world", "micro_batch_size", "expected"),
    [
        (512, 1, 0, BatchLayout(512, 1)),
        (512, 4, 0, BatchLayout(128, 1)),
        (512, 1, 100, BatchLayout(64, 8)),
        (512, 4, 128, BatchLayout(128, 1)),
        (96, 2, 17, BatchLayout(16, 3)),
        (7, 1, 3, BatchLayout(1, 7)),
    ],
)
def test_a_batch_is_divided_with_the_fewest_micro_batches(
    batch_size, world, micro_batch_size, expected
):
    assert split_global_batch(batch_size, world, micro_batch_size) == expected


def test_an_indivisible_batch_lists_sizes_that_would_work():
    with pytest.raises(DataError, match=r"batch_size 512 .* 3 devices; .* 510 or 513"):
        split_global_batch(512, 3)
    with pytest.raises(DataError, match=r"batch_size 2 .* 4 devices; .* such as 4"):
        split_global_batch(2, 4)
