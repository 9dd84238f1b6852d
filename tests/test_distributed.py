"""Two real processes on one machine, against one."""

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from vitlab import distributed
from vitlab.data.batch import Batch
from vitlab.encoders import ViT
from vitlab.objectives import DINO, DINOHeadConfig
from vitlab.optim.schedules import Progress

ROOT = Path(__file__).parents[1]
IMAGES = torch.arange(7.0)[:, None] * torch.tensor([1.0, 10.0])


def test_one_process_is_the_identity():
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert distributed.all_reduce_mean(IMAGES) is IMAGES
    assert distributed.all_reduce_max([2, -3]) == [2, -3]
    assert distributed.all_gather_rows(IMAGES) is IMAGES


def test_gathered_rows_are_in_the_order_of_the_set(monkeypatch):
    """Row i is row i // world_size of rank i % world_size; ranks may hold one less."""
    shards = [IMAGES[rank::3] for rank in range(3)]

    def all_gather(parts, x):
        for part, shard in zip(parts, shards, strict=True):
            full = torch.tensor(len(shard))
            if x.ndim:
                full = torch.cat([shard, shard.new_zeros(len(x) - len(shard), 2)])
            part.copy_(full)

    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    monkeypatch.setattr(dist, "all_gather", all_gather)
    assert distributed.all_gather_rows(shards[2]).equal(IMAGES)


def dino_step(images):
    """Make one step of plain gradient descent on these images, averaging gradients over ranks."""
    torch.manual_seed(0)
    dino = DINO(ViT("nano", 16, 32), DINOHeadConfig(16, 24, 8), momentum=0.5)
    progress = Progress(0, steps=4, epochs=2, batch_size=512)
    dino.loss(Batch([images, images[..., :16, :16]]), progress).value.backward()
    dino.before_step(progress)
    with torch.no_grad():
        for parameter in dino.student.parameters():
            if parameter.grad is not None:
                parameter.sub_(0.1 * distributed.all_reduce_mean(parameter.grad))
    dino.after_step(progress)
    return copy.deepcopy(dino.state_dict())


def crops():
    return torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def work(rank, folder):
    """Do on one of two ranks what the tests compare."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    x = torch.tensor([1.0 + rank, 10.0])
    results = {
        "rank": torch.tensor([distributed.rank(), distributed.world_size()]),
        "mean": distributed.all_reduce_mean(x),
        "max": distributed.all_reduce_max([2 + rank, -1 - rank]),
        "argument": x,
        "gather": distributed.all_gather_rows(IMAGES[rank::2]),
        "even": distributed.all_gather_rows(IMAGES[:6][rank::2].long()),
        "empty": distributed.all_gather_rows(IMAGES[:1][rank::2]),
        "step": dino_step(crops()[:, rank::2]),
    }
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow  # the new processes import everything anew
def test_collectives_and_a_step_of_dino_agree_on_each_rank(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)  # where the new processes find this file
    mp.spawn(work, (str(tmp_path),), nprocs=2)
    expected = dino_step(crops())
    assert expected["center"].abs().max() > 1e-4
    for rank in range(2):
        results = torch.load(tmp_path / f"{rank}.pt")
        assert results["rank"].tolist() == [rank, 2]
        assert results["mean"].tolist() == [1.5, 10.0]
        assert results["max"] == [3, -1]
        assert results["argument"].tolist() == [1.0 + rank, 10.0]  # not changed
        assert results["gather"].equal(IMAGES)
        assert results["even"].equal(IMAGES[:6].long())
        assert results["empty"].equal(IMAGES[:1])
        assert results["step"].keys() == expected.keys()
        for name, value in results["step"].items():
            torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
