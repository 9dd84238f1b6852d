"""Curves of runs over training, arms side by side: `vitlab curves`.

An arm is a group of runs that differ in the seed alone. Measurements are one long table with the
columns arm, run, encoder, epoch, tag and value.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitlab.atomic_io import read_json_as
from vitlab.errors import InputError
from vitlab.visualization.colors import LINE_COLORS

COLORS = LINE_COLORS[:6]  # black and gray are for what all arms share
LINES = ("-", "--", ":", "-.")  # once the colors are used up
COLUMNS = 4
FEATURES = "features/"
LOST = "lost by the end: best - last"
UNITS = {"outliers": "share", "rank": "rank", "cosine": "cosine", "diffusion": "cosine"}


@dataclass(frozen=True)
class MeasurementRow:
    """A row of measurements.json."""

    encoder: str
    epoch: int
    scores: dict[str, float | None]
    features: dict[str, float | None] = field(default_factory=dict)


def read(runs: Sequence[Path]) -> pd.DataFrame:
    """Return the measurements of runs as a long table.

    Folders named seed... with one parent are seeds of one arm, named after the parent, as
    `vitlab fit` lays them out: runs/dino_entmax/seed0, runs/dino_entmax/seed1. Any other folder is
    an arm by itself. Names have as many parents as distinguish all arms.

    Raises:
        InputError: a folder is not that of a run, its file is damaged, or nothing is measured.
    """
    folders = [run.resolve() for run in runs]
    arms = [each.parent if each.name.startswith("seed") else each for each in folders]
    for length in range(1, max(len(arm.parts) for arm in arms) + 1):
        names = ["/".join(arm.parts[-length:]) for arm in arms]
        if len(set(names)) == len(set(arms)):
            break
    records = [
        (name, number, row.encoder, row.epoch, tag, value)
        for number, (run, name) in enumerate(zip(runs, names, strict=True))
        for row in _read_rows(run)
        for tag, value in {**row.scores, **row.features}.items()
        if value is not None
    ]
    columns = ["arm", "run", "encoder", "epoch", "tag", "value"]
    return pd.DataFrame(records, columns=columns).drop_duplicates(columns[:-1], keep="last")


def _read_rows(run: Path) -> list[MeasurementRow]:
    file = run / "measurements.json"
    try:
        rows = read_json_as(file, list[MeasurementRow]) if file.exists() else []
    except InputError as error:
        raise InputError(
            f"{error}; take the run out, or measure it again with `vitlab measure {run}`",
            field=file.name,
        ) from error
    if not rows:
        raise InputError(
            f"nothing is measured in {run}: its measurements.json is empty or missing; name "
            "folders such as runs/dino_entmax/seed0, or those of `vitlab measure`",
            field="runs",
        )
    return rows


def common_tags(table: pd.DataFrame) -> list[str]:
    """Return the scores that every run has, in the order of measurement, then features.

    Raises:
        InputError: there are none.
    """
    of_runs = [list(each.unique()) for _, each in table.groupby("run")["tag"]]
    common = [tag for tag in of_runs[0] if all(tag in known for known in of_runs)]
    if not common:
        raise InputError(
            "these runs have no score in common; compare runs with the same probes", field="runs"
        )
    sets = [tag for tag in common if tag.startswith("miou/") and tag != "miou/mean"]
    shown = [tag for tag in common if tag != "miou/mean" or len(sets) > 1]
    return sorted(shown, key=_is_feature)


def peaks(table: pd.DataFrame, arm: str, tag: str) -> pd.DataFrame:
    """Return epoch and value of the best, the last value and their difference, for each seed."""
    selected = table.query("arm == @arm and tag == @tag and encoder == 'trained'")
    curves = selected.sort_values("epoch", kind="stable").groupby("run")["value"]
    best = selected.loc[curves.idxmax(), ["epoch", "value"]].set_axis(["epoch", "best"], axis=1)
    return best.assign(last=curves.last().array, lost=lambda found: found["best"] - found["last"])


def draw(table: pd.DataFrame) -> Figure:
    """Return a figure with a panel for each score: a line per arm, a band from worst to best.

    A star marks the peak of each line; a panel shows what each seed lost since its own.
    """
    tags = common_tags(table)
    scores = [tag for tag in tags if not _is_feature(tag)]
    titles = [*scores, LOST, *tags[len(scores) :]]
    columns = min(COLUMNS, len(titles))
    rows = -(-len(titles) // columns)
    size = (3.4 * columns, 2.9 * rows + 0.5)
    figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for panel, title in zip(grid.flat, titles, strict=False):
        panel.set_title(title.removeprefix(FEATURES), fontsize=10)
        if title == LOST:
            _draw_lost(panel, table, scores)
        else:
            _draw_score(panel, table, title)
    for panel in grid.flat[len(titles) :]:
        panel.remove()
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=COLUMNS,
        fontsize=8,
    )
    return figure


def _draw_score(panel: Axes, table: pd.DataFrame, tag: str) -> None:
    selected = table[table["tag"] == tag]
    for arm, color, line in _styles(table):
        runs = selected[(selected["arm"] == arm) & (selected["encoder"] != "pixels")]
        points = runs.groupby("epoch")["value"].agg(["mean", "min", "max"])
        seeds = table.loc[table["arm"] == arm, "run"].nunique()
        label = f"{arm} ({seeds} seed{'s' * (seeds > 1)})"
        panel.plot(points["mean"], line, marker="o", color=color, label=label, markersize=3)
        panel.fill_between(
            points.index, points["min"], points["max"], color=color, alpha=0.2, linewidth=0
        )
        trained = runs[runs["encoder"] == "trained"].groupby("epoch")["value"].mean()
        if len(trained) and not _is_feature(tag):
            top = trained.nlargest(1)
            panel.plot(top, "*", color=color, markersize=11, markeredgecolor="white")
    pixels = selected.loc[selected["encoder"] == "pixels", "value"]
    if len(pixels) and not _is_feature(tag):
        panel.axhline(pixels.mean(), color="0.5", linestyle=":", label="raw pixels")
    panel.plot([], [], "*", color="0.5", markersize=10, label="peak of the mean")
    panel.set(xlabel="epoch", ylabel=unit(tag))
    panel.grid(alpha=0.3)


def _draw_lost(panel: Axes, table: pd.DataFrame, tags: Sequence[str]) -> None:
    styles = _styles(table)
    for (index, (arm, color, line)), (row, tag) in product(enumerate(styles), enumerate(tags)):
        lost = peaks(table, arm, tag)["lost"]
        places = [row + 0.7 * ((index + 0.5) / len(styles) - 0.5)] * len(lost)
        inside = "white" if line != LINES[0] else color
        panel.plot(lost, places, "o-", color=color, markerfacecolor=inside, markersize=4, alpha=0.7)
    panel.set_yticks(range(len(tags)), tags, fontsize=8)
    panel.set_ylim(len(tags) - 0.5, -0.5)
    panel.set_xlim(left=min(0.0, panel.get_xlim()[0]))
    panel.set_xlabel("points; each seed")
    panel.grid(alpha=0.3, axis="x")


def summary(table: pd.DataFrame) -> str:
    """Return a Markdown table: baselines and last epoch of each arm, mean ± deviation."""
    tags = [tag for tag in common_tags(table) if not _is_feature(tag)]
    lines = []
    for arm, encoder in product(table["arm"].unique(), ("pixels", "untrained", "trained")):
        rows = table.query("arm == @arm and encoder == @encoder and tag in @tags")
        last = rows[rows["epoch"] == rows["epoch"].max()]
        if len(last):
            label = f"trained, epoch {last['epoch'].iloc[0]}" if encoder == "trained" else encoder
            values = [last.loc[last["tag"] == tag, "value"] for tag in tags]
            lines.append((arm, label, max(map(len, values)), *map(spread, values)))
    return _markdown(("arm", "encoder", "seeds", *(f"{tag}, {unit(tag)}" for tag in tags)), lines)


def degradation(table: pd.DataFrame) -> str:
    """Return a Markdown table: peak, best, last and best - last of each seed, mean ± deviation.

    Of features, only the last value: they have no best.
    """
    lines = []
    for arm, tag in product(table["arm"].unique(), common_tags(table)):
        seeds = peaks(table, arm, tag)
        if seeds.empty:
            continue
        decimals = 3 if _is_feature(tag) and "rank" not in tag else 1
        cells = [spread(seeds["epoch"], 0), *(spread(seeds[each]) for each in ("best", "lost"))]
        peak, best, lost = ["-"] * 3 if _is_feature(tag) else cells
        last = spread(seeds["last"], decimals)
        name = tag.removeprefix(FEATURES)
        lines.append((arm, name, unit(tag), len(seeds), peak, best, last, lost))
    heads = ("arm", "measure", "unit", "seeds", "peak epoch", "best", "last", "best - last")
    note = "best - last of each seed, from its own peak; noise alone makes it larger than 0."
    return f"{_markdown(heads, lines)}\n{note}\n"


def unit(tag: str) -> str:
    """Return the unit of a tag: scores are percent, but for losses; features have their own."""
    if _is_feature(tag):
        return next((kind for word, kind in UNITS.items() if word in tag), "")
    return "nats" if tag.endswith("/loss") else "%"


def spread(values: Sequence[float] | pd.Series, decimals: int = 1) -> str:
    """Return mean and sample deviation; the value alone for a single seed, - for none."""
    series = pd.Series(values, dtype=float)
    mean = f"{series.mean():.{decimals}f}" if len(series) else "-"
    return mean if len(series) < 2 else f"{mean} ± {series.std():.{decimals}f}"


def _is_feature(tag: str) -> bool:
    return tag.startswith(FEATURES)


def _styles(table: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Return each arm with its color and line."""
    return [
        (arm, COLORS[i % len(COLORS)], LINES[i // len(COLORS) % len(LINES)])
        for i, arm in enumerate(table["arm"].unique())
    ]


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)
