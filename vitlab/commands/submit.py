"""`vitlab submit`."""

import shlex
from collections.abc import Sequence
from dataclasses import replace

from vitlab.cluster.job import SubmitOptions, batch_script, refuse_queued, submit
from vitlab.commands.parser import parse
from vitlab.errors import InputError
from vitlab.terminal import say
from vitlab.training.suggestions import SECTIONS, check_words

EXAMPLES = """\
examples:
  vitlab submit --config configs/dino_entmax.yaml --num-nodes 2 --gpus-per-node 8 --time 48:00:00 \\
      --setup 'module load cuda' -- --data.root /data/imagenet
  vitlab submit --config configs/dino.yaml --time 2-00 --seeds 0-2 --dry-run   # three runs
  vitlab submit --config configs/dino.yaml --config configs/demo.yaml --time 4:00:00 \\
      --gpus-per-node 0 --tasks-per-node 2                                     # without GPUs
  vitlab runs                                                                  # their state
"""
# options of `vitlab fit` that follow from one of ours
INSTEAD = {
    "--config": "--config before the --",
    "--dry-run": "--dry-run before the --",
    "--trainer.devices": "--gpus-per-node, or --tasks-per-node on CPUs",
    "--trainer.num_nodes": "--num-nodes",
    "--trainer.accelerator": "--gpus-per-node, which is 0 for CPUs",
}


def run(words: Sequence[str]) -> None:
    """Make a batch script, and submit it or show it.

    Raises:
        InputError: options, config or the folder of the run do not allow the job.
    """
    words = list(words)
    split = words.index("--") if "--" in words else len(words)
    for option in (word.partition("=")[0] for word in words[:split]):
        if option[2:].partition(".")[0] in SECTIONS:
            raise InputError(f"{option} is an option of fit; put it behind --", field=option)
    options = parse(SubmitOptions, words[:split], "vitlab submit", EXAMPLES)
    fit_options = words[split + 1 :]
    _check_places(fit_options, bool(options.seeds))
    configs = [part for path in options.config for part in ("--config", path)]
    check_words([*configs, *fit_options])

    from vitlab.data.sampler import split_global_batch
    from vitlab.run import run_dir
    from vitlab.run.lightning_compat import quiet
    from vitlab.training.cli import FitCLI

    fit_words = [
        *configs,
        *("--trainer.devices", str(options.devices)),
        *("--trainer.num_nodes", str(options.num_nodes)),
        *("--trainer.accelerator", "gpu" if options.gpus_per_node else "cpu"),
        *fit_options,
    ]
    with quiet():  # the seed that Lightning sets is of no interest here
        parsed = FitCLI(fit_words, build=False, prog="vitlab submit")
    settings, root = parsed.config, parsed.run_folder.absolute()
    data, world_size = settings.data.init_args, options.devices * options.num_nodes
    split_global_batch(data.global_batch_size, world_size, data.micro_batch_size)
    if options.cpus_per_task is None:
        options = replace(options, cpus_per_task=data.num_workers + 1)
    if options.seeds and not settings.run_dir:
        root = root.parent  # which holds those of the seeds
    begin = settings.ckpt_path
    settings.run_dir, settings.ckpt_path = "", None  # the script gives them
    # a file is only where the first start begins: a requeued job continues by itself
    resume = ("--ckpt_path", "auto" if begin in (None, "last") else begin)
    command = shlex.join(["vitlab", "submit", *words])
    script = batch_script(options, root, resume, command)
    folders = options.folders(root)
    for folder in folders:
        refuse_queued(folder)
        run_dir.check_unlocked(folder)
        run_dir.find_resume_point(folder, begin)
    if options.dry_run:
        print(script, end="")
        return
    number = submit(options, root, script, parsed.text(), command)
    say(f"submitted job {number}, {options.job_name}; `vitlab runs` shows its state")
    for folder in folders:
        say(f"  {folder}")


def _check_places(fit_options: Sequence[str], seeds: bool) -> None:
    """Refuse options of fit behind the -- that follow from ours."""
    for option in (word.partition("=")[0] for word in fit_options):
        if option in INSTEAD or (seeds and option == "--seed_everything"):
            instead = INSTEAD.get(option, "--seeds")
            raise InputError(
                f"{option} is not for the part behind the --; use {instead}", field=option
            )
