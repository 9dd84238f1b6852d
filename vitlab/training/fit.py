"""`vitlab fit`: from a config to a finished run."""

import os
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path

import torch
import yaml
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from vitlab.data import Data, DataError
from vitlab.encoders import ViT
from vitlab.objectives import Pretrained  # all of them: YAML finds classes once imported
from vitlab.recording import environment, write_json
from vitlab.training import run
from vitlab.training.closing import conclude
from vitlab.training.metering import Metering
from vitlab.training.module import Pretraining
from vitlab.training.plan import prepare
from vitlab.training.preparing import Preparing
from vitlab.training.probing import Probing
from vitlab.training.scoring import Scoring


@dataclass(frozen=True)
class Synthetic:
    """The embedded data set, drawn when a run reads below its folder and it is not there yet.

    Args:
        root: folder of the drawn data sets; empty for none.
        seed: of the drawing.
    """

    root: str = ""
    seed: int = 0


class Command(LightningCLI):
    """The parser of `vitlab fit`, and the objects it builds."""

    def __init__(self, args: Sequence[str]):
        super().__init__(
            Pretraining,
            Data,
            save_config_callback=None,  # the run folder keeps config.yaml, see `record`
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            parser_kwargs={
                "prog": "vitlab fit",
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
        parser.add_argument(
            "--seed_everything",
            type=int,
            default=0,
            help="Seed of weights, data order, augmentation and drop path.",
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what a run has besides trainer, model and data."""
        parser.add_lightning_class_args(Probing, "probing")
        parser.add_lightning_class_args(Scoring, "scoring")
        parser.add_class_arguments(Synthetic, "synthetic")
        parser.add_argument(
            "--run",
            type=str,
            default="",
            help="Folder of the run; by default runs/NAMES_OF_CONFIGS/seedN. Never overwritten.",
        )
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="Continue a run: 'last' for the last checkpoint in its folder, or a file.",
        )
        parser.add_argument(
            "--dry_run",
            type=bool,
            default=False,
            help="Check everything, print the plan and stop before the first step.",
        )
        for target in ("data.init_args.seed", "model.seed"):
            parser.link_arguments("seed_everything", target)
        # of objectives that have it
        target = "model.objective.init_args.num_classes"
        parser.link_arguments("data", target, _classes, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args) -> None:
        """Parse the given words, whatever the command line of the process is."""
        self.config = parser.parse_args(args)

    def before_instantiate_classes(self) -> None:
        """Settle the run's folder, before any work; draw the embedded data if they are read."""
        configs = [str(path) for path in self.config.get("config") or []]
        folder = self.config.run or run.default_folder(configs, self.config.seed_everything)
        self.folder = Path(folder)
        if (self.config.model.objective.get("init_args") or {}).get("num_classes") is not None:
            raise ValueError(
                "model.objective.num_classes would be ignored: it is that of the data; leave it out"
            )
        requeued = bool(os.environ.get("SLURM_RESTART_COUNT")) and (self.folder / run.LAST).exists()
        asked = self.config.ckpt_path or ("last" if requeued else None)
        # other ranks of a run start when the first has already made the folder
        self.checkpoint = (
            run.starting_point(self.folder, asked)
            if _first_rank()
            else (self.folder / run.LAST if asked == "last" else asked)
        )
        self.draw()

    def draw(self) -> None:
        """Draw the embedded data sets where the config reads from them."""
        root = self.config.synthetic.root
        dense = self.config.probing.dense.values()
        roots = [source.init_args.root for source in (self.config.data, *dense)]
        if root and any(Path(root).resolve() in Path(used).resolve().parents for used in roots):
            from vitlab.data.synthetic import MARKER, synthesize

            if _first_rank():
                synthesize(Path(root), self.config.synthetic.seed)
            for _ in range(600):  # seconds; under SLURM all ranks start at once
                if (Path(root) / MARKER).exists():
                    return
                time.sleep(1)
            raise ValueError(f"the first rank did not draw {root} in ten minutes; see its messages")

    def instantiate_trainer(self, **kwargs) -> Trainer:
        """Return a trainer whose every file goes to the run's folder."""
        measuring = [self.config_init.probing, self.config_init.scoring]
        extra = [Preparing(), *measuring, Metering(), _last_checkpoint(self.folder)]
        config = {**self.config_init.trainer, **kwargs}
        for key, unset, instead in (
            ("default_root_dir", None, "--run"),
            ("accumulate_grad_batches", 1, "--data.device_batch"),
        ):
            if config[key] != unset:
                raise ValueError(f"trainer.{key} would be ignored; use {instead}")
        config["default_root_dir"] = str(self.folder)
        if config["enable_progress_bar"] is not False:
            extra.append(RichProgressBar(leave=True))
        if config["logger"] is None:
            config["logger"] = TensorBoardLogger(self.folder, name="", version="")
        config["callbacks"] = [*(config["callbacks"] or []), *extra]
        return Trainer(**config)

    def after_instantiate_classes(self) -> None:
        """Make checkpoints self-describing: `Pretraining.load_from_checkpoint(path)` is enough."""
        settings = yaml.safe_load(self.parser.dump(self.config, skip_link_targets=False))
        objective = self.model.objective
        arguments = settings["model"]["objective"].setdefault("init_args", {})
        if objective.num_classes:
            arguments["num_classes"] = objective.num_classes
        for name in objective.files:
            arguments.pop(name, None)
        if objective.files or isinstance(objective.encoder, Pretrained):
            # nobody needs its file again: the checkpoint holds the weights
            arguments["encoder"] = {
                "class_path": "vitlab.encoders.ViT",
                "init_args": _plain(objective.encoder),
            }
        instantiator = {"_instantiator": "lightning.pytorch.cli.instantiate_module"}
        self.model.save_hyperparameters({**settings["model"], **instantiator}, logger=False)

    @rank_zero_only
    def record(self) -> None:
        """Write the resolved config and the environment into the run's folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = self.parser.dump(self.config, skip_link_targets=True, skip_none=False)
        (self.folder / "config.yaml").write_text(text)
        write_json(self.folder / "environment.json", environment())


def fit(args: Sequence[str]) -> None:
    """Run `vitlab fit`.

    Args:
        args: words of the command line after `fit`.

    Raises:
        SystemExit: with code 2 for input that cannot be used, 1 for a run that had to stop.
    """
    try:
        command = Command(args)
        trainer, probing = command.trainer, command.config_init.probing
        plan = prepare(
            trainer, command.model, command.datamodule, probing, command.config_init.scoring
        )
    except DataError as error:
        _stop(f"{error}\n`vitlab data check --root DIR` says more about a folder of data", 2)
    except (ValueError, MisconfigurationException) as error:
        _stop(error, 2)
    rank_zero_only(plan.show)()
    if command.config.dry_run:
        return
    command.record()
    # Lightning 2.6 itself calls what newer torch calls deprecated
    warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)")
    # the folder is ours and guarded by `run.starting_point`
    warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
    # frozen encoders and references are meant to be
    warnings.filterwarnings("ignore", r"Found .* module\(s\) in eval mode")
    try:
        checkpoint = command.checkpoint
        trainer.fit(command.model, command.datamodule, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:  # Lightning's way to end after Ctrl-C
        saved = (command.folder / run.LAST).exists()
        how = f"continue with --run {command.folder} --ckpt_path last" if saved else "start anew"
        _stop(f"interrupted; {how}", 1)
    except (DataError, FloatingPointError) as error:
        # of an error in a loading process, only what it says, not where
        _stop(str(error).rpartition("DataError: ")[2], 1)
    except torch.OutOfMemoryError as error:
        _stop(f"{error}\nset --data.device_batch lower, which accumulates micro-batches", 1)
    except ValueError as error:
        if trainer.global_step or checkpoint is None:
            raise
        _stop(error, 2)  # the checkpoint did not fit
    conclude(trainer, probing, command.folder)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # without it, finished runs were seen to abort at the interpreter's exit
        torch.distributed.destroy_process_group()


def _classes(data: Data) -> int:
    return data.num_classes


def _plain(encoder: ViT) -> dict[str, object]:
    """Return the arguments of an encoder as YAML holds them."""
    return {
        name: asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        for name, value in encoder.config.items()
    }


def _last_checkpoint(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(
        dirpath=folder, filename=Path(run.LAST).stem, enable_version_counter=False
    )


def _first_rank() -> bool:
    return getattr(rank_zero_only, "rank", 0) == 0


def _stop(reason: object, code: int) -> None:
    print(f"vitlab: {reason}", file=sys.stderr)
    sys.exit(code)
