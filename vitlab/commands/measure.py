"""`vitlab measure`."""

from collections.abc import Sequence
from pathlib import Path

from vitlab.commands.parser import parse
from vitlab.errors import InputError
from vitlab.training.measure_options import MeasureOptions

EXAMPLES = """\
examples:
  vitlab measure runs/dino/seed0
  vitlab measure runs/dino/seed* runs/dino_entmax/seed* --dense ade20k=/data/ADEChallengeData2016
  vitlab measure checkpoint0020.pth checkpoint0040.pth --family dino --which teacher \\
      --data.root /data/imagenet --images 100000 --dense voc2012=/data/VOCdevkit --out measured/dino
  vitlab curves measured/dino/seed*
"""


def run(words: Sequence[str]) -> None:
    """Measure checkpoints.

    Raises:
        InputError: checkpoints, data or folders do not allow it; before anything is measured.
    """
    options = parse(MeasureOptions, words, "vitlab measure", EXAMPLES)
    from vitlab.commands.device import choose_device
    from vitlab.training.checkpoint_probes import SeriesProbes
    from vitlab.training.checkpoint_series import find_series

    device = choose_device(options.device).type
    found = find_series(options.checkpoints)
    root = options.out or Path("measured")
    folders = [root if options.out and len(found) == 1 else root / each.name for each in found]
    if len(set(folders)) < len(folders):
        raise InputError(
            "several of these runs would be written to one folder, as their folders have one "
            "name; measure them one by one, each with its --out",
            field="--out",
        )
    probes = [
        SeriesProbes(series, folder, options) for series, folder in zip(found, folders, strict=True)
    ]
    for each in probes:
        each.show_plan()
    for each in () if options.dry_run else probes:
        each.measure(device)
