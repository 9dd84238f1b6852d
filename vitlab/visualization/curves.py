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
from matplotlib.lines import Line2D

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
    scores: dict[str, float]
    features: dict[str, float] = field(default_factory=dict)


def curves(runs: Sequence[Path], out: Path = Path("curves")) -> None:
    """Draw curves and print tables of runs: baselines, last epoch, what was lost since the peak.

    Written are a figure (.png and .svg) and tables (.md), `out` is their name without ending.
    """
    table = read(runs)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure = draw(table)
    figure.savefig(out.with_suffix(".png"), dpi=120)
    with plt.rc_context({"svg.hashsalt": "vitlab"}):  # the same runs give the same file
        figure.savefig(out.with_suffix(".svg"), metadata={"Date": None})
    plt.close(figure)
    text = summary(table) + "\n" + degradation(table)
    out.with_suffix(".md").write_text(text)
    print(text, end="")


def read(runs: Sequence[Path]) -> pd.DataFrame:
    """Return the measurements of runs as a long table.

    Folders named seed... with one parent are seeds of one arm, named after the parent, as
    `vitlab fit` lays them out: runs/dino_entmax/seed0, runs/dino_entmax/seed1. Any other folder is
    an arm by itself.

    Raises:
        InputError: a folder is not that of a run, its file is damaged, or nothing is measured.
    """
    folders = [run.resolve() for run in runs]
    arms = [each.parent if each.name.startswith("seed") else each for each in folders]
    names = _unique_names(arms)
    records = []
    for number, (run, arm) in enumerate(zip(runs, arms, strict=True)):
        for row in _read_rows(run):
            records += [
                (names[arm], number, row.encoder, row.epoch, tag, value)
                for tag, value in {**row.scores, **row.features}.items()
            ]
    columns = ["arm", "run", "encoder", "epoch", "tag", "value"]
    return pd.DataFrame(records, columns=columns).drop_duplicates(columns[:-1], keep="last")


def _read_rows(run: Path) -> list[MeasurementRow]:
    file = run / "measurements.json"
    try:
        rows = read_json_as(file, list[MeasurementRow])
    except FileNotFoundError:
        raise InputError(
            f"{run} is not the folder of a run: it has no measurements.json; name folders such as "
            "runs/dino_entmax/seed0, or those of `vitlab measure`",
            field="runs",
        ) from None
    except InputError as error:
        raise InputError(
            f"{error}; take the run out, or measure it again with `vitlab measure {run}`",
            field=file.name,
        ) from error
    if not rows:
        raise InputError(
            f"nothing is measured in {run} yet; wait for the run, or leave it out", field="runs"
        )
    return rows


def _unique_names(folders: Sequence[Path]) -> dict[Path, str]:
    """Return the name of each folder, with as many of its parents as distinguish all."""
    names: dict[Path, str] = {}
    for length in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = {folder: "/".join(folder.parts[-length:]) for folder in folders}
        if len(set(names.values())) == len(names):
            break
    return names


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
    found = []
    for _, curve in selected.sort_values("epoch", kind="stable").groupby("run"):
        best = curve.loc[curve["value"].idxmax()]
        found.append((best["epoch"], best["value"], curve["value"].iloc[-1]))
    seeds = pd.DataFrame(found, columns=["epoch", "best", "last"])
    return seeds.assign(lost=seeds["best"] - seeds["last"])


def draw(table: pd.DataFrame) -> Figure:
    """Return a figure with a panel for each score: a line per arm, a band from worst to best.

    A star marks the peak of each line; a panel shows what each seed lost since its own.
    """
    tags = common_tags(table)
    scores = [tag for tag in tags if not _is_feature(tag)]
    count = len(tags) + 1
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    size = (3.4 * columns, 2.9 * rows + 0.5)
    figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    panels = list(grid.flat)
    lost = panels.pop(len(scores))
    for panel, tag in zip(panels, tags, strict=False):
        _draw_score(panel, table, tag)
    _draw_lost(lost, table, scores)
    for panel in panels[len(tags) :]:
        panel.remove()
    handles, labels = panels[0].get_legend_handles_labels()
    handles.append(Line2D([], [], color="0.5", marker="*", markersize=10, linestyle=""))
    labels.append("peak of the mean")
    figure.legend(handles, labels, loc="outside lower center", ncols=COLUMNS, fontsize=8)
    return figure


def _draw_score(panel: Axes, table: pd.DataFrame, tag: str) -> None:
    selected = table[table["tag"] == tag]
    for arm, color, line in _styles(table):
        runs = selected[(selected["arm"] == arm) & (selected["encoder"] != "pixels")]
        points = runs.groupby("epoch")["value"].agg(["mean", "min", "max"])
        seeds = table.loc[table["arm"] == arm, "run"].nunique()
        label = f"{arm} ({seeds} seed{'s' * (seeds > 1)})"
        panel.plot(
            points.index, points["mean"], line, marker="o", color=color, label=label, markersize=3
        )
        panel.fill_between(
            points.index, points["min"], points["max"], color=color, alpha=0.2, linewidth=0
        )
        trained = runs[runs["encoder"] == "trained"].groupby("epoch")["value"].mean()
        if len(trained) and not _is_feature(tag):
            top = trained.idxmax()
            best = [trained[top]]
            panel.plot([top], best, "*", color=color, markersize=11, markeredgecolor="white")
    pixels = selected.loc[selected["encoder"] == "pixels", "value"]
    if len(pixels) and not _is_feature(tag):
        panel.axhline(pixels.mean(), color="0.5", linestyle=":", label="raw pixels")
    panel.set_title(tag.removeprefix(FEATURES), fontsize=10)
    panel.set(xlabel="epoch", ylabel=unit(tag))
    panel.grid(alpha=0.3)


def _draw_lost(panel: Axes, table: pd.DataFrame, tags: Sequence[str]) -> None:
    styles = _styles(table)
    for (index, (arm, color, line)), (row, tag) in product(enumerate(styles), enumerate(tags)):
        lost = peaks(table, arm, tag)["lost"]
        if lost.empty:
            continue
        place = row + 0.7 * ((index + 0.5) / len(styles) - 0.5)
        ends = [lost.min(), lost.max()]
        panel.plot(ends, [place, place], color=color, linewidth=2, alpha=0.4)
        inside = "white" if line != LINES[0] else color
        places = [place] * len(lost)
        panel.plot(lost, places, "o", color=color, markerfacecolor=inside, markersize=4)
    panel.set_yticks(range(len(tags)), tags, fontsize=8)
    panel.set_ylim(len(tags) - 0.5, -0.5)
    panel.set_xlim(left=min(0.0, panel.get_xlim()[0]))
    panel.set_title(LOST, fontsize=10)
    panel.set_xlabel("points; each seed")
    panel.grid(alpha=0.3, axis="x")


def summary(table: pd.DataFrame) -> str:
    """Return a Markdown table: baselines and last epoch of each arm, mean ± deviation."""
    tags = [tag for tag in common_tags(table) if not _is_feature(tag)]
    lines = []
    for arm, encoder in product(table["arm"].unique(), ("pixels", "untrained", "trained")):
        rows = table[(table["arm"] == arm) & (table["encoder"] == encoder)]
        last = rows.loc[rows["tag"].isin(tags), "epoch"].max()
        if pd.isna(last):
            continue
        label = f"trained, epoch {last}" if encoder == "trained" else encoder
        values = [rows.loc[(rows["tag"] == tag) & (rows["epoch"] == last), "value"] for tag in tags]
        cells = [spread(each) if len(each) else "-" for each in values]
        lines.append((arm, label, max(map(len, values)), *cells))
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
        last = spread(seeds["last"], digits(tag))
        cells = ("-", "-", last, "-")
        if not _is_feature(tag):
            best, lost = spread(seeds["best"]), spread(seeds["lost"])
            cells = (spread(seeds["epoch"], 0), best, last, lost)
        lines.append((arm, tag.removeprefix(FEATURES), unit(tag), len(seeds), *cells))
    heads = ("arm", "measure", "unit", "seeds", "peak epoch", "best", "last", "best - last")
    note = "best - last of each seed, from its own peak; noise alone makes it larger than 0."
    return f"{_markdown(heads, lines)}\n{note}\n"


def unit(tag: str) -> str:
    """Return the unit of a tag: scores are percent, but for losses; features have their own."""
    if _is_feature(tag):
        return next((kind for word, kind in UNITS.items() if word in tag), "")
    return "nats" if tag.endswith("/loss") else "%"


def digits(tag: str) -> int:
    """Return the number of decimals of a value."""
    return 3 if _is_feature(tag) and "rank" not in tag else 1


def spread(values: Sequence[float] | pd.Series, decimals: int = 1) -> str:
    """Return mean and sample deviation; the value alone for a single seed."""
    series = pd.Series(values, dtype=float)
    mean = f"{series.mean():.{decimals}f}"
    return mean if len(series) == 1 else f"{mean} ± {series.std():.{decimals}f}"


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
