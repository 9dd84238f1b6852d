"""The command `vitlab`. Imports what a verb needs when the verb is known: --help is immediate."""

import sys
from collections.abc import Sequence

from vitlab import __version__

HELP = """\
usage: vitlab VERB [options]

What makes a vision transformer's patch features good for dense prediction?

verbs:
  fit               pretrain an encoder and probe it while it trains
  data synthesize   draw miniature ImageNet, VOC 2012, ADE20K and Cityscapes, to try things out

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
        SystemExit: with code 2 for input that cannot be used, after one message that says why.
    """
    words = list(sys.argv[1:] if args is None else args)
    match words:
        case [] | ["-h" | "--help", *_]:
            print(HELP, end="")
        case ["--version", *_]:
            print(f"vitlab {__version__}")
        case ["fit", *rest]:
            from vitlab.training.fit import fit

            fit(rest)
        case ["data", "synthesize", *rest]:
            _synthesize(rest)
        case ["data", *rest]:
            sys.exit(f"vitlab data {' '.join(rest)}: unknown; the verb is 'data synthesize'")
        case [verb, *_]:
            sys.exit(f"vitlab: unknown verb {verb!r}; the verbs are fit and data synthesize")


def _synthesize(args: Sequence[str]) -> None:
    from jsonargparse import auto_cli

    from vitlab.data.synthetic import synthesize

    try:
        auto_cli(synthesize, args=list(args), prog="vitlab data synthesize", as_positional=False)
    except ValueError as error:
        print(f"vitlab: {error}", file=sys.stderr)
        sys.exit(2)
