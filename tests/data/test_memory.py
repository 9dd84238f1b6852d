"""A worker that has seen many samples has not grown."""

import gc
import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from vitlab.data import CenterCrop, ImageNet

MEGABYTE = 1 << 20
SAMPLES = 20_000
NAMES = 240  # bytes of each name: as Python objects, nine tenths of them would copy 5 MB
GROWTH = 4 * MEGABYTE  # what the allocator may keep between a tenth of the epoch and its end


def growth(data: ImageNet) -> int:
    """Bytes that its one worker has for itself more at the end of an epoch than at a tenth."""
    loader = data.train_dataloader()
    batches = iter(loader)
    (worker,) = (psutil.Process(process.pid) for process in batches._workers)
    taken = []
    for part in (len(loader) // 10, len(loader) - len(loader) // 10 - 4):
        assert all(not batch.unreadable for batch in itertools.islice(batches, part))
        taken.append(worker.memory_full_info().uss)
    del batches, loader
    gc.collect()  # ends the worker
    return taken[1] - taken[0]


@pytest.fixture(params=["folder", "archive"])
def root(request, tmp_path, draw, pack) -> Path:
    folder = tmp_path / "train/n01440764"
    for i in range(4):
        draw(folder / f"{i:0{NAMES}}.png", size=(8, 8), seed=i)
    if request.param == "archive":
        pack.tar(folder.with_suffix(".tar"), pack.contents(folder))
        shutil.rmtree(folder)
    return tmp_path


@pytest.mark.slow  # decodes twenty thousand images
def test_the_private_memory_of_a_worker_does_not_grow_with_the_samples_it_reads(root):
    data = ImageNet(str(root), global_batch_size=20, transform=CenterCrop(8), num_workers=1)
    samples = data.samples("train")
    chosen = np.arange(SAMPLES) % len(samples)  # as if there were so many files
    data._samples["train"] = replace(
        samples, images=samples.images[chosen], labels=samples.labels[chosen]
    )
    assert data._samples["train"].images.nbytes > SAMPLES * NAMES
    assert growth(data) < GROWTH
