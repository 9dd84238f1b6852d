"""What callbacks of a Lightning user see of a run, and what they may not change."""

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    ModelPruning,
    StochasticWeightAveraging,
    Timer,
    WeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger
from refusals import refused
from torch.utils.data import DataLoader

from vitlab.callbacks.checkpoint import CheckpointCallback
from vitlab.callbacks.collapse_monitor import CollapseMonitor
from vitlab.callbacks.loggers import describe_logger
from vitlab.callbacks.nan_guard import NaNGuard
from vitlab.callbacks.online_probes import OnlineProbes
from vitlab.callbacks.preemption import Preemption
from vitlab.callbacks.rank_watchdog import RankWatchdog
from vitlab.callbacks.status import StatusWriter
from vitlab.callbacks.throughput import ThroughputMonitor
from vitlab.callbacks.validation import Validation
from vitlab.data import Batch, ImageNet, MultiCrop
from vitlab.encoders import ViT
from vitlab.objectives import DINO, DINOHeadConfig
from vitlab.optim.optimizer import OptimizerConfig
from vitlab.run.module import Pretraining
from vitlab.run.trainer_checks import check_trainer

# Lightning's, on modules in eval mode and on the callbacks that are refused
pytestmark = pytest.mark.filterwarnings("ignore")


def module() -> Pretraining:
    torch.manual_seed(0)
    objective = DINO(ViT("nano", 16, 32), DINOHeadConfig(8, 8, 4), freeze_last_layer=0)
    return Pretraining(objective, OptimizerConfig(warmup_epochs=1))


def trainer(*callbacks: Callback, folder, **options) -> Trainer:
    unsaved = not any(isinstance(each, CheckpointCallback) for each in callbacks)
    options = {"max_epochs": 2, "logger": False, "enable_checkpointing": not unsaved, **options}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
    return Trainer(
        accelerator="cpu",
        devices=1,
        callbacks=list(callbacks),
        default_root_dir=folder,
        **quiet,
        **options,
    )


def loader() -> DataLoader:
    images = torch.rand(8, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return DataLoader(images, 4, collate_fn=lambda each: Batch([torch.stack(each, 1)]))


def data(root) -> ImageNet:
    return ImageNet(str(root), 4, transform=MultiCrop(32, local_size=16), num_workers=0)


def test_learning_rate_monitor_sees_the_rate_of_the_step(tmp_path):
    seen = []

    class Look(Callback):
        def on_train_batch_start(self, trainer, pl_module, *_):
            rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
            seen.append((rates, pl_module.settings.lr_at(pl_module.progress)))

    logger = CSVLogger(tmp_path)
    run = trainer(LearningRateMonitor(), Look(), folder=tmp_path, logger=logger)
    run.fit(module(), loader())
    assert len({rate for _, rate in seen}) == 3
    assert all(rates == [rate] * 2 for rates, rate in seen)
    assert "lr-AdamW/pg1" in (tmp_path / describe_logger(logger)).read_text()


class Rate(Callback):
    def on_train_batch_end(self, trainer, *_):
        trainer.optimizers[0].param_groups[0]["lr"] = 1.0


class Decay(Callback):
    def on_train_epoch_start(self, trainer, *_):
        trainer.optimizers[0].param_groups[0]["weight_decay"] = 0.5


class Freeze(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        pl_module.objective.student.encoder.requires_grad_(False)


class Accumulate(Callback):
    def on_train_epoch_start(self, trainer, *_):
        trainer.accumulate_grad_batches = 2


class FreezeAtOnce(Callback):
    def setup(self, trainer, pl_module, stage):
        pl_module.objective.student.encoder.requires_grad_(False)


@pytest.mark.parametrize("spoil", [Rate, Decay, Freeze, Accumulate, FreezeAtOnce])
def test_callbacks_that_change_the_recipe_are_refused(tmp_path, spoil):
    own = module()
    own.planned = own.trained_names()  # as the plan of `vitlab fit` has them
    with refused("trainer.callbacks", wording=False):
        trainer(spoil(), folder=tmp_path, max_epochs=2).fit(own, loader())


KNOWN = [
    *(StochasticWeightAveraging(0.1), GradientAccumulationScheduler({0: 5}), Timer("00:00:00:01")),
    *(WeightAveraging(), EMAWeightAveraging(), BatchSizeFinder(), LearningRateFinder()),
    *(BackboneFinetuning(), ModelPruning("l1_unstructured")),
]


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: type(known).__name__)
def test_those_of_lightning_are_refused_before_a_run(tmp_path, known):
    with refused("trainer.callbacks"):
        check_trainer(trainer(known, folder=tmp_path))


def test_early_stopping_follows_a_score_that_is_not_measured_in_every_epoch(tmp_path, drawn):
    probes = OnlineProbes(2, size=32, num_workers=0, baselines=False, images=8)
    best = []

    class Look(Callback):
        def on_train_epoch_start(self, trainer, *_):
            best.append(float(stop.best_score))

    stop = EarlyStopping("knn/top1", mode="max", patience=100, strict=False)
    run = trainer(stop, probes, Look(), folder=tmp_path, max_epochs=3)
    run.fit(module(), data(drawn / "imagenet"))
    first = pytest.approx(probes.rows[0]["scores"]["knn/top1"])  # Lightning keeps it in fp32
    assert best == [-torch.inf, -torch.inf, first]
    last = pytest.approx(probes.rows[-1]["scores"]["knn/top1"])
    assert float(run.callback_metrics["knn/top1"]) == last


def test_validate_measures_and_leaves_the_module_as_it_is(tmp_path, drawn):
    own = module()
    before = {name: value.clone() for name, value in own.state_dict().items()}
    probes = OnlineProbes(size=32, num_workers=0, images=8)
    (scores,) = trainer(probes, folder=tmp_path).validate(own, data(drawn / "imagenet"))
    assert set(scores) == {"val/objective_loss", "knn/top1", "linear/top1"}
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
    assert not own.objective.mean_logits


@pytest.mark.parametrize(
    "make",
    [
        lambda: [NaNGuard()],
        lambda: [CollapseMonitor(1)],
        lambda: [Validation(num_workers=0)],
        lambda: [ThroughputMonitor()],
        lambda: [RankWatchdog(), StatusWriter()],
        lambda: [OnlineProbes(size=32, dense_size=32, num_workers=0)],  # of a loader: no labels
        lambda: [Preemption(saved := CheckpointCallback()), saved],
    ],
)
def test_our_callbacks_work_alone(make, tmp_path):
    own, seen = make(), module()
    trainer(*own, folder=tmp_path, max_epochs=1).fit(seen, loader())
    assert seen.global_step == 2
    if len(own) == 1:
        with refused("trainer.callbacks", wording=False):
            own[0].setup(trainer(folder=tmp_path), LightningModule(), "fit")
