"""`vitlab plan`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from vitlab.errors import InputError, check_least

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
    parser = argparse.ArgumentParser(
        "vitlab plan",
        usage="vitlab plan --config FILE ... [--steps N] [--world-size N] [--out FILE] "
        "[options of vitlab fit]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=HELP,
        epilog=EXAMPLES,
        allow_abbrev=False,
    )
    parser.add_argument("--steps", type=int, default=5, help="steps that count (default: 5)")
    parser.add_argument("--world-size", type=int, default=0, help="project to so many devices, too")
    parser.add_argument("--out", type=Path, help="JSON file for all numbers; replaced at once")
    options, fit_words = parser.parse_known_args(list(words))
    check_least(options, "--", {"steps": 1, "world_size": 0})
    if options.out is not None and options.out.is_dir():
        raise InputError(f"--out {options.out} is a folder; name a file", field="--out")

    from rich.console import Console

    from vitlab.profiling.forecast import report
    from vitlab.profiling.trial import run_trial
    from vitlab.run.lightning_compat import quiet
    from vitlab.training.cli import FitCLI
    from vitlab.training.plan import plan_run, print_rows

    with quiet():
        cli = FitCLI(fit_words)
        if cli.start.finished:
            print(f"vitlab: the run in {cli.folder} is finished; nothing is left to do")
            return
        plan, rows = plan_run(cli)
    if options.world_size:
        cli.datamodule.batch_layout(options.world_size)
    print_rows("plan", rows)
    with quiet(), Console(stderr=True).status("loaders, steps, probes ..."):
        trial, facts = run_trial(cli, plan, options.steps)
    report(trial, facts, options.world_size, options.out)
