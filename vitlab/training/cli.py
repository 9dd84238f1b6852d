"""The command line of `vitlab fit`: its options, its config, the folder of the run."""

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path

import yaml
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

from vitlab.atomic_io import environment, write_bytes, write_json
from vitlab.callbacks.checkpoint import CheckpointCallback
from vitlab.callbacks.collapse_monitor import CollapseMonitor
from vitlab.callbacks.online_probes import OnlineProbes
from vitlab.callbacks.validation import Validation
from vitlab.config_safety import check_command_line
from vitlab.data import VisionDataModule
from vitlab.encoders import ViT
from vitlab.objectives import Pretrained  # all of them: YAML finds classes once imported
from vitlab.training import run_dir
from vitlab.training.module import Pretraining


@dataclass(frozen=True)
class Synthetic:
    """The embedded data set, drawn when a run reads below its folder and it is not there yet.

    Args:
        root: folder of the drawn data sets; empty for none.
        seed: of the drawing.
    """

    root: str = ""
    seed: int = 0


class ParserCLI(LightningCLI):
    """What can be said on the command line of `vitlab fit`, and the run's folder."""

    def __init__(self, args: Sequence[str]):
        super().__init__(
            Pretraining,
            VisionDataModule,
            save_config_callback=None,  # the run folder keeps config.yaml, see `record`
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            parser_kwargs={
                "prog": "vitlab fit",
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
        parser.add_argument(
            "--seed_everything",
            type=int,
            default=0,
            help="Seed of weights, data order, augmentation and drop path.",
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what a run has besides trainer, model and data."""
        parser.add_lightning_class_args(OnlineProbes, "probing")
        parser.add_lightning_class_args(Validation, "validation")
        parser.add_lightning_class_args(CheckpointCallback, "checkpoint")
        parser.add_lightning_class_args(CollapseMonitor, "collapse_monitor")
        parser.add_class_arguments(Synthetic, "synthetic")
        parser.add_argument(
            "--run-dir",
            type=str,
            default="",
            help="Folder of the run; by default runs/NAMES_OF_CONFIGS/seedN. Never overwritten.",
        )
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="Continue a run: 'last' for the newest good checkpoint in its folder, 'auto' for "
            "the same, or a new run where there is none; or a file.",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="Check everything, print the plan and stop before the first step.",
        )
        for target in ("data.init_args.seed", "model.seed"):
            parser.link_arguments("seed_everything", target)
        # of objectives that have it
        target = "model.objective.init_args.num_classes"
        parser.link_arguments("data", target, _classes, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args) -> None:
        """Parse the given words, whatever the command line of the process is."""
        check_command_line(args)
        self.config = parser.parse_args(args)

    def before_instantiate_classes(self) -> None:
        """Settle the run's folder, before any work; draw the embedded data if they are read."""
        configs = [str(path) for path in self.config.get("config") or []]
        folder = self.config.run_dir or run_dir.default_folder(configs, self.config.seed_everything)
        self.folder = Path(folder)
        if (self.config.model.objective.get("init_args") or {}).get("num_classes") is not None:
            raise ValueError(
                "model.objective.num_classes would be ignored: it is that of the data; leave it out"
            )
        if first_rank():
            run_dir.check_unlocked(self.folder)
        # a job that SLURM has started again goes on, whatever its script says
        again = int(os.environ.get("SLURM_RESTART_COUNT", "0")) and run_dir.resumable_checkpoints(
            self.folder
        )
        asked = "auto" if again else self.config.ckpt_path
        if first_rank() or asked in ("last", "auto"):
            self.start = run_dir.find_resume_point(self.folder, asked)
        else:  # other ranks of a run start when the first has already made the folder
            self.start = run_dir.ResumePoint(Path(asked) if asked else None)
        from_here = self.start.checkpoint
        # however its path is spelled, and best.ckpt as well
        if first_rank() and from_here and self.folder.resolve() in from_here.resolve().parents:
            run_dir.check_same_settings(self.folder, yaml.safe_load(self.text()))
        self.draw()

    def draw(self) -> None:
        """Draw the embedded data sets where the config reads from them."""
        root = self.config.synthetic.root
        dense = self.config.probing.dense.values()
        roots = [source.init_args.root for source in (self.config.data, *dense)]
        if root and any(Path(root).resolve() in Path(used).resolve().parents for used in roots):
            from vitlab.data.synthetic import MARKER, synthesize

            if first_rank():
                synthesize(Path(root), self.config.synthetic.seed)
            for _ in range(600):  # seconds; under SLURM all ranks start at once
                if (Path(root) / MARKER).exists():
                    return
                time.sleep(1)
            raise ValueError(f"the first rank did not draw {root} in ten minutes; see its messages")

    def after_instantiate_classes(self) -> None:
        """Make checkpoints self-describing: `Pretraining.load_from_checkpoint(path)` is enough."""
        settings = yaml.safe_load(self.parser.dump(self.config, skip_link_targets=False))
        objective = self.model.objective
        arguments = settings["model"]["objective"].setdefault("init_args", {})
        if objective.num_classes:
            arguments["num_classes"] = objective.num_classes
        for name in objective.file_arguments:
            arguments.pop(name, None)
        if objective.file_arguments or isinstance(objective.encoder, Pretrained):
            # nobody needs its file again: the checkpoint holds the weights
            arguments["encoder"] = {
                "class_path": "vitlab.encoders.ViT",
                "init_args": _plain(objective.encoder),
            }
        instantiator = {"_instantiator": "lightning.pytorch.cli.instantiate_module"}
        self.model.save_hyperparameters({**settings["model"], **instantiator}, logger=False)

    def text(self) -> str:
        """Return the resolved config as YAML."""
        return self.parser.dump(self.config, skip_link_targets=True, skip_none=False)

    @rank_zero_only
    def record(self) -> None:
        """Write the resolved config and the environment into the run's folder."""
        write_bytes(self.folder / run_dir.CONFIG, self.text().encode())
        write_json(self.folder / "environment.json", environment())


def _classes(data: VisionDataModule) -> int:
    return data.num_classes


def _plain(encoder: ViT) -> dict[str, object]:
    """Return the arguments of an encoder as YAML holds them."""
    return {
        name: asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        for name, value in encoder.config.items()
    }


def first_rank() -> bool:
    """Whether this process is the first of the run, before ranks can speak with each other."""
    return getattr(rank_zero_only, "rank", 0) == 0
