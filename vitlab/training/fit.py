"""`vitlab fit`: from a config to a finished run."""

import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from threading import Thread
from typing import NoReturn

import torch
from lightning.pytorch.utilities import rank_zero_only

from vitlab import signals
from vitlab.atomic_io import write_bytes
from vitlab.callbacks.preemption import Preempted
from vitlab.callbacks.rank_watchdog import end, is_lost_rank, lost_rank, watch_local_ranks
from vitlab.callbacks.status import StatusWriter
from vitlab.data import DataError
from vitlab.errors import UsageError
from vitlab.launch import check_launch, check_port
from vitlab.progress import ProgressBar
from vitlab.run import run_dir
from vitlab.run.lightning_compat import ignore_known_warnings, quiet
from vitlab.signals import STOPPED
from vitlab.terminal import complain, say
from vitlab.training.cli import FitCLI, first_rank
from vitlab.training.exit_codes import REFUSED, again, exit_reason
from vitlab.training.identity import compare_identity, identify, record_environment
from vitlab.training.plan import plan_run, print_rows
from vitlab.training.summary import write_summary

RANKS_TIMEOUT = 600.0  # seconds that the processes of a run may need to come


def fit(args: Sequence[str]) -> None:
    """Run `vitlab fit`.

    Args:
        args: words of the command line after `fit`.

    Raises:
        SystemExit: with code 2 for input that cannot be used, 1 for a run that had to stop, 75 for
            one that was asked to stop and can go on.
    """
    with ExitStack() as held:
        held.enter_context(quiet())
        ignore_known_warnings()
        try:
            with ProgressBar("reading the settings and the data"):
                cli = FitCLI(args)
            begun = begin(cli, held)
        except OSError as error:  # of the run's folder, as a rule
            _stop(f"{error}. See to it, then start the same command again", REFUSED)
        except UsageError:
            raise
        except ValueError as error:
            about = "\n`vitlab data check --root DIR` reports on a folder of data"
            _stop(f"{error}{about if isinstance(error, DataError) else ''}", REFUSED)
        if not begun:
            return
        try:
            train(cli)
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            _end(cli, error)
    leave_group()


def _check_processes(cli: FitCLI) -> None:
    """Refuse a run whose processes are not those that were started, or cannot meet."""
    trainer, launch = cli.trainer, cli.launch
    first = trainer.is_global_zero
    if not cli.config.dry_run:
        check_launch(launch, trainer.num_devices, trainer.num_nodes, first)
        # torchrun itself listens at its port
        if trainer.world_size > 1 and first and launch.by != "torchrun":
            check_port(trainer.strategy.cluster_environment.main_port)  # type: ignore[attr-defined]
    rank_zero_only.rank = trainer.global_rank  # type: ignore[attr-defined]


def begin(cli: FitCLI, held: ExitStack) -> bool:
    """Check and plan a run, and take its folder.

    Args:
        cli: of the run.
        held: holds the folder for this process until it is left.

    Returns:
        Whether there is something to train.

    Raises:
        InputError: settings that do not fit each other, the data or the machine.
        OSError: the folder cannot be written.
    """
    _check_processes(cli)
    if cli.start.finished:
        say(f"vitlab: the run in {cli.folder} is finished; nothing is left to do")
        return False
    with ProgressBar("checking the settings and the data"):
        plan, rows = plan_run(cli)
    rank_zero_only(print_rows)("plan", rows)
    identity = compare_identity(cli, identify(cli, plan)) if first_rank() else None
    if cli.config.dry_run:
        return False
    if identity:
        held.enter_context(run_dir.run_lock(cli.folder))
        write_bytes(cli.folder / run_dir.CONFIG, cli.text().encode())
        record_environment(cli.folder, identity)
    return True


def train(cli: FitCLI) -> None:
    """Train and write the summary.

    Raises:
        Preempted: the run was asked to stop; its checkpoint is written.
        FloatingPointError: the loss or a weight is not finite.
    """
    ignore_known_warnings()
    trainer, start, folder = cli.trainer, cli.start, cli.folder
    if start.damaged and first_rank():
        for reason in (*start.damaged, f"going on from {start.checkpoint}, step {start.step}"):
            complain(reason)
        run_dir.rename_damaged(start, folder)
    signals.end_by(partial(_end_at_once, cli))
    signals.listen(signal.SIGINT)  # from here on there is something to lose
    if trainer.world_size > 1:
        signals.wait_for(
            f"not all of the {trainer.world_size} processes of the run have come: see that each "
            "is started, has no other MASTER_ADDR and MASTER_PORT, and that they are reachable",
            RANKS_TIMEOUT,
        )
    with watch_local_ranks(partial(run_dir.resume_hint, folder)):
        trainer.fit(cli.model, cli.datamodule, ckpt_path=start.checkpoint, weights_only=True)
    done, planned = trainer.global_step, cli.model.progress.steps
    early = f"at step {done} of {planned}, by a callback" if done < planned else ""
    write_summary(trainer, early)


def _end_at_once(cli: FitCLI, reason: str, code: int) -> None:
    """End the process from another thread than the main one, which may wait for anything."""
    trainer, built, asked = cli.trainer, cli.config_init, signals.noted()
    further = built.checkpoint.step > cli.start.step
    hint = run_dir.resume_hint(cli.folder)
    if asked:
        hint = again(Preempted(asked, trainer.global_step, further)) or hint
    if writer := cli.find(StatusWriter):
        known = {"state": "stopped" if code == STOPPED else "failed", "reason": reason}
        writing = Thread(target=writer.write, args=[trainer], kwargs=known, daemon=True)
        writing.start()
        writing.join(2)  # if the disk answers
    end(f"{reason}; {hint}", code)


def _end(cli: FitCLI, error: BaseException) -> NoReturn:
    """End the process with the reason of a run that did not come to its end."""
    trainer, start, folder = cli.trainer, cli.start, cli.folder
    if is_lost_rank(error):
        lost_rank(error, partial(run_dir.resume_hint, folder))
    begun = bool(trainer.global_step) or start.checkpoint is None
    known = exit_reason(error, folder, begun)
    if known is None:
        raise error
    if isinstance(error, Preempted | FloatingPointError) or trainer.state.finished:
        leave_group()
        if not trainer.is_global_zero:
            sys.exit(0)  # all ranks agree; the first one reports it
    _stop(*known)


def leave_group() -> None:
    """Leave the group of ranks, if there is one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # without it, finished runs were seen to abort at the interpreter's exit
        torch.distributed.destroy_process_group()


def _stop(reason: object, code: int) -> NoReturn:
    complain(reason, f"vitlab{' fit' if code == REFUSED else ''}")
    sys.exit(code)
