"""`vitlab plan`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from vitlab.errors import InputError

HELP = """\
Try a run before it is launched: some real steps with its data, its config and the device of this
machine. Reports the time of a step by parts, the images/s of the loaders by themselves, whether
memory and disk suffice, the hours of the run, and what to change first.

Takes every option of `vitlab fit`, and refuses what it refuses. Nothing is kept: no folder is made,
the weights are thrown away. One device is measured, with its share of the batch; several are taken
to be as many times as fast, and their communication is not counted.
"""
EXAMPLES = """\
examples:
  vitlab plan --config configs/dino_entmax.yaml --config configs/demo.yaml
  vitlab plan --config configs/dino.yaml --config configs/hardware/gpu_1.yaml \\
      --data.root /data/imagenet --steps 20 --world-size 16 --out plan.json
  vitlab plan --config configs/dino.yaml --config configs/hardware/gpu_1.yaml \\
      --data.root /data/imagenet --data.num_workers 16      # would more loading processes help?
"""


def run(words: Sequence[str]) -> None:
    """Measure some steps, project the run, and print what to change first.

    Raises:
        InputError: the run cannot work as configured, or the options of the trial are out of range.
    """
    options, fit_words = _parser().parse_known_args(list(words))
    if options.steps < 1 or options.world_size < 0:
        raise InputError(
            f"--steps {options.steps} --world-size {options.world_size}: give at least 1 step, and "
            "the number of devices of the run",
            field="--steps" if options.steps < 1 else "--world-size",
        )
    if options.out is not None and options.out.is_dir():
        raise InputError(f"--out {options.out} is a folder; name a file", field="--out")
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from rich.console import Console
    from rich.progress import Progress

    from vitlab.profiling.report import report
    from vitlab.profiling.trial import WARM_UP, run_trial
    from vitlab.run.lightning_compat import quiet
    from vitlab.training.cli import FitCLI
    from vitlab.training.plan import plan_run

    try:
        with quiet():
            cli = FitCLI(fit_words)
            if cli.start.finished:
                print(f"vitlab: the run in {cli.folder} is finished; nothing is left to do")
                return
            settings = cli.config_init
            plan = plan_run(
                cli.trainer, cli.model, cli.datamodule, settings.probing, settings.validation
            )
    except MisconfigurationException as error:
        raise InputError(str(error)) from error
    if options.world_size:
        cli.datamodule.batch_layout(options.world_size)
    plan.show()
    with quiet(), Progress(console=Console(stderr=True), transient=True) as bar:
        parts = 3 + len(settings.probing.dense)  # loaders, image probes, validation
        task = bar.add_task("loaders alone", total=options.steps + WARM_UP + parts)

        def progress(done: str) -> None:
            bar.update(task, advance=1, description=f"done: {done}")

        trial, facts = run_trial(cli, plan, options.steps, progress)
    report(trial, facts, options.world_size, options.out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "vitlab plan",
        usage="vitlab plan --config FILE ... [--steps N] [--world-size N] [--out FILE] "
        "[options of vitlab fit]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=HELP,
        epilog=EXAMPLES,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--steps", type=int, default=5, help="optimizer steps that count (default: 5)")
    add("--world-size", type=int, default=0, help="project to this number of devices as well")
    add("--out", type=Path, help="JSON file for all numbers; replaced at once")
    return parser
