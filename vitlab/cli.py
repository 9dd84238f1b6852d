"""The command `vitlab`. Imports what a verb needs when the verb is known: --help is immediate."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from vitlab import __version__

HELP = """\
usage: vitlab VERB [options]

What makes a vision transformer's patch features good for dense prediction?

verbs:
  fit               pretrain an encoder and probe it while it trains
  curves            draw the curves of runs and tabulate them, arms side by side
  evaluate          evaluate frozen features by a named protocol; --list shows them
  compare           put evaluations side by side: a table, a plot, paired differences
  cost              measure what encoders cost: parameters, FLOPs, memory, images per second
  import            turn weights of DINO, DINOv2, DeiT, timm or LocAtViT into a vitlab folder
  export            write the encoder of a run as a vitlab folder, or for timm
  data check        say which dataset a folder holds, what is wrong with it, and the remedy
  data prepare      do the remedies that are safe: extract archives, build SBD's masks
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
        case ["curves" | "cost" | "evaluate" | "compare" as verb, *rest]:
            works = {"curves": _curves, "cost": _cost, "evaluate": _evaluate, "compare": _compare}
            works[verb](rest)
        case ["import" | "export" as verb, *rest]:
            _weights(verb, rest)
        case ["data", *rest]:
            _data(rest)
        case [verb, *_]:
            _refuse(
                f"vitlab: unknown verb {verb!r}; the verbs are fit, curves, evaluate, compare, "
                "cost, import, export, data check, data prepare and data synthesize"
            )


def _data(words: Sequence[str]) -> None:
    match words:
        case ["check", *rest]:
            _check(rest)
        case ["prepare", *rest]:
            _prepare(rest)
        case ["synthesize", *rest]:
            _synthesize(rest)
        case _:
            _refuse(
                f"vitlab data {' '.join(words)}: unknown; the verbs are data check, data prepare "
                "and data synthesize"
            )


def _curves(args: Sequence[str]) -> None:
    import argparse

    from vitlab.analysis.curves import curves

    parser = argparse.ArgumentParser(
        "vitlab curves", description=(curves.__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        help="folders of runs; seed* folders with one parent are one arm: runs/dino/seed*",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("curves"), help="the files to write, without ending"
    )
    given = parser.parse_args(args)
    _or_say_why(lambda: curves(given.runs, given.out))


def _cost(args: Sequence[str]) -> None:
    import argparse

    parser = argparse.ArgumentParser(
        "vitlab cost",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measure what encoders cost, side by side: parameters, FLOPs of an image, "
        "bytes it keeps\nuntil backward, images per second forward, and forward and backward. "
        "With one config, every\noption of its ViT is measured beside it: entmax15, specialized, "
        "locality with and without\nrefinement, registers. Nothing is trained, no data are read.",
        epilog="examples:\n"
        "  vitlab cost --config configs/dino_entmax.yaml\n"
        "  vitlab cost --config configs/dino.yaml configs/dino_locat.yaml --sizes 224 "
        "--out cost.md\n"
        "  vitlab cost --config runs/dino/seed0/config.yaml --batch 64 --device cuda",
    )
    parser.add_argument(
        "--config",
        nargs="+",
        type=Path,
        required=True,
        help="configs of vitlab fit, or config.yaml of runs; of each, only the encoder is used",
    )
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=int,
        default=[224, 384, 512],
        help="pixels of image edges, multiples of the patch (default: 224 384 512)",
    )
    parser.add_argument("--batch", type=int, default=4, help="images of a pass (default: 4)")
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where to measure; auto takes the GPU where there is one (default)",
    )
    parser.add_argument(
        "--out", type=Path, help="file to write as well: .json, .md or .csv; replaced at once"
    )
    given = parser.parse_args(args)

    from vitlab.analysis.cost import cost
    from vitlab.training.configured import encoder_of

    def work() -> None:
        short = len({path.stem for path in given.config}) == len(given.config)
        names = [path.stem if short else str(path) for path in given.config]
        encoders = dict(zip(names, map(encoder_of, given.config), strict=True))
        cost(encoders, given.sizes, given.batch, given.device, given.out)

    _or_say_why(work)


def _evaluate(args: Sequence[str]) -> None:
    from vitlab.evaluation.command import evaluate_command

    _or_say_why(lambda: evaluate_command(args))


def _compare(args: Sequence[str]) -> None:
    import argparse

    from vitlab.evaluation.compare import compare

    text = (compare.__doc__ or "").partition("Args:")[0]
    parser = argparse.ArgumentParser("vitlab compare", description=text)
    parser.add_argument(
        "results",
        nargs="+",
        type=Path,
        help="folders of evaluations, their result.json, or folders above them",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="name of the files to write, without ending: .md, .csv, .tex, .png and .svg",
    )
    parser.add_argument(
        "--baseline",
        default="",
        help="row that others are compared with, by its label; in each table the first",
    )
    parser.add_argument(
        "--references", action="store_true", help="show published numbers as well, apart from ours"
    )
    given = parser.parse_args(args)
    _or_say_why(lambda: compare(given.results, given.out, given.baseline, given.references))


def _check(args: Sequence[str]) -> None:
    import argparse

    parser = argparse.ArgumentParser(
        "vitlab data check",
        description="Say which dataset a folder holds, what is wrong with it, and the remedy. The "
        "exit status is 1 if there is an error. The data are not changed; an index of their files "
        "may be kept in .vitlab beside them.",
    )
    parser.add_argument(
        "--root",
        type=Path,
        required=True,
        help="folder of one dataset, extracted or in its archives, or one of the folders above it",
    )
    parser.add_argument(
        "--deep",
        action="store_true",
        help="decode every file, not only some, and look for pictures that are in two splits",
    )
    given = parser.parse_args(args)

    from vitlab.data.checking import check

    def work() -> None:
        report = check(given.root, given.deep)
        report.show()
        if report.errors:
            sys.exit(1)

    _or_say_why(work)


def _prepare(args: Sequence[str]) -> None:
    from jsonargparse import auto_cli

    from vitlab.data.prepare import prepare

    prog = "vitlab data prepare"
    _or_say_why(lambda: auto_cli(prepare, args=list(args), prog=prog, as_positional=False))


def _weights(verb: str, args: Sequence[str]) -> None:
    from jsonargparse import auto_cli

    from vitlab.encoders import export, import_weights

    work: Callable[..., object] = export if verb == "export" else import_weights
    prog = f"vitlab {verb}"
    _or_say_why(lambda: print(auto_cli(work, args=list(args), prog=prog, as_positional=False)))


def _synthesize(args: Sequence[str]) -> None:
    from jsonargparse import auto_cli

    from vitlab.data.synthetic import synthesize

    prog = "vitlab data synthesize"
    _or_say_why(lambda: auto_cli(synthesize, args=list(args), prog=prog, as_positional=False))


def _or_say_why(work: Callable[[], object]) -> None:
    """Do work; end with the reason where its input cannot be used."""
    try:
        work()
    except (ValueError, OSError) as error:
        # of an error in a loading process, only what it says, not where
        _refuse(f"vitlab: {str(error).rpartition('DataError: ')[2]}")
    except KeyboardInterrupt:
        _refuse("vitlab: interrupted; the same command begins again, or goes on where it can")


def _refuse(text: str) -> NoReturn:
    print(text, file=sys.stderr)
    sys.exit(2)
