"""The command `vitlab`: a table of verbs; what a verb needs is imported when it is run."""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from vitlab.code_version import describe
from vitlab.errors import InputError, UsageError, nearest
from vitlab.launch import clear_variables
from vitlab.terminal import complain, safe_output

# of each verb, its file in vitlab.commands, with its function if that is not `run`, and a summary
VERBS = {
    "fit": ("fit", "pretrain an encoder and probe it while it trains"),
    "plan": ("plan", "try some steps of a run: speed, memory, hours, disk, what to change"),
    "submit": ("submit", "run fit as a job of SLURM, or as one for each seed"),
    "runs": ("runs", "list runs: state, step, scores, last checkpoint, job"),
    "replay": ("replay", "take a step again at which a run met NaN or infinity"),
    "measure": ("measure", "measure a run's checkpoints afterwards, with the probes of fit"),
    "curves": ("curves", "draw the curves of runs and tabulate them, arms side by side"),
    "evaluate": ("evaluate", "evaluate frozen features by a named protocol; --list shows them"),
    "compare": ("compare", "put evaluations side by side: a table, a plot, paired differences"),
    "figure": ("figure", "draw photographs as encoders see them: PCA, attention, parts, masks"),
    "analyze": ("analyze", "look into encoders: tokens, attention, rank by block, as a report"),
    "report calibration": ("report:calibration", "show what calibration changes in classifiers"),
    "report prompts": ("report:prompts", "compare prompt tuning with the linear probe"),
    "configs": ("configs", "list the configs that come with vitlab; --copy NAME gives one"),
    "cost": ("cost", "measure what encoders cost: parameters, FLOPs, memory, images per second"),
    "import": ("convert:import_weights", "turn weights of DINO, DINOv2, DeiT, timm into ours"),
    "export": ("convert:export_weights", "write a run's encoder for vitlab, or for timm"),
    "data check": ("data:check", "say which dataset a folder holds, and what is wrong with it"),
    "data voc-masks": ("data:voc_masks", "convert masks of VOC 2012 and SBD to class indices"),
    "data synthesize": ("data:synthesize", "draw miniature data sets, to try things out"),
}

# verbs of other programs
INSTEAD = {
    **dict.fromkeys(("train", "pretrain", "resume", "finetune"), "fit"),
    **dict.fromkeys(("eval", "validate", "test", "benchmark"), "evaluate or measure"),
    **dict.fromkeys(("predict", "visualize", "show"), "figure"),
    **dict.fromkeys(("profile", "estimate", "find-batch-size"), "plan"),
    **dict.fromkeys(("flops", "params"), "cost"),
    **dict.fromkeys(("plot", "log", "tensorboard"), "curves"),
    **dict.fromkeys(("list", "status", "ls"), "runs"),
    **dict.fromkeys(("convert", "load"), "import"),
    **dict.fromkeys(("save", "push"), "export"),
}

HELP = """\
usage: vitlab VERB [options]

What makes a vision transformer's patch features good for dense prediction?

verbs:
{verbs}

  vitlab VERB --help         every option of a verb, with its default
  vitlab fit --print_config  the resolved settings as YAML, ready to edit
  vitlab --version

examples:
  vitlab fit --config configs/dino_entmax.yaml --config configs/demo.yaml
  vitlab fit --config configs/dino_entmax.yaml --config configs/hardware/gpus_8.yaml \\
      --data.root /data/imagenet --probing.dense.voc2012.root /data/VOCdevkit
"""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        args: what follows `vitlab` on the command line; that of this process by default.

    Raises:
        SystemExit: with code 2 for input that cannot be used, after one message with the reason.
    """
    with safe_output():
        try:
            os.getcwd()
        except OSError:
            _refuse("the current folder no longer exists; change to one that does, with cd")
        _run(list(sys.argv[1:] if args is None else args))


def _run(words: list[str]) -> None:
    if os.environ.get("VITLAB_ALLOW"):  # which may name a file in the current folder
        sys.path.append(os.getcwd())
    if not words or words[0] in ("-h", "--help"):
        listed = (f"  {name:<17} {summary}" for name, (_, summary) in VERBS.items())
        print(HELP.format(verbs="\n".join(listed)), end="")
        return
    if words[0] == "--version":
        print(describe())
        return
    verb = next((name for name in VERBS if f"{' '.join(words)} ".startswith(f"{name} ")), "")
    if not verb:
        given = [word for word in words if not word.startswith("-")] or words
        name = " ".join(given[:2] if given[0] in ("data", "report") else given[:1])
        near = [name] if name in INSTEAD else nearest(name, [*VERBS, "--version"])
        near = list(
            dict.fromkeys(INSTEAD.get(each, each) for each in near or nearest(name, INSTEAD))
        )
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        _refuse(f"there is no verb {name}; {hint}`vitlab --help` lists them")
    file, _, function = VERBS[verb][0].partition(":")
    try:
        clear_variables()  # before anything reads them
    except ValueError as error:
        _refuse(str(error))
    try:
        run = getattr(importlib.import_module(f"vitlab.commands.{file}"), function or "run")
        run(words[len(verb.split()) :])
    except (ValueError, OSError) as error:
        if verb == "fit" and not isinstance(error, InputError):  # an error of the code
            raise
        # of an error in a loading process, only the message, not the traceback
        text = str(error).rpartition("DataError: ")[2]
        if isinstance(error, UsageError):
            text += f"\n`vitlab {verb} --help` lists the options"
        _refuse(text, verb)
    except KeyboardInterrupt:
        _refuse("interrupted; the same command begins again, or goes on where it can", verb)


def _refuse(text: str, verb: str = "") -> NoReturn:
    complain(text, " ".join(["vitlab", *verb.split()]))
    sys.exit(2)
