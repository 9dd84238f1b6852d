"""`vitlab curves`: what became of the features over training, arms side by side."""

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

# Okabe and Ito's colors, which color-blind readers can tell apart
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


@dataclass(frozen=True)
class Arm:
    """Runs that differ in nothing but the seed.

    Attributes:
        name: of the arm.
        runs: the measurements of each run, as `measurements.json` holds them.
    """

    name: str
    runs: Sequence[Sequence[dict]]

    def scores(self, encoder: str, tag: str) -> dict[int, list[float]]:
        """Return the scores of all seeds, by epoch."""
        found: dict[int, list[float]] = defaultdict(list)
        for run in self.runs:
            for row in run:
                if row["encoder"] == encoder and tag in row["scores"]:
                    found[row["epoch"]].append(row["scores"][tag])
        return dict(sorted(found.items()))


def curves(runs: list[Path], out: Path = Path("curves")) -> None:
    """Draw curves and print a table of runs, mean and spread over the seeds of each arm.

    Folders named seed... with one parent are seeds of one arm, named after the parent, as
    `vitlab fit` lays them out: runs/dino_entmax/seed0, runs/dino_entmax/seed1. Any other folder is
    an arm of its own.

    Args:
        runs: folders of runs.
        out: name of the files to write, without ending: a picture (.png) and a table (.md).
    """
    arms = read(runs)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure = draw(arms)
    figure.savefig(out.with_suffix(".png"), dpi=120)
    plt.close(figure)
    text = table(arms)
    out.with_suffix(".md").write_text(text)
    print(text, end="")


def read(runs: Sequence[Path]) -> list[Arm]:
    """Return the arms of these runs, in the order they are named.

    Raises:
        ValueError: a folder is not that of a run.
    """
    grouped: dict[Path, list] = defaultdict(list)
    for run in runs:
        file = run / "measurements.json"
        if not file.is_file():
            raise ValueError(
                f"{run} is not the folder of a run: it has no measurements.json; name folders "
                "such as runs/dino_entmax/seed0"
            )
        folder = run.resolve()
        arm = folder.parent if folder.name.startswith("seed") else folder
        grouped[arm].append(json.loads(file.read_text()))
    return [Arm(arm.name, measurements) for arm, measurements in grouped.items()]


def tags(arms: Sequence[Arm]) -> list[str]:
    """Return the scores that every arm has, in the order of measurement."""
    first = arms[0].runs[0][-1]["scores"]
    common = [
        tag for tag in first if all(tag in run[-1]["scores"] for arm in arms for run in arm.runs)
    ]
    if not common:
        raise ValueError("these runs have no score in common; compare runs with the same probes")
    sets = [tag for tag in common if tag.startswith("miou/") and tag != "miou/mean"]
    return [tag for tag in common if tag != "miou/mean" or len(sets) > 1]


def draw(arms: Sequence[Arm]) -> Figure:
    """Return a figure with a panel for each score: a line per arm, a band from worst to best."""
    names = tags(arms)
    figure, panels = plt.subplots(
        1, len(names), figsize=(3.6 * len(names), 3.2), layout="constrained", squeeze=False
    )
    for panel, tag in zip(panels[0], names, strict=True):
        for arm, color in zip(arms, COLORS * len(arms), strict=False):
            points = {**arm.scores("untrained", tag), **arm.scores("trained", tag)}
            epochs = list(points)
            panel.plot(
                epochs,
                [statistics.mean(points[epoch]) for epoch in epochs],
                *("o-",),
                color=color,
                label=f"{arm.name} ({len(arm.runs)} seeds)",
                markersize=4,
            )
            worst, best = ([pick(points[epoch]) for epoch in epochs] for pick in (min, max))
            panel.fill_between(epochs, worst, best, color=color, alpha=0.2, linewidth=0)
        pixels = [
            score for arm in arms for row in arm.scores("pixels", tag).values() for score in row
        ]
        if pixels:
            panel.axhline(statistics.mean(pixels), color="0.5", linestyle=":", label="raw pixels")
        panel.set(title=tag, xlabel="epoch", ylabel="%")
        panel.grid(alpha=0.3)
    panels[0][0].legend(fontsize=8)
    return figure


def table(arms: Sequence[Arm]) -> str:
    """Return a Markdown table: baselines and last epoch of each arm, mean ± deviation."""
    names = tags(arms)
    lines = [
        "| arm | encoder | seeds | " + " | ".join(f"{tag}, %" for tag in names) + " |",
        "|---|---|---|" + "---|" * len(names),
    ]
    for arm in arms:
        for encoder in ("pixels", "untrained", "trained"):
            columns = [arm.scores(encoder, tag) for tag in names]
            if not columns[0]:
                continue
            last = max(columns[0])
            label = f"trained, epoch {last}" if encoder == "trained" else encoder
            cells = [spread(column[last]) if last in column else "-" for column in columns]
            lines.append(
                f"| {arm.name} | {label} | {len(columns[0][last])} | {' | '.join(cells)} |"
            )
    return "\n".join(lines) + "\n"


def spread(scores: Sequence[float]) -> str:
    """Return mean and sample deviation; of a single seed, which has none, the value."""
    if len(scores) == 1:
        return f"{scores[0]:.1f}"
    return f"{statistics.mean(scores):.1f} ± {statistics.stdev(scores):.1f}"
