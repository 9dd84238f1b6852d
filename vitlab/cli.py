"""The command `vitlab`: a table of verbs; what a verb needs is imported when it is run."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from vitlab import __version__


class Verb(NamedTuple):
    """A verb of `vitlab`.

    Attributes:
        summary: a line for the help.
        place: file of `vitlab.commands`, and its function of the command line behind the verb.
        explains: whether an error it raises is one of its input, so that its message is enough.
    """

    summary: str
    place: str
    explains: bool = True

    def run(self, words: Sequence[str]) -> None:
        """Import the function and call it; end with the reason where its input cannot be used."""
        file, _, name = self.place.partition(":")
        try:
            getattr(importlib.import_module(f"vitlab.commands.{file}"), name or "run")(words)
        except (ValueError, OSError) as error:
            if not self.explains:
                raise
            # of an error in a loading process, only the message, not the traceback
            _refuse(f"vitlab: {str(error).rpartition('DataError: ')[2]}")
        except KeyboardInterrupt:
            _refuse("vitlab: interrupted; the same command begins again, or goes on where it can")


VERBS = {
    "fit": Verb("pretrain an encoder and probe it while it trains", "fit", explains=False),
    "plan": Verb("try some steps of a run: speed, memory, hours, disk, what to change", "plan"),
    "submit": Verb("run fit as a job of SLURM, or as one for each seed", "submit"),
    "runs": Verb("list runs: state, step, scores, last checkpoint, job", "runs"),
    "replay": Verb("take a step again at which a run met NaN or infinity", "replay"),
    "measure": Verb("measure a run's checkpoints afterwards, with the probes of fit", "measure"),
    "curves": Verb("draw the curves of runs and tabulate them, arms side by side", "curves"),
    "evaluate": Verb("evaluate frozen features by a named protocol; --list shows them", "evaluate"),
    "compare": Verb("put evaluations side by side: a table, a plot, paired differences", "compare"),
    "figure": Verb(
        "draw your own photographs as encoders see them: PCA, attention, similarity, parts, masks",
        "figure",
    ),
    "analyze": Verb(
        "look into encoders: tokens, attention, foreground and rank by block, as a report",
        "analyze",
    ),
    "report calibration": Verb(
        "compare classifiers before and after calibration", "report:calibration"
    ),
    "report prompts": Verb("compare prompt tuning with the linear probe", "report:prompts"),
    "configs": Verb("list the configs that come with vitlab; --copy NAME gives one", "configs"),
    "cost": Verb(
        "measure what encoders cost: parameters, FLOPs, memory, images per second",
        "cost",
    ),
    "import": Verb(
        "turn weights of DINO, DINOv2, DeiT, timm or LocAtViT into a vitlab folder",
        "import_weights",
    ),
    "export": Verb(
        "write the encoder of a run as a vitlab folder, or for timm",
        "export",
    ),
    "data check": Verb(
        "say which dataset a folder holds, what is wrong with it, and the remedy",
        "data_check",
    ),
    "data voc-masks": Verb(
        "convert masks of VOC 2012 from colors to indices, and SBD's to trainaug",
        "data_voc_masks",
    ),
    "data synthesize": Verb(
        "draw miniature ImageNet, VOC 2012, ADE20K and Cityscapes, to try things out",
        "data_synthesize",
    ),
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
    words = list(sys.argv[1:] if args is None else args)
    if not words or words[0] in ("-h", "--help"):
        listed = (f"  {name:<17} {verb.summary}" for name, verb in VERBS.items())
        print(HELP.format(verbs="\n".join(listed)), end="")
        return
    if words[0] == "--version":
        print(f"vitlab {__version__} in {Path(__file__).parent}")  # a wheel, or a clone
        return
    for name, verb in VERBS.items():
        parts = name.split()
        if words[: len(parts)] == parts:
            verb.run(words[len(parts) :])
            return
    _refuse(f"vitlab: unknown verb {' '.join(words[:2])!r}; the verbs are {', '.join(VERBS)}")


def _refuse(text: str) -> NoReturn:
    print(text, file=sys.stderr)
    sys.exit(2)
