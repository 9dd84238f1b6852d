"""Batches are a function of files, seed and epoch: not of workers, ranks or stops."""

import gc
from itertools import chain
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import Trainer

from vitlab import distributed
from vitlab.data import ADE20K, Batch, ImageNet, MultiCrop, SegmentationSquare
from vitlab.probes import InferenceConfig
from vitlab.probes.dense import stack_images
from vitlab.probes.features import sharded_loader

VIEWS = MultiCrop(16, 8, 2)
WORLDS = [1, 2, 4]


def data_of(root, **changes) -> ImageNet:
    arguments = {"global_batch_size": 4, "transform": VIEWS, "num_workers": 0} | changes
    return ImageNet(str(root), **arguments)


def attached(data, world, rank, step=0):
    """The data as a rank of a run of so many ranks sees them after so many steps."""
    data.trainer = Mock(
        spec=Trainer,
        world_size=world,
        global_rank=rank,
        accumulate_grad_batches=data.batch_layout(world).accumulate_grad_batches,
        lightning_module=Mock(automatic_optimization=True),
        limit_train_batches=1.0,
        global_step=step,
        fit_loop=Mock(epoch_loop=Mock(batch_progress=Mock(current=Mock(ready=0)))),
    )
    return data


def epochs_of(data, epochs=range(2)) -> list[Batch]:
    """Batches of some epochs, as Lightning draws them: the first may have been begun."""
    loader = data.train_dataloader()
    found = []
    for epoch in epochs:
        loader.batch_sampler.set_epoch(epoch)
        found += list(loader)
    del loader
    gc.collect()  # ends the workers here, not in a later test
    return found


def assert_equal(batches, others) -> None:
    assert len(batches) == len(others) > 0
    for one, other in zip(batches, others, strict=True):
        assert one.unreadable == other.unreadable
        assert torch.equal(one.labels, other.labels)
        for a, b in zip(one.views, other.views, strict=True):
            assert torch.equal(a, b)


def samples_in(batches) -> list[tuple[int, tuple[bytes, ...]]]:
    """Each image of a step with its label and all of its crops, in no order."""
    return sorted(
        (int(batch.labels[i]), tuple(stack[:, i].numpy().tobytes() for stack in batch.views))
        for batch in batches
        for i in range(len(batch.labels))
    )


def steps_of(root, world, step=0, epochs=range(2), **changes) -> list[list]:
    """What each optimizer step sees, from all ranks and micro-batches together."""
    ranks = [
        epochs_of(attached(data_of(root, **changes), world, rank, step), epochs)
        for rank in range(world)
    ]
    accumulate = data_of(root, **changes).batch_layout(world).accumulate_grad_batches
    assert len({len(rank) for rank in ranks}) == 1
    return [
        samples_in(chain(*(rank[first : first + accumulate] for rank in ranks)))
        for first in range(0, len(ranks[0]), accumulate)
    ]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes:UserWarning")
@pytest.mark.parametrize("workers", [1, 4])
def test_workers_change_no_bit_even_of_what_stands_in(imagenet, workers):
    (imagenet / "train/n02102040/n02102040_1.JPEG").write_bytes(b"")
    alone = epochs_of(data_of(imagenet))
    assert any(batch.unreadable for batch in alone)
    assert_equal(epochs_of(data_of(imagenet, num_workers=workers)), alone)


@pytest.mark.parametrize("micro_batch_size", [0, 1, 2])
@pytest.mark.parametrize("world", WORLDS)
def test_a_step_sees_the_same_crops_on_any_number_of_ranks(imagenet, world, micro_batch_size):
    alone = steps_of(imagenet, 1)
    assert len(alone) == 6
    assert steps_of(imagenet, world, micro_batch_size=micro_batch_size) == alone
    assert len(set(map(str, alone))) == 6


def test_ranks_see_nothing_twice(imagenet):
    for world in WORLDS:
        ranks = [epochs_of(attached(data_of(imagenet), world, r), [0]) for r in range(world)]
        seen = samples_in(chain(*ranks))
        assert len(seen) == len(set(seen)) == 12


@pytest.mark.parametrize("after", WORLDS)
@pytest.mark.parametrize("micro_batch_size", [0, 1])
def test_a_run_goes_on_in_the_middle_of_an_epoch_on_another_number_of_ranks(
    imagenet, after, micro_batch_size
):
    views = MultiCrop(8, 8, 0)
    whole = steps_of(imagenet, 2, transform=views)  # three steps in each of two epochs
    for step in (1, 3, 5):
        rest = steps_of(
            *(imagenet, after, step, range(step // 3, 2)),
            transform=views,
            micro_batch_size=micro_batch_size,
        )
        assert rest == whole[step:], step


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_stopped_with_workers_goes_on_without_a_difference(imagenet, workers):
    whole = epochs_of(attached(data_of(imagenet), 1, 0))
    for step in (1, 4):
        data = attached(data_of(imagenet, num_workers=workers), 1, 0, step)
        assert_equal(epochs_of(data, range(step // 3, 2)), whole[step:])


class Numbers(torch.utils.data.Dataset):
    """Images that tell which they are."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        return torch.full((3, 8, 8), float(index)), index


@pytest.mark.parametrize("count", [1, 7, 8, 9])
@pytest.mark.parametrize("world", WORLDS)
def test_ranks_share_an_evaluation_without_one_image_twice(monkeypatch, count, world):
    monkeypatch.setattr(distributed, "world_size", lambda: world)
    seen = []
    for rank in range(world):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        mine = sharded_loader(Numbers(count), InferenceConfig(torch.device("cpu"), batch_size=2))
        seen.append([int(index) for _, labels in mine for index in labels])
    assert sorted(chain(*seen)) == list(range(count))
    assert [seen[i % world][i // world] for i in range(count)] == list(range(count))
    assert max(map(len, seen)) - min(map(len, seen)) <= 1


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [2, 4])
def test_shares_of_a_real_set_have_its_masks_once(ade, monkeypatch, world, workers):
    dataset = ADE20K(str(ade)).segmentation_dataset("val", SegmentationSquare(16))
    whole = [dataset[i][1].numpy().tobytes() for i in range(len(dataset))]
    loading = InferenceConfig(torch.device("cpu"), batch_size=1, num_workers=workers)
    monkeypatch.setattr(distributed, "world_size", lambda: world)
    parts = []
    for rank in range(world):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        parts += [
            mask for _, masks in sharded_loader(dataset, loading, stack_images) for mask in masks
        ]
    assert sorted(mask.numpy().tobytes() for mask in parts) == sorted(whole)
