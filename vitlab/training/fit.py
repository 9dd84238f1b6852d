"""`vitlab fit`: from a config to a finished run."""

import signal
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import NoReturn

import torch
from lightning import Callback, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from vitlab import signals
from vitlab.callbacks.checkpoint import AtomicCheckpointIO
from vitlab.callbacks.preemption import Preempted, Preemption
from vitlab.callbacks.rank_watchdog import RankWatchdog, is_lost_rank, lost_rank, watch_local_ranks
from vitlab.callbacks.status import StatusWriter
from vitlab.callbacks.throughput import ThroughputMonitor
from vitlab.cluster.slurm import check_tasks, count_tasks
from vitlab.data import DataError
from vitlab.training import run_dir
from vitlab.training.cli import ParserCLI, first_rank
from vitlab.training.exit_codes import FAILED, REFUSED, ending, resume_hint
from vitlab.training.plan import plan_run
from vitlab.training.preparing import Preparing
from vitlab.training.summary import write_summary


class FitCLI(ParserCLI):
    """The command line of `vitlab fit`, and the trainer it describes."""

    def instantiate_trainer(self, **kwargs) -> Trainer:
        """Return a trainer whose every file goes to the run's folder."""
        given = self.config_init
        callbacks: list[Callback] = [
            Preemption(given.checkpoint),  # first, as an epoch's end takes long
            Preparing(),
            given.collapse_monitor,
            given.probing,
            given.validation,
            ThroughputMonitor(),
            RankWatchdog(partial(resume_hint, self.folder)),
            StatusWriter(),
            given.checkpoint,  # last, with what the others have found
        ]
        config = {**given.trainer, **kwargs}
        for key, unset, instead in (
            ("default_root_dir", None, "--run-dir"),
            ("accumulate_grad_batches", 1, "--data.micro_batch_size"),
        ):
            if config[key] != unset:
                raise ValueError(f"trainer.{key} would be ignored; use {instead}")
        if config["max_time"] is not None:  # Lightning would take it for the end of the run
            raise ValueError(
                "trainer.max_time would end the run for good, within an epoch; leave it out and "
                "start the run as `timeout 6h vitlab fit ...`, which asks it to stop: it can go on "
                "with --ckpt_path last"
            )
        config["default_root_dir"] = str(self.folder)
        if config["enable_progress_bar"] is not False:
            callbacks.append(RichProgressBar(leave=True))
        if config["logger"] is None:
            # curves of an attempt that went further than its checkpoint end with that
            purge = self.start.step + 1 if self.start.checkpoint else 0
            config["logger"] = TensorBoardLogger(self.folder, name="", version="", purge_step=purge)
        config["callbacks"] = [*(config["callbacks"] or []), *callbacks]
        config["plugins"] = [*(config["plugins"] or []), AtomicCheckpointIO()]
        count_tasks()
        trainer = Trainer(**config)
        # Lightning's handlers would write checkpoints and speak with other ranks at any moment
        trainer._signal_connector.register_signal_handlers = signals.listen  # type: ignore[method-assign]
        return trainer


def fit(args: Sequence[str]) -> None:
    """Run `vitlab fit`.

    Args:
        args: words of the command line after `fit`.

    Raises:
        SystemExit: with code 2 for input that cannot be used, 1 for a run that had to stop, 75 for
            one that was asked to stop and can go on.
    """
    with ExitStack() as held:
        try:
            command = FitCLI(args)
            given = command.config_init
            check_tasks(command.trainer.num_devices, command.trainer.num_nodes)
            if command.start.finished:
                print(f"vitlab: the run in {command.folder} is finished; nothing is left to do")
                return
            plan = plan_run(
                command.trainer, command.model, command.datamodule, given.probing, given.validation
            )
            rank_zero_only(plan.show)()
            if command.config.dry_run:
                return
            if first_rank():
                held.enter_context(run_dir.run_lock(command.folder))
            command.record()
        except OSError as error:  # of the run's folder, as a rule
            _stop(f"{error}. See to it, then start the same command again", REFUSED)
        except (ValueError, MisconfigurationException) as error:
            reason: object = error
            if str(error).startswith("Call to compute_fn"):  # jsonargparse's words for a link
                reason = error.__cause__
            about = "\n`vitlab data check --root DIR` says more about a folder of data"
            _stop(f"{reason}{about if isinstance(reason, DataError) else ''}", REFUSED)
        _train(command)
        try:
            write_summary(command.trainer, given.probing, command.folder)
        except OSError as error:
            _leave_group()
            _stop(f"{error}. See to it, then {resume_hint(command.folder)}", FAILED)
    _leave_group()


def _train(command: FitCLI) -> None:
    """Train, and end with the reason where that does not come to its end."""
    # Lightning 2.6 itself calls what newer torch calls deprecated
    warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)")
    # frozen encoders and references are meant to be
    warnings.filterwarnings("ignore", r"Found .* module\(s\) in eval mode")
    trainer, start, folder = command.trainer, command.start, command.folder
    if start.damaged and first_rank():
        for reason in start.damaged:
            print(f"vitlab: {reason}", file=sys.stderr)
        print(f"vitlab: going on from {start.checkpoint}, step {start.step}", file=sys.stderr)
        run_dir.rename_damaged(start, folder)
    watch_local_ranks(partial(resume_hint, folder))
    signals.listen(signal.SIGINT)  # from here on there is something to lose
    try:
        trainer.fit(
            command.model, command.datamodule, ckpt_path=start.checkpoint, weights_only=True
        )
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        if is_lost_rank(error):
            lost_rank(error, partial(resume_hint, folder))
        end = ending(error, folder, begun=bool(trainer.global_step) or start.checkpoint is None)
        if end is None:
            raise
        if isinstance(error, Preempted | FloatingPointError):
            _leave_group()
            if not trainer.is_global_zero:
                sys.exit(0)  # all ranks agree; the first one speaks
        _stop(end.reason, end.code)


def _leave_group() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # without it, finished runs were seen to abort at the interpreter's exit
        torch.distributed.destroy_process_group()


def _stop(reason: object, code: int) -> NoReturn:
    print(f"vitlab: {reason}", file=sys.stderr)
    sys.exit(code)
