"""Batches are a function of files, seed and epoch: not of workers, ranks or stops."""

import gc
from itertools import chain
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from refusals import refused
from torch.utils.data import Subset

from vitlab import distributed
from vitlab.data import (
    VOC2012,
    Batch,
    BatchLayout,
    DataError,
    ImageNet,
    MultiCrop,
    normalize,
)
from vitlab.probes import InferenceConfig
from vitlab.probes.features import sharded_loader

TRANSFORM = MultiCrop(16, 8, 2)


def data_of(root, **changes) -> ImageNet:
    arguments = {"global_batch_size": 4, "transform": TRANSFORM, "num_workers": 0} | changes
    return ImageNet(str(root), **arguments)


def attached(data, world=1, rank=0, step=0, accumulate=1):
    """The data as a rank of a run of so many ranks has them after so many steps."""
    data.trainer = Mock(
        spec=Trainer,
        world_size=world,
        global_rank=rank,
        accumulate_grad_batches=accumulate,
        lightning_module=Mock(automatic_optimization=True),
        limit_train_batches=1.0,
        global_step=step,
        fit_loop=Mock(epoch_loop=Mock(batch_progress=Mock(current=Mock(ready=0)))),
    )
    return data


def epochs_of(data, epochs=(0,)) -> list[Batch]:
    """Batches of some epochs, as Lightning draws them: the first may have been begun."""
    loader = data.train_dataloader()
    found = []
    for epoch in epochs:
        loader.batch_sampler.set_epoch(epoch)
        found += list(loader)
    if data.num_workers:
        del loader
        gc.collect()  # ends the workers here, not in a later test
    return found


def samples_in(batches) -> list[tuple[int, tuple[bytes, ...]]]:
    """Each image of a step with its label and all of its crops, in no order."""
    return sorted(
        (int(batch.labels[i]), tuple(stack[:, i].numpy().tobytes() for stack in batch.views))
        for batch in batches
        for i in range(len(batch.labels))
    )


def steps_of(root, world, step=0, epochs=range(2), **changes) -> list[list]:
    """Samples of each optimizer step, from all ranks and micro-batches together."""
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


def test_workers_change_no_bit_of_an_image_or_its_replacement_or_a_resumed_run(imagenet):
    (imagenet / "train/n02102040/n02102040_1.JPEG").write_bytes(b"")
    whole = epochs_of(attached(data_of(imagenet)), range(2))
    assert any(batch.unreadable for batch in whole)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for step in (0, 4):  # the workers persist from one epoch to the next
        data = attached(data_of(imagenet, num_workers=2), step=step)
        for one, other in zip(epochs_of(data, range(step // 3, 2)), whole[step:], strict=True):
            assert one.unreadable == other.unreadable
            assert torch.equal(one.labels, other.labels)
            assert all(map(torch.equal, one.views, other.views))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("world", "micro"), [(1, 1), (1, 2), (2, 0), (2, 1), (4, 0)])
def test_a_step_has_the_same_crops_on_any_number_of_ranks_and_micro_batches(imagenet, world, micro):
    whole = steps_of(imagenet, 1)  # three steps in each of two epochs
    assert len(whole) == len(set(map(str, whole))) == 6
    assert steps_of(imagenet, world, micro_batch_size=micro) == whole
    for step in (1, 3, 5):  # also of a run that goes on on other ranks
        epochs = range(step // 3, 2)
        assert steps_of(imagenet, world, step, epochs, micro_batch_size=micro) == whole[step:]


def test_augmentation_depends_on_seed_epoch_sample_and_copy(imagenet, voc):
    def crops(**changes):
        first = chain(*(batch.views[0][0] for batch in epochs_of(data_of(imagenet, **changes))))
        return [crop.numpy().tobytes() for crop in first]

    assert crops() == crops()
    assert len({*crops()}) == 12
    assert not {*crops()} & {*crops(seed=1)}
    one, repeated = epochs_of(data_of(imagenet))[0], epochs_of(data_of(imagenet, repeats=2))[0]
    assert [tuple(stack.shape) for stack in one.views] == [(2, 4, 3, 16, 16), (2, 4, 3, 8, 8)]
    assert repeated.labels[0] == repeated.labels[1]
    assert not torch.equal(repeated.views[0][0][0], repeated.views[0][0][1])
    assert torch.equal(repeated.views[0][0][0], one.views[0][0][0])  # copy 0 as it is alone
    data = data_of(imagenet, global_batch_size=5)
    assert data.steps_per_epoch == len(epochs_of(data)) == 2
    data = VOC2012(str(voc), global_batch_size=3, transform=TRANSFORM, num_workers=0)
    assert epochs_of(data)[0].labels is None


def test_the_trainer_accumulates_what_the_batch_needs(imagenet):
    assert data_of(imagenet, global_batch_size=12, micro_batch_size=3).batch_layout(2) == (
        BatchLayout(3, 2)
    )
    data = attached(data_of(imagenet, micro_batch_size=2))
    data.setup("fit")
    assert data.trainer.accumulate_grad_batches == 2
    data.trainer.accumulate_grad_batches = 4
    with refused("trainer.accumulate_grad_batches", DataError):
        data.setup("fit")
    data.trainer.lightning_module.automatic_optimization = False
    data.setup("fit")


def test_unreadable_images_are_replaced_by_the_next_and_reported_up_to_a_limit(imagenet):
    data = data_of(imagenet, global_batch_size=12, max_unreadable=1)
    broken = imagenet / "train/n02102040/n02102040_3.JPEG"
    whole = epochs_of(data)[0]
    assert whole.unreadable == ()
    broken.write_bytes(broken.read_bytes()[:200])
    batch = epochs_of(data)[0]
    (named,) = batch.unreadable
    assert str(broken) in named
    changed = (whole.views[0] != batch.views[0]).any(dim=(0, 2, 3, 4))
    assert changed.sum() == 1
    assert whole.labels[changed] == 1
    assert batch.labels[changed] == 2  # the next in index order is the first of the next class
    assert len(samples_in([batch])) == len({*samples_in([batch])})  # it is augmented otherwise
    with pytest.warns(UserWarning, match=r"n02102040_3.JPEG .*1 so far, 1 allowed"):
        data.on_before_batch_transfer(batch, 0)
    data.on_before_batch_transfer(batch, 0)  # a second warning would be an error
    data.on_before_batch_transfer(torch.zeros(1), 0)
    with refused("data.max_unreadable", DataError):
        data.on_before_batch_transfer(Batch([], unreadable=("b.jpg (empty)",)), 0)
    (imagenet / "train/n03000684/n03000684_3.JPEG").write_bytes(b"")  # the last: the first follows
    assert torch.bincount(epochs_of(data)[0].labels).tolist() == [5, 3, 4]
    for path in imagenet.glob("train/*/*"):
        path.write_bytes(b"")
    with refused("data.max_unreadable", DataError):
        epochs_of(data_of(imagenet, max_unreadable=2))


class Recorder(LightningModule):
    """Keeps its batches."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, bytes]] = []

    def training_step(self, batch, index):
        self.seen.append((self.current_epoch, batch.views[0].numpy().tobytes()))
        return self.weight * batch.views[0].mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(root, folder, resume=None, workers=0, accumulate=2, **changes) -> list[tuple[int, bytes]]:
    """Two epochs of three steps of `accumulate` micro-batches; a checkpoint after each step."""
    model = Recorder()
    quiet = ("logger", "enable_progress_bar", "enable_model_summary", "use_distributed_sampler")
    trainer = Trainer(
        default_root_dir=folder,
        max_epochs=2,
        accelerator="cpu",
        callbacks=[ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)],
        **dict.fromkeys(quiet, False),
        **changes,
    )
    data = data_of(root, micro_batch_size=4 // accumulate, num_workers=workers)
    trainer.fit(model, data, ckpt_path=resume, weights_only=False if resume else None)
    steps = changes.get("limit_train_batches", 3 * accumulate) // accumulate
    assert trainer.global_step == 2 * steps
    return model.seen


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, draw):
    """Images, the batches of a whole run on them, and its checkpoints."""
    root, folder = (tmp_path_factory.mktemp(name) for name in ("imagenet", "stopped"))
    for i in range(12):
        draw(root / f"train/n0000000{i // 4}/{i}.JPEG", seed=i)
    seen = fit(root, folder)
    assert [epoch for epoch, _ in seen] == [0] * 6 + [1] * 6
    assert len({crops for _, crops in seen}) == 12
    expected = epochs_of(data_of(root, micro_batch_size=2), (0, 1))
    assert [crops for _, crops in seen] == [
        normalize(batch.views[0]).numpy().tobytes() for batch in expected
    ]
    return root, seen, folder


@pytest.mark.filterwarnings("ignore:The dirpath has changed from")
@pytest.mark.parametrize(
    ("accumulate", "steps", "step"),
    [
        *((2, 3, step) for step in (1, 2, 3, 5, 6)),
        *((1, 3, 3), (4, 3, 1), (4, 3, 5)),  # other micro-batches than before
        *((2, 2, 2), (2, 2, 3)),  # epochs that are cut short
    ],
)
def test_a_resumed_run_has_the_batches_of_the_whole_run(stopped, tmp_path, accumulate, steps, step):
    images, whole, folder = stopped
    limit = {} if steps == 3 else {"limit_train_batches": steps * accumulate}
    if (accumulate, steps) != (2, 3):
        whole = fit(images, tmp_path / "whole", accumulate=accumulate, **limit)
        folder = tmp_path / "whole" if limit else folder
    workers = int((accumulate, steps, step) == (2, 3, 2))
    checkpoint = folder / f"step={step}.ckpt"
    resumed = fit(images, tmp_path / "on", checkpoint, workers, accumulate, **limit)
    assert resumed == whole[step * accumulate :]
    gc.collect()


def test_wrong_settings_and_splits_are_refused_before_the_run(imagenet, tmp_path):
    least = {"global_batch_size": 1, "repeats": 1, "micro_batch_size": 0, "num_workers": 0}
    for name, smallest in {**least, "max_unreadable": 0, "seed": 0}.items():
        with refused(f"data.{name}"):
            data_of(imagenet, **{name: smallest - 1})
    data = data_of(tmp_path / "nowhere")
    for check in (data.prepare_data, lambda: data.setup("fit")):
        with refused("data.root", DataError):
            check()
    data.setup("validate")


# Lightning calls a method that jsonargparse has renamed


@pytest.mark.parametrize(("world", "count"), [(1, 7), (2, 7), (2, 8), (4, 9), (4, 1)])
def test_ranks_share_an_evaluation_without_one_image_twice(monkeypatch, world, count):
    monkeypatch.setattr(distributed, "world_size", lambda: world)
    numbers, config = list(range(count)), InferenceConfig(torch.device("cpu"), batch_size=2)
    seen = []
    for rank in range(world):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        batches = sharded_loader(Subset(numbers, numbers), config)
        seen.append(torch.cat([*batches, torch.empty(0)]).tolist())
    assert seen == [numbers[rank::world] for rank in range(world)]
