"""`vitlab plan`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

HELP = """\
Try a run before it is launched: some real steps with its data, its config and the device of this
machine. Says where the time of a step goes, how many images/s the loaders give by themselves,
whether memory and disk suffice, how long the run will take, and what to change first.

Takes every option of `vitlab fit`, and refuses what it refuses. Nothing is kept: no folder is made,
the weights are thrown away. One device is measured, with its share of the batch; several are taken
to be as many times as fast, and what they say to each other is not counted.
"""
EXAMPLES = """\
examples:
  vitlab plan --config configs/dino_entmax.yaml --config configs/demo.yaml
  vitlab plan --config configs/dino.yaml --config configs/hardware/gpu_1.yaml \\
      --data.root /data/imagenet --steps 20 --world 16 --json plan.json
  vitlab plan --config configs/dino.yaml --config configs/hardware/gpu_1.yaml \\
      --data.root /data/imagenet --data.num_workers 16      # would more loading processes help?
"""


def run(words: Sequence[str]) -> None:
    """Measure some steps, project the run, and say what to change first.

    Raises:
        ValueError: what was given, what is allowed, what to do.
    """
    given, rest = _parser().parse_known_args(list(words))
    if given.steps < 1 or given.world < 0:
        raise ValueError(
            f"--steps {given.steps} --world {given.world}: give at least 1 step, and as many "
            "devices as the run may have"
        )
    if given.json is not None and given.json.is_dir():
        raise ValueError(f"--json {given.json} is a folder; name a file")
    from rich.console import Console
    from rich.progress import Progress

    from vitlab.profiling.report import report
    from vitlab.profiling.trial import WARM_UP, quiet, refusing, rehearse
    from vitlab.training.fit import FitCLI
    from vitlab.training.plan import plan_run

    with quiet(), refusing():
        command = FitCLI(rest)
        if command.start.finished:
            print(f"vitlab: the run in {command.folder} is finished; nothing is left to do")
            return
        settings = command.config_init
        plan = plan_run(
            command.trainer,
            command.model,
            command.datamodule,
            settings.probing,
            settings.validation,
        )
    if given.world:
        command.datamodule.batch_layout(given.world)
    plan.show()
    with quiet(), Progress(console=Console(stderr=True), transient=True) as progress:
        stages = 3 + len(settings.probing.dense)  # loaders, image probes, scores
        task = progress.add_task("loaders alone", total=given.steps + WARM_UP + stages)

        def tick(done: str) -> None:
            progress.update(task, advance=1, description=f"done: {done}")

        trial, facts = rehearse(command, plan, given.steps, tick)
    report(trial, facts, given.world, given.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "vitlab plan",
        usage="vitlab plan --config FILE ... [--steps N] [--world N] [--json FILE] "
        "[options of vitlab fit]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=HELP,
        epilog=EXAMPLES,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--steps", type=int, default=5, help="optimizer steps that count (default: 5)")
    add("--world", type=int, default=0, help="project to so many devices as well")
    add("--json", type=Path, help="file for all numbers; replaced at once")
    return parser
