"""The command line of `vitlab fit`: options, config, folder of the run, trainer."""

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from lightning import Callback, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
)
from lightning.pytorch.utilities import rank_zero_only

from vitlab.callbacks.checkpoint import CheckpointCallback
from vitlab.callbacks.collapse_monitor import CollapseMonitor
from vitlab.callbacks.online_probes import OnlineProbes
from vitlab.callbacks.tensorboard import OrderedTensorBoardLogger
from vitlab.callbacks.validation import Validation
from vitlab.config_safety import ClassesOnly
from vitlab.data import DataError, VisionDataModule
from vitlab.errors import InputError
from vitlab.launch import find_launch, plugin_launch
from vitlab.objectives import Pretrained  # all of them: YAML finds classes once imported
from vitlab.run import run_dir
from vitlab.run.module import Pretraining
from vitlab.run.trainer_checks import check_gpu, check_options, check_trainer, make_trainer
from vitlab.training.callbacks import RunCallbacks, run_callbacks
from vitlab.training.suggestions import check_keys, check_words
from vitlab.training.synthetic import Synthetic
from vitlab.usage_errors import reasons

HELP_TRAINER = "--help-trainer"
TRAINER = "Customize every aspect of training via flags:"
Kind = TypeVar("Kind", bound=Callback)


class FitParser(ClassesOnly, LightningArgumentParser):
    """Lightning's parser, which here builds classes and calls no function."""

    def format_help(self, *given: Any, **options: Any) -> str:
        """Return the help without the trainer's options, which are Lightning's, and many."""
        parts = self._help_parts(*given, **options)
        ours = [part for part in parts if not part.startswith(TRAINER)]
        return "\n\n".join([*ours, f"Options of the trainer: vitlab fit {HELP_TRAINER}\n"])

    def trainer_help(self) -> str:
        """Return the help on the trainer's options."""
        return next(part for part in self._help_parts() if part.startswith(TRAINER))

    def _help_parts(self, *given: Any, **options: Any) -> list[str]:
        return re.split(r"\n\n(?=\S)", super().format_help(*given, **options).rstrip())


class FitCLI(LightningCLI):
    """`vitlab fit` up to the first step: everything is parsed, checked and built.

    Args:
        args: words of the command line behind `fit`.
        build: whether anything is built; if not, the settings are only parsed and checked, as far
            as a machine can that has neither the data nor the GPUs.
        prog: name of the command, for its messages.
        callbacks: more of them, beside those of the config.
    """

    def __init__(
        self,
        args: Sequence[str],
        build: bool = True,
        prog: str = "vitlab fit",
        callbacks: Sequence[Callback] = (),
    ):
        self.build, self.callbacks = build, callbacks
        super().__init__(
            Pretraining,
            VisionDataModule,
            save_config_callback=None,  # the run folder keeps config.yaml, see `record`
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            parser_class=FitParser,
            parser_kwargs={
                "prog": prog,
                "usage": "vitlab fit --config FILE ... [options]",  # of the parser, 80 lines
                "description": "Pretrain an encoder and probe it while it trains. Several "
                "--config overlay each other; options on the command line come last.",
            },
            trainer_defaults={
                "enable_model_summary": False,
                "use_distributed_sampler": False,  # ours deals out global batches
                "log_every_n_steps": 10,
            },
            args=list(args),
            run=False,
        )

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the seed, with a help of our own: here every run has one."""
        text = "Seed of weights, data order, augmentation and drop path."
        parser.add_argument("--seed_everything", type=int, default=0, help=text)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of a run besides trainer, model and data."""
        parser.add_lightning_class_args(OnlineProbes, "probing")
        parser.add_lightning_class_args(Validation, "validation")
        parser.add_lightning_class_args(CheckpointCallback, "checkpoint")
        parser.add_lightning_class_args(CollapseMonitor, "collapse_monitor")
        parser.add_class_arguments(RunCallbacks, "callbacks")
        parser.add_class_arguments(Synthetic, "synthetic")
        text = "Folder of the run; by default runs/NAMES_OF_CONFIGS/seedN. Never overwritten."
        parser.add_argument("--run-dir", type=str, default="", help=text)
        text = "Continue a run: 'last' for the newest good checkpoint in its folder, 'auto' for "
        text += "the same, or a new run where there is none; or a file."
        parser.add_argument("--ckpt_path", type=str | None, default=None, help=text)
        text = "Continue a run though its data, or packages that make its images, have changed."
        parser.add_argument("--allow-changes", action="store_true", help=text)
        text = "Check everything, print the plan and stop before the first step."
        parser.add_argument("--dry-run", action="store_true", help=text)
        for target in ("data.init_args.seed", "model.seed"):
            parser.link_arguments("seed_everything", target)
        target = "model.objective.init_args.num_classes"  # of objectives that have it
        parser.link_arguments("data", target, _num_classes, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the given words, whatever the command line of the process is."""
        if HELP_TRAINER in args and isinstance(parser, FitParser):
            print(parser.trainer_help())
            sys.exit()
        args = check_words(args)
        check_keys(args, parser.get_defaults())
        self.config = parser.parse_args(args)

    @property
    def run_folder(self) -> Path:
        """Folder of the run: by default runs/NAMES_OF_CONFIGS/seedN."""
        names = [Path(str(path)).stem for path in self.config.get("config") or []] or ["unnamed"]
        default = Path("runs", "-".join(names), f"seed{self.config.seed_everything}")
        return Path(self.config.run_dir or default)

    def before_instantiate_classes(self) -> None:
        """Try the trainer's options, find the checkpoint to continue from, draw synthetic data."""
        options = self.config.trainer.as_dict()
        check_options(options)
        if not self.build:
            return
        self.launch = plugin_launch() if self._names_environment() else find_launch()
        check_gpu(options["accelerator"])
        if not self._names_environment():
            kinds = (bool, int, float, str)  # classes are built later
            plain: dict[str, Any] = {
                name: each for name, each in options.items() if isinstance(each, kinds)
            }
            plain |= {"plugins": self._cluster_environment(), "logger": False}
            check_trainer(make_trainer(plain))
        rank_zero_only.rank = 0 if self.launch.first else 1  # type: ignore[attr-defined]
        self.folder = folder = self.run_folder
        if (self.config.model.objective.get("init_args") or {}).get("num_classes") is not None:
            field = "model.objective.num_classes"
            raise InputError(
                f"{field} would be ignored: it is that of the data; leave it out", field=field
            )
        if first_rank():
            run_dir.check_unlocked(folder)
        # a job that SLURM has started again goes on, whatever --ckpt_path its script has
        restarted = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        again = restarted and run_dir.resumable_checkpoints(folder)
        asked = "auto" if again else self.config.ckpt_path
        if first_rank() or asked in ("last", "auto"):
            self.start = run_dir.find_resume_point(folder, asked)
        else:  # other ranks of a run start when the first has already made the folder
            self.start = run_dir.ResumePoint(Path(asked) if asked else None)
        checkpoint = self.start.checkpoint
        # however its path is spelled, and best.ckpt as well
        if first_rank() and checkpoint and folder.resolve() in checkpoint.resolve().parents:
            run_dir.check_same_settings(folder, yaml.safe_load(self.text()))
        dense = (self.config.probing.dense or {}).values()
        roots = [source.init_args.root for source in (self.config.data, *dense)]
        synthetic = Synthetic(**self.config.synthetic.as_dict())
        synthetic.draw(roots, first_rank(), allowed=not self.config.dry_run)

    def instantiate_classes(self) -> None:
        """Build everything.

        Raises:
            InputError: settings of the trainer, the data or the model that cannot be used.
        """
        try:
            if self.build:
                super().instantiate_classes()
        except MisconfigurationException as error:
            raise InputError(str(error)) from error
        except ValueError as error:
            # jsonargparse's own, of the link from data to num_classes
            if isinstance(error.__cause__, DataError) and not isinstance(error, InputError):
                raise error.__cause__ from None
            reason = "" if isinstance(error, InputError) else reasons(str(error))
            if "'Namespace' object" in str(error):
                reason = f"{error}; annotate arguments that take a class, as `encoder: Encoder`"
            if reason:
                raise InputError(f"a class of the config cannot be built: {reason}") from error
            raise

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Return a trainer that writes every file into the folder of the run."""
        built = self.config_init
        config = {**built.trainer, **kwargs}
        given = [*_listed(config["callbacks"]), *self.callbacks]
        config["callbacks"] = run_callbacks(built, given)
        given = config["logger"]
        loggers = (
            [OrderedTensorBoardLogger(self.folder)] if given in (None, True) else _listed(given)
        )
        # curves of an attempt that went further than its checkpoint end with that
        purge = self.start.step + 1 if self.start.checkpoint else 0
        settings = {"lr": built.model.settings.lr, "seed": self.config.seed_everything}
        config["logger"] = [
            OrderedTensorBoardLogger(each.save_dir, purge, settings)
            if isinstance(each, OrderedTensorBoardLogger)
            else each
            for each in loggers
        ]
        config["plugins"] = [*_listed(config["plugins"]), *self._cluster_environment()]
        return make_trainer({**config, "default_root_dir": str(self.folder)})

    def find(self, kind: type[Kind]) -> Kind | None:
        """Return the trainer's callback of a class, unless it has none."""
        return next((each for each in self.trainer.callbacks if isinstance(each, kind)), None)  # type: ignore[attr-defined]

    def _names_environment(self) -> bool:
        given = _listed(self.config.trainer.plugins)
        named = (each.get("class_path") if hasattr(each, "get") else each for each in given)
        return any(str(name).endswith("Environment") for name in named)

    def _cluster_environment(self) -> list[ClusterEnvironment]:
        """Return what Lightning could take another environment for."""
        if self.launch.by in ("shell", "rank", "a script"):
            return [LightningEnvironment()]
        if self.launch.by != "srun":
            return []
        # Lightning needs a variable that `srun -n N` does not set
        tasks = self.launch.world_size // int(os.environ.get("SLURM_NNODES", "1"))
        os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(tasks))
        return [SLURMEnvironment(auto_requeue=False)]  # `Preemption` does

    def after_instantiate_classes(self) -> None:
        """Make checkpoints self-describing: `Pretraining.load_from_checkpoint(path)` is enough."""
        if not self.build:
            return
        objective = self.model.objective
        defaults = self.parser.get_defaults().validation
        if self.config.validation != defaults and not objective.classifiers():
            raise InputError(
                f"validation is set, but {type(objective).__name__} trains no classifier and it "
                "would be ignored; leave it out",
                field="validation",
            )
        settings = yaml.safe_load(self.parser.dump(self.config, skip_link_targets=False))
        arguments = settings["model"]["objective"].setdefault("init_args", {})
        if objective.num_classes:
            arguments["num_classes"] = objective.num_classes
        for name in objective.file_arguments:
            arguments.pop(name, None)
        if objective.file_arguments or isinstance(objective.encoder, Pretrained):
            # nobody needs its file again: the checkpoint holds the weights
            plain = {
                name: asdict(value) if is_dataclass(value) else value  # type: ignore[arg-type]
                for name, value in objective.encoder.config.items()
            }
            arguments["encoder"] = {"class_path": "vitlab.encoders.ViT", "init_args": plain}
        self.model.save_hyperparameters(settings["model"], logger=False)

    def text(self) -> str:
        """Return the resolved config as YAML."""
        kept = self.config.clone()
        kept.allow_changes = False  # is meant for one start
        return self.parser.dump(kept, skip_link_targets=True, skip_none=False)


def _listed(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given] if given else []


def _num_classes(data: VisionDataModule) -> int:
    return data.num_classes


def first_rank() -> bool:
    """Whether this process is the first of the run, before ranks can exchange anything."""
    return getattr(rank_zero_only, "rank", 0) == 0
