import gc
import os
import pickle
import warnings
from itertools import chain
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI

from vitlab.data import (
    VOC2012,
    Batch,
    BatchLayout,
    CenterCrop,
    DataError,
    ImageNet,
    MultiCrop,
    VisionDataModule,
    normalize,
)

VIEWS = MultiCrop(16, 8, 2)


def data_of(root, **changes) -> ImageNet:
    arguments = {"global_batch_size": 4, "transform": VIEWS, "num_workers": 0} | changes
    return ImageNet(str(root), **arguments)


def epoch_of(data, epoch=0) -> list[Batch]:
    loader = data.train_dataloader()
    loader.batch_sampler.set_epoch(epoch)
    return list(loader)


def assert_equal(batches, others):
    for one, other in zip(batches, others, strict=True):
        assert torch.equal(one.labels, other.labels)
        for a, b in zip(one.views, other.views, strict=True):
            assert torch.equal(a, b)


def crops_in(batches) -> set[bytes]:
    """Each image of the batches, told by the bytes of its first crop."""
    first = chain(*(batch.views[0][0] for batch in batches))
    return {crop.numpy().tobytes() for crop in first}


def attached(data, world, rank, accumulate=1, step=0):
    """The data as a rank of a distributed run sees them."""
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


def test_batches_have_one_stack_for_each_resolution_and_the_labels(imagenet):
    batch = epoch_of(data_of(imagenet))[0]
    assert [tuple(stack.shape) for stack in batch.views] == [(2, 4, 3, 16, 16), (2, 4, 3, 8, 8)]
    assert batch.labels.dtype == torch.int64
    assert batch.unreadable == ()


def test_batches_without_labels_have_none(voc):
    data = VOC2012(str(voc), global_batch_size=3, transform=VIEWS, num_workers=0)
    assert epoch_of(data)[0].labels is None


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_no_bit(imagenet, workers):
    alone, loader = data_of(imagenet), data_of(imagenet, num_workers=workers).train_dataloader()
    for epoch in (0, 1):  # the workers persist from one to the next
        loader.batch_sampler.set_epoch(epoch)
        assert_equal(loader, epoch_of(alone, epoch))
    del loader
    gc.collect()  # ends the workers here, not in a later test


def test_ranks_and_micro_batches_see_the_same_crops_in_each_step(imagenet):
    alone = epoch_of(data_of(imagenet))
    both = [epoch_of(attached(data_of(imagenet), 2, rank)) for rank in (0, 1)]
    twice = epoch_of(data_of(imagenet, micro_batch_size=2))
    assert len(twice) == 2 * len(alone)
    for step, batch in enumerate(alone):
        assert crops_in([batch]) == crops_in([both[0][step], both[1][step]])
        assert crops_in([batch]) == crops_in(twice[2 * step : 2 * step + 2])


def test_augmentation_depends_on_seed_epoch_and_sample(imagenet):
    data = data_of(imagenet)
    assert_equal(epoch_of(data), epoch_of(data))
    first = crops_in(epoch_of(data))
    assert len(first) == 12
    assert not first & crops_in(epoch_of(data, epoch=1))
    assert not first & crops_in(epoch_of(data_of(imagenet, seed=1)))


@pytest.mark.parametrize("workers", [0, 1])
def test_iterating_draws_nothing_from_the_global_random_numbers(imagenet, workers):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    epoch_of(data_of(imagenet, num_workers=workers))
    gc.collect()
    assert torch.equal(before, torch.get_rng_state())


def test_an_epoch_has_as_many_steps_as_full_batches(imagenet):
    data = data_of(imagenet, global_batch_size=5)
    assert data.steps_per_epoch == 2
    assert len(epoch_of(data)) == 2


def test_a_batch_is_divided_by_its_own_limits(imagenet):
    assert data_of(imagenet, global_batch_size=12, micro_batch_size=3).batch_layout(
        2
    ) == BatchLayout(3, 2)


def test_the_trainer_accumulates_what_the_batch_needs(imagenet):
    data = attached(data_of(imagenet, micro_batch_size=2), 1, 0, accumulate=1)
    data.setup("fit")
    assert data.trainer.accumulate_grad_batches == 2
    data.trainer.accumulate_grad_batches = 4
    with pytest.raises(DataError, match=r"accumulates 4 micro-batches.* make 2; leave"):
        data.setup("fit")
    data.trainer.lightning_module.automatic_optimization = False
    data.setup("fit")


def test_an_unreadable_image_is_replaced_by_the_next_and_reported_once(imagenet):
    data = data_of(imagenet, global_batch_size=12)
    broken = imagenet / "train/n02102040/n02102040_3.JPEG"
    whole = epoch_of(data)[0]
    broken.write_bytes(broken.read_bytes()[:200])
    batch = epoch_of(data)[0]
    assert len(batch.unreadable) == 1
    assert str(broken) in batch.unreadable[0]
    changed = (whole.views[0] != batch.views[0]).any(dim=(0, 2, 3, 4))
    assert changed.sum() == 1
    assert whole.labels[changed] == 1
    assert batch.labels[changed] == 2  # the next in index order is the first of the next class
    with pytest.warns(UserWarning, match=r"n02102040_3.JPEG .*1 so far, 100 allowed"):
        data.on_before_batch_transfer(batch, 0)
    with warnings.catch_warnings(record=True) as caught:
        data.on_before_batch_transfer(batch, 0)
        data.on_before_batch_transfer(torch.zeros(1), 0)
    assert not caught


def test_the_stand_in_is_augmented_unlike_the_image_itself(imagenet):
    broken = imagenet / "train/n02102040/n02102040_3.JPEG"
    broken.write_bytes(b"")
    assert len(crops_in(epoch_of(data_of(imagenet)))) == 12


def test_the_last_image_is_replaced_by_the_first(imagenet):
    (imagenet / "train/n03000684/n03000684_3.JPEG").write_bytes(b"")
    batch = epoch_of(data_of(imagenet, global_batch_size=12))[0]
    assert torch.bincount(batch.labels).tolist() == [5, 4, 3]


def test_too_many_unreadable_images_stop_the_run_and_are_named(imagenet):
    data = data_of(imagenet, max_unreadable=1)
    seen = [Batch([], unreadable=("a.jpg (cut)",)), Batch([], unreadable=("b.jpg (empty)",))]
    with pytest.warns(UserWarning, match=r"a\.jpg"):
        data.on_before_batch_transfer(seen[0], 0)
    expected = r"(?s)2 images .* 1 may be so .*max_unreadable.*a\.jpg \(cut\).*b\.jpg \(empty\)"
    with pytest.raises(DataError, match=expected):
        data.on_before_batch_transfer(seen[1], 0)


def test_a_set_without_any_readable_image_stops_instead_of_searching(imagenet):
    for path in imagenet.glob("train/*/*"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="3 images cannot be read"):
        epoch_of(data_of(imagenet, max_unreadable=2))


class Recorder(LightningModule):
    """Remembers what it was given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, bytes]] = []

    def training_step(self, batch, index):
        self.seen.append((self.current_epoch, batch.views[0].numpy().tobytes()))
        return self.weight * batch.views[0].mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(
    root, folder, resume=None, num_workers=0, accumulate=2, **changes
) -> list[tuple[int, bytes]]:
    """Two epochs of three steps of `accumulate` micro-batches; a checkpoint after each step."""
    model = Recorder()
    trainer = Trainer(
        default_root_dir=folder,
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[
            ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1),
        ],
        **changes,
    )
    with warnings.catch_warnings():
        # Lightning's own: its trees, and the checkpoint folder of the resumed run
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")
        warnings.filterwarnings("ignore", "The dirpath has changed from")
        warnings.filterwarnings("ignore", "The 'train_dataloader' does not have many workers")
        data = data_of(root, micro_batch_size=4 // accumulate, num_workers=num_workers)
        trainer.fit(model, data, ckpt_path=resume, weights_only=False if resume else None)
    steps = changes.get("limit_train_batches", 3 * accumulate) // accumulate
    assert trainer.global_step == 2 * steps
    return model.seen


def test_each_epoch_of_a_trainer_has_its_own_order_and_crops(imagenet, tmp_path):
    seen = fit(imagenet, tmp_path / "run")
    assert [epoch for epoch, _ in seen] == [0] * 6 + [1] * 6
    assert len({crops for _, crops in seen}) == 12
    for epoch in (0, 1):
        expected = epoch_of(data_of(imagenet, micro_batch_size=2), epoch)
        assert [crops for e, crops in seen if e == epoch] == [
            normalize(batch.views[0]).numpy().tobytes() for batch in expected
        ]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_sees_what_the_whole_run_saw(imagenet, tmp_path, workers):
    whole = fit(imagenet, tmp_path / "whole")
    steps = range(1, 7) if workers == 0 else (2,)
    for step in steps:
        checkpoint = tmp_path / f"whole/step={step}.ckpt"
        resumed = fit(imagenet, tmp_path / f"from_{step}", checkpoint, workers)
        assert resumed == whole[2 * step :], step
    gc.collect()


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("step", range(1, 7))
def test_a_run_may_go_on_with_another_number_of_micro_batches(imagenet, tmp_path, accumulate, step):
    whole = fit(imagenet, tmp_path / "whole", accumulate=accumulate)
    fit(imagenet, tmp_path / "stopped")
    resumed = fit(
        imagenet, tmp_path / "on", tmp_path / f"stopped/step={step}.ckpt", accumulate=accumulate
    )
    assert resumed == whole[step * accumulate :]


def test_a_shortened_epoch_is_resumed_too(imagenet, tmp_path):
    whole = fit(imagenet, tmp_path / "whole", limit_train_batches=4)
    assert [epoch for epoch, _ in whole] == [0] * 4 + [1] * 4
    for step in (1, 2, 3):
        checkpoint = tmp_path / f"whole/step={step}.ckpt"
        resumed = fit(imagenet, tmp_path / f"from_{step}", checkpoint, limit_train_batches=4)
        assert resumed == whole[2 * step :], step


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"global_batch_size": 0}, "batch_size 0 is not a count; use 1"),
        ({"micro_batch_size": -1}, "micro_batch_size -1 is negative; use 0"),
        ({"num_workers": -1}, "workers -1 is negative"),
        ({"max_unreadable": -1}, "max_unreadable -1 is negative"),
        ({"seed": -1}, "seed -1 is negative"),
    ],
)
def test_wrong_settings_are_refused_at_once(imagenet, wrong, message):
    with pytest.raises(DataError, match=message):
        data_of(imagenet, **wrong)


def test_the_training_split_is_checked_before_the_run(tmp_path):
    data = data_of(tmp_path / "nowhere")
    for check in (data.prepare_data, lambda: data.setup("fit")):
        with pytest.raises(DataError, match=r"there is no folder .*nowhere; set its root"):
            check()
    data.setup("validate")


def test_the_data_travel_to_spawned_processes(imagenet):
    loader = data_of(imagenet).train_dataloader()
    copied = pickle.loads(pickle.dumps(loader.dataset))
    for a, b in zip(loader.dataset[0, 3].views, copied[0, 3].views, strict=True):
        assert torch.equal(a, b)


@pytest.fixture
def built(monkeypatch):
    """Builds the data as the command line makes them."""

    def build(*given: str) -> VisionDataModule:
        common = ["--trainer.logger=false", "--trainer.accelerator=cpu"]
        monkeypatch.setattr("sys.argv", ["vitlab", *common, *given])
        return LightningCLI(
            Recorder,
            VisionDataModule,
            subclass_mode_data=True,
            seed_everything_default=False,
            save_config_callback=None,
            run=False,
        ).datamodule

    return build


# Lightning calls a method that jsonargparse has renamed
@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
def test_the_command_line_builds_data_and_views(imagenet, built):
    given = ["--data=ImageNet", f"--data.root={imagenet}", "--data.num_workers=0"]
    assert built(*given).transform.crop_sizes == [(2, 224), (8, 96)]
    views = built(*given, "--data.transform=MultiCrop", "--data.transform.scale=[0.14,1]").transform
    assert views.scale == (0.14, 1)
    assert built(*given, "--data.transform.num_local_crops=0").transform.crop_sizes == [(2, 224)]
    views = built(*given, "--data.transform=CenterCrop", "--data.transform.size=32").transform
    assert isinstance(views, CenterCrop)
    assert views.crop_sizes == [(1, 32)]


def test_the_help_of_each_dataset_explains_the_common_arguments(built, capsys):
    with pytest.raises(SystemExit):
        built("--data.help=VOC2012")
    explained = " ".join(capsys.readouterr().out.split())
    assert "images in one optimizer step, over all devices" in explained
    assert "name of the split to train on" in explained


def test_the_default_views_are_those_of_dino(imagenet):
    assert ImageNet(str(imagenet)).transform.crop_sizes == [(2, 224), (8, 96)]
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"
