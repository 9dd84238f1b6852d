"""`vitlab submit`."""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vitlab.cluster import Job, Resources
from vitlab.config_safety import VARIABLE

HELP = """\
Run `vitlab fit` as a job of SLURM, with one process for each GPU.

The config is checked here, whole, before anything waits in a queue; the data are looked for on the
node. Before the time limit the run writes a checkpoint and the job queues again, until the run is
finished; after the failure of a node it goes on from the last checkpoint. The job runs the config
as it is now: later changes of its files do not reach it.

What follows -- are options of `vitlab fit`. The folder job/ in that of the run has the script, the
config and what the job prints.
"""
EXAMPLES = """\
examples:
  vitlab submit --config configs/dino_entmax.yaml --num-nodes 2 --gpus-per-node 8 --time 48:00:00 \\
      --setup 'module load cuda' -- --data.root /data/imagenet
  vitlab submit --config configs/dino.yaml --time 2-00 --seeds 0-2 --dry-run   # three runs
  vitlab submit --config configs/dino.yaml --config configs/demo.yaml --time 4:00:00 \\
      --gpus-per-node 0 --tasks-per-node 2                                     # without GPUs
  vitlab runs                                                                  # what became of it
"""
# options of `vitlab fit` that say the same as one of ours
INSTEAD = {
    "--config": "--config before the --",
    "--dry-run": "--dry-run before the --",
    "--trainer.devices": "--gpus-per-node, or --tasks-per-node on CPUs",
    "--trainer.num_nodes": "--num-nodes",
    "--trainer.accelerator": "--gpus-per-node, which is 0 for CPUs",
}


def run(words: Sequence[str]) -> None:
    """Make a batch script, and submit it or show it."""
    words = list(words)
    place = words.index("--") if "--" in words else len(words)
    given, rest = _parser().parse_args(words[:place]), words[place + 1 :]
    resources = _resources(given)  # what is wrong with it is said before anything heavy is imported
    for option in (word.partition("=")[0] for word in rest):
        if option in INSTEAD or (given.seeds and option == "--seed_everything"):
            instead = INSTEAD.get(option, "--seeds")
            raise ValueError(f"{option} is not for the part behind the --; use {instead}")

    from vitlab.cluster import submission
    from vitlab.training import run_dir as runs
    from vitlab.training.described import ParsedConfig

    configs = [part for path in given.config for part in ("--config", path)]
    described = ParsedConfig(
        [
            *("--trainer.enable_progress_bar", "false", *configs),  # which configs may overrule
            *("--trainer.devices", str(resources.devices)),
            *("--trainer.num_nodes", str(resources.num_nodes)),
            *("--trainer.accelerator", "gpu" if resources.gpus_per_node else "cpu"),
            *rest,
        ]
    )
    described.check_division()
    if given.cpus_per_task is None:
        workers = described.config.data.init_args.num_workers
        resources = replace(resources, cpus_per_task=workers + 1)
    begin = described.config.ckpt_path
    job = Job(
        name=given.name or re.sub(r"[^\w.+-]", "_", "-".join(Path(c).stem for c in given.config)),
        folder=described.place(bool(given.seeds)),
        start=Path.cwd(),
        python=sys.executable,
        # a job that is started again goes on by itself, so a file is where it begins only
        words=("--ckpt_path", "auto" if begin in (None, "last") else begin),
        resources=resources,
        setup=given.setup,
        seeds=given.seeds,
        allow=os.environ.get(VARIABLE, ""),
        command=shlex.join(["vitlab", "submit", *words]),
    )
    for folder in job.folders():
        submission.refuse_queued(folder)
        runs.check_unlocked(folder)
        runs.find_resume_point(folder, begin)
    if given.dry_run:
        print(job.script(), end="")
        return
    number = submission.submit(job, described.text())
    print(f"submitted job {number}, {job.name}; `vitlab runs` says what becomes of it")
    for folder in job.folders():
        print(f"  {folder}")


def _resources(given: argparse.Namespace) -> Resources:
    same = [
        "time",
        "num_nodes",
        "gpus_per_node",
        "tasks_per_node",
        "cpus_per_task",
        "signal_before",
    ]
    same += ["partition", "account", "qos", "constraint", "mem"]
    asked = {name: getattr(given, name) for name in same if getattr(given, name) is not None}
    pairs = (option.partition("=") for option in given.sbatch)
    return Resources(**asked, options=tuple((name, value) for name, _, value in pairs))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "vitlab submit",
        usage="vitlab submit --config FILE ... --time LIMIT [options] -- [options of vitlab fit]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=HELP,
        epilog=EXAMPLES,
    )

    def add(name: str, kind: type, default: object, text: str, **more: object) -> None:
        parser.add_argument(f"--{name}", type=kind, default=default, help=text, **more)  # type: ignore[arg-type]

    add("config", str, None, "of vitlab fit; several overlay", action="append", required=True)
    add(
        "time",
        str,
        None,
        "limit of one start, such as 48:00:00 or 2-12 (days-hours)",
        required=True,
    )
    add("num-nodes", int, 1, "machines (default: 1)")
    add("gpus-per-node", int, 1, "processes and GPUs of each (default: 1); 0 for CPUs alone")
    add("tasks-per-node", int, 1, "processes of each, for CPUs alone (default: 1)")
    add(
        "cpus-per-task", int, None, "cores of each process (default: its loading processes and one)"
    )
    for name in ("partition", "account", "qos", "constraint", "mem"):
        add(name, str, "", "as sbatch takes it")
    add("seeds", str, "", "such as 0-2: a run for each seed, as an array of jobs")
    add("name", str, "", "of the job (default: the names of the configs)")
    add("setup", str, [], "line of bash before the run; several in order", action="append")
    add("signal-before", int, 120, "seconds before the limit at which the run stops (default: 120)")
    add("sbatch", str, [], "another option, such as mail-type=END; several", action="append")
    parser.add_argument(
        "--dry-run", action="store_true", help="show the script; nothing is written or submitted"
    )
    return parser
