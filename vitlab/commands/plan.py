"""`vitlab plan`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vitlab.commands.parser import parse, split_words
from vitlab.errors import InputError, check_least
from vitlab.terminal import console, say
from vitlab.training.suggestions import OTHERS, check_words

EXAMPLES = """\
examples:
  vitlab plan --config configs/dino_entmax.yaml --config configs/demo.yaml
  vitlab plan --config configs/dino.yaml --config configs/hardware/gpu_1.yaml \\
      --data.root /data/imagenet --steps 20 --world-size 16 --out plan.json
  vitlab plan --config configs/dino.yaml --config configs/hardware/gpu_1.yaml \\
      --data.root /data/imagenet --data.num_workers 16      # would more loading processes help?
"""
HELP = {"-h", "--help"}


@dataclass(frozen=True)
class PlanOptions:
    """Try a run before it is launched: some real steps with its data, config and this machine.

    Takes every option of `vitlab fit` as well, and refuses what it refuses. Reports the time of a
    step by parts, the images/s of the loaders by themselves, whether memory and disk suffice, the
    hours of the run, and what to change first. Nothing is kept: no folder is made, the weights are
    thrown away. One device is measured, with its share of the batch; several are taken to be as
    many times as fast, and their communication is not counted.

    Args:
        steps: steps that count
        world_size: project to so many devices, too
        out: JSON file for all numbers; replaced at once
    """

    steps: int = 5
    world_size: int = 0
    out: Path | None = None

    def __post_init__(self) -> None:
        check_least(self, "--", {"steps": 1, "world_size": 0})
        if self.out is not None and self.out.is_dir():
            raise InputError(f"--out {self.out} is a folder; name a file", field="--out")


def run(words: Sequence[str]) -> None:
    """Measure some steps, project the run, and print what to change first.

    Raises:
        InputError: the run cannot work as configured, or the options of the trial are out of range.
    """
    own, fit_words = split_words(words, ("steps", "world-size", "out"))
    own += ["--help"] if HELP & {*fit_words} else []
    options = parse(PlanOptions, own, "vitlab plan", EXAMPLES)
    check_words(fit_words, (*OTHERS, "steps", "world-size", "out"))

    from vitlab.profiling.forecast import report
    from vitlab.profiling.trial import run_trial
    from vitlab.run.lightning_compat import quiet
    from vitlab.training.cli import FitCLI
    from vitlab.training.plan import plan_run, print_rows

    with quiet():
        cli = FitCLI(fit_words, prog="vitlab plan")
        if cli.start.finished:
            say(f"vitlab: the run in {cli.folder} is finished; nothing is left to do")
            return
        plan, rows = plan_run(cli)
    if options.world_size:
        cli.datamodule.batch_layout(options.world_size)
    print_rows("plan", rows)
    with quiet(), console(stderr=True).status("loaders, steps, probes ..."):
        trial, facts = run_trial(cli, plan, options.steps)
    report(trial, facts, options.world_size, options.out)
