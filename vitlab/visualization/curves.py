"""`vitlab curves`: what became of the features over training, arms side by side."""

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vitlab.probes.degradation import Peak, course, peak
from vitlab.visualization.colors import LINE_COLORS

COLORS = LINE_COLORS[:6]  # black and gray are for what all arms share
LINES = ("-", "--", ":", "-.")  # once the colors are used up
COLUMNS = 4
FEATURES = "features/"
LOST = "lost by the end: best - last"


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
            for epoch, value in course(run, tag, encoder):
                found[epoch].append(value)
        return dict(sorted(found.items()))

    def peaks(self, tag: str) -> list[Peak]:
        """Return the peak of each seed that has the score."""
        return [found for run in self.runs if (found := peak(run, tag)) is not None]


def curves(runs: list[Path], out: Path = Path("curves")) -> None:
    """Draw curves and print tables of runs: baselines, last epoch, what was lost since the peak.

    Folders named seed... with one parent are seeds of one arm, named after the parent, as
    `vitlab fit` lays them out: runs/dino_entmax/seed0, runs/dino_entmax/seed1. Any other folder is
    an arm of its own.

    Args:
        runs: folders of runs.
        out: name of the files to write, without ending: a figure (.png and .svg) and tables (.md).
    """
    arms = read(runs)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure = draw(arms)
    figure.savefig(out.with_suffix(".png"), dpi=120)
    with plt.rc_context({"svg.hashsalt": "vitlab"}):  # the same runs give the same file
        figure.savefig(out.with_suffix(".svg"), metadata={"Date": None})
    plt.close(figure)
    text = table(arms) + "\n" + degradation(arms)
    out.with_suffix(".md").write_text(text)
    print(text, end="")


def read(runs: Sequence[Path]) -> list[Arm]:
    """Return the arms of these runs, in the order they are named.

    Raises:
        ValueError: a folder is not that of a run, its file is damaged, or nothing is measured.
    """
    grouped: dict[Path, list] = defaultdict(list)
    for run in runs:
        file = run / "measurements.json"
        if not file.is_file():
            raise ValueError(
                f"{run} is not the folder of a run: it has no measurements.json; name folders "
                "such as runs/dino_entmax/seed0, or what `vitlab measure` wrote"
            )
        try:
            rows = json.loads(file.read_text())
            if not all(isinstance(row["scores"], dict) for row in rows):
                raise ValueError("its rows have no scores")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(
                f"{file} is damaged ({error}); take the run out, or measure it anew with "
                f"`vitlab measure {run}`"
            ) from error
        if not rows:
            raise ValueError(f"nothing is measured in {run} yet; wait for the run, or leave it out")
        folder = run.resolve()
        arm = folder.parent if folder.name.startswith("seed") else folder
        grouped[arm].append(rows)
    folders = list(grouped)
    return [Arm(name, grouped[arm]) for arm, name in zip(folders, named(folders), strict=True)]


def named(folders: Sequence[Path]) -> list[str]:
    """Return the name of each folder, with as many of its parents as tell all apart."""
    for length in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-length:]) for folder in folders]
        if len(set(names)) == len(names):
            break
    return names


def tags(arms: Sequence[Arm]) -> list[str]:
    """Return the scores that every run has, in the order of measurement, and behind them features.

    Raises:
        ValueError: there are none.
    """
    runs = [run for arm in arms for run in arm.runs]
    of_runs = [{tag: None for row in run for tag in _values(row)} for run in runs]
    common = [tag for tag in of_runs[0] if all(tag in known for known in of_runs)]
    if not common:
        raise ValueError("these runs have no score in common; compare runs with the same probes")
    sets = [tag for tag in common if tag.startswith("miou/") and tag != "miou/mean"]
    shown = [tag for tag in common if tag != "miou/mean" or len(sets) > 1]
    return sorted(shown, key=lambda tag: tag.startswith(FEATURES))


def draw(arms: Sequence[Arm]) -> Figure:
    """Return a figure with a panel for each score: a line per arm, a band from worst to best.

    A star marks the peak of each line; a panel shows what each seed lost since its own.
    """
    names = tags(arms)
    columns = min(COLUMNS, len(names) + 1)
    rows = -(-(len(names) + 1) // columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(3.4 * columns, 2.9 * rows + 0.5),
        layout="constrained",
        squeeze=False,
    )
    panels = list(grid.flat)
    scores = [tag for tag in names if not tag.startswith(FEATURES)]
    features = names[len(scores) :]
    rest = panels[len(scores) + 1 :]
    for panel, tag in (*zip(panels, scores, strict=False), *zip(rest, features, strict=False)):
        _draw_score(panel, arms, tag)
    _draw_lost(panels[len(scores)], arms, scores)
    for panel in rest[len(features) :]:
        panel.remove()
    handles, labels = panels[0].get_legend_handles_labels()
    handles.append(Line2D([], [], color="0.5", marker="*", markersize=10, linestyle=""))
    labels.append("peak of the mean")
    figure.legend(handles, labels, loc="outside lower center", ncols=COLUMNS, fontsize=8)
    return figure


def _draw_score(panel: Axes, arms: Sequence[Arm], tag: str) -> None:
    for arm, (color, line) in zip(arms, _styles(len(arms)), strict=True):
        trained = arm.scores("trained", tag)
        points = {**arm.scores("untrained", tag), **trained}
        means = {epoch: statistics.mean(values) for epoch, values in points.items()}
        epochs = list(points)
        seeds = f"{len(arm.runs)} seed{'s' if len(arm.runs) > 1 else ''}"
        panel.plot(
            epochs,
            list(means.values()),
            line,
            marker="o",
            color=color,
            label=f"{arm.name} ({seeds})",
            markersize=3,
        )
        worst, best = ([pick(points[epoch]) for epoch in epochs] for pick in (min, max))
        panel.fill_between(epochs, worst, best, color=color, alpha=0.2, linewidth=0)
        if trained and not tag.startswith(FEATURES):
            top = max(trained, key=means.__getitem__)
            panel.plot(top, means[top], "*", color=color, markersize=11, markeredgecolor="white")
    pixels = [score for arm in arms for row in arm.scores("pixels", tag).values() for score in row]
    if pixels and not tag.startswith(FEATURES):
        panel.axhline(statistics.mean(pixels), color="0.5", linestyle=":", label="raw pixels")
    panel.set_title(tag.removeprefix(FEATURES), fontsize=10)
    panel.set(xlabel="epoch", ylabel=unit(tag))
    panel.grid(alpha=0.3)


def _draw_lost(panel: Axes, arms: Sequence[Arm], names: Sequence[str]) -> None:
    for index, (arm, (color, line)) in enumerate(zip(arms, _styles(len(arms)), strict=True)):
        for row, tag in enumerate(names):
            lost = [found.lost for found in arm.peaks(tag)]
            if not lost:
                continue
            place = row + 0.7 * ((index + 0.5) / len(arms) - 0.5)
            panel.plot([min(lost), max(lost)], [place, place], color=color, linewidth=2, alpha=0.4)
            inside = "white" if line != LINES[0] else color
            panel.plot(
                lost, [place] * len(lost), "o", color=color, markerfacecolor=inside, markersize=4
            )
    panel.set_yticks(range(len(names)), names, fontsize=8)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.set_xlim(left=min(0.0, panel.get_xlim()[0]))
    panel.set_title(LOST, fontsize=10)
    panel.set_xlabel("points; each seed")
    panel.grid(alpha=0.3, axis="x")


def table(arms: Sequence[Arm]) -> str:
    """Return a Markdown table: baselines and last epoch of each arm, mean ± deviation."""
    names = [tag for tag in tags(arms) if not tag.startswith(FEATURES)]
    heads = [f"{tag}, {unit(tag)}" for tag in names]
    lines = [_line("arm", "encoder", "seeds", *heads), _line(*["---"] * (3 + len(names)))]
    for arm in arms:
        for encoder in ("pixels", "untrained", "trained"):
            columns = [arm.scores(encoder, tag) for tag in names]
            last = max((max(column) for column in columns if column), default=None)
            if last is None:
                continue
            label = f"trained, epoch {last}" if encoder == "trained" else encoder
            cells = [spread(column[last]) if last in column else "-" for column in columns]
            seeds = max(len(column.get(last, ())) for column in columns)
            lines.append(_line(arm.name, label, seeds, *cells))
    return "\n".join(lines) + "\n"


def degradation(arms: Sequence[Arm]) -> str:
    """Return a Markdown table: peak, best, last and best - last of each seed, mean ± deviation.

    Of features, only the last value: they have no best.
    """
    heads = ("arm", "measure", "unit", "seeds", "peak epoch", "best", "last", "best - last")
    lines = [_line(*heads), _line(*["---"] * len(heads))]
    for arm, tag in product(arms, tags(arms)):
        peaks = arm.peaks(tag)
        if not peaks:
            continue
        cells = [spread([found.last for found in peaks], digits(tag))]
        if tag.startswith(FEATURES):
            cells = ["-", "-", *cells, "-"]
        else:
            epochs = spread([float(found.epoch) for found in peaks], 0)
            best, lost = (spread([pick(found) for found in peaks]) for pick in (_best, _lost))
            cells = [epochs, best, *cells, lost]
        lines.append(_line(arm.name, tag.removeprefix(FEATURES), unit(tag), len(peaks), *cells))
    note = "best - last of each seed, from its own peak; noise alone makes it larger than 0."
    return "\n".join(lines) + f"\n\n{note}\n"


def unit(tag: str) -> str:
    """Return the unit of a tag: scores are percent, but for a loss; features say their own."""
    if tag.startswith(FEATURES):
        kinds = {"outliers": "share", "rank": "rank", "cosine": "cosine", "diffusion": "cosine"}
        return next((kind for word, kind in kinds.items() if word in tag), "")
    return "nats" if tag.endswith("/loss") else "%"


def digits(tag: str) -> int:
    """Return how many decimals a value is shown with."""
    return 3 if tag.startswith(FEATURES) and "rank" not in tag else 1


def spread(scores: Sequence[float], decimals: int = 1) -> str:
    """Return mean and sample deviation; of a single seed, which has none, the value."""
    if len(scores) == 1:
        return f"{scores[0]:.{decimals}f}"
    return f"{statistics.mean(scores):.{decimals}f} ± {statistics.stdev(scores):.{decimals}f}"


def _best(found: Peak) -> float:
    return found.best


def _lost(found: Peak) -> float:
    return found.lost


def _values(row: dict) -> dict[str, float]:
    return {**row["scores"], **row.get("features", {})}


def _styles(count: int) -> list[tuple[str, str]]:
    return [(COLORS[i % len(COLORS)], LINES[i // len(COLORS) % len(LINES)]) for i in range(count)]


def _line(*cells: object) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
