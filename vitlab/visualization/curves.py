"""Curves of runs over training, arms side by side: `vitlab curves`.

An arm is a group of runs that differ in the seed alone. Measurements are one long table with the
columns arm, run, encoder, epoch, tag, title (of the tag, for people) and value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vitlab.atomic_io import read_json_as
from vitlab.errors import InputError
from vitlab.visualization.labels import (
    SEED,
    renamed,
    score_title,
    shortest_names,
    weights_names,
)
from vitlab.visualization.plots import (
    REFERENCE_DASH,
    Style,
    handle,
    new_figure,
    plot_line,
    plot_style,
    settle,
    styles_of,
)

FEATURES = "features/"
LOST = "lost by the end (best - last)"
UNITS = {"outliers": "share", "rank": "rank", "cosine": "cosine", "diffusion": "cosine"}


@dataclass(frozen=True)
class MeasurementRow:
    """A row of measurements.json."""

    encoder: str
    epoch: int
    scores: dict[str, float | None]
    features: dict[str, float | None] = field(default_factory=dict)


def read(
    runs: Sequence[Path], labels: Sequence[str] = (), metrics: Sequence[str] = ()
) -> pd.DataFrame:
    """Return the measurements of runs as a long table.

    Folders named seed... with one parent are seeds of one arm, named after the parent, as
    `vitlab fit` lays them out: runs/dino_entmax/seed0, runs/dino_entmax/seed1. Any other folder is
    an arm by itself. Names have as many parents as distinguish all arms.

    Args:
        runs: folders.
        labels: names of the arms, see `vitlab.visualization.labels.renamed`.
        metrics: names of the scores, alike.

    Raises:
        InputError: a folder is not that of a run, its file is damaged, nothing is measured, or
            names that do not fit.
    """
    folders = [run.resolve() for run in runs]
    arms = [each.parent if SEED.fullmatch(each.name) else each for each in folders]
    unique = list(dict.fromkeys(arms))
    names = shortest_names([[*weights_names(str(arm)), str(arm)] for arm in unique])
    called = dict(zip(unique, renamed(names, labels), strict=True))
    records = [
        (called[arm], number, row.encoder, row.epoch, tag, value)
        for number, (run, arm) in enumerate(zip(runs, arms, strict=True))
        for row in _read_rows(run)
        for tag, value in {**row.scores, **row.features}.items()
        if value is not None
    ]
    columns = ["arm", "run", "encoder", "epoch", "tag", "value"]
    table = pd.DataFrame(records, columns=columns).drop_duplicates(columns[:-1], keep="last")
    tags = list(table["tag"].unique())
    chosen = dict(zip(tags, renamed(tags, metrics, "--metrics"), strict=True))
    titles = {tag: name if name != tag else score_title(tag) for tag, name in chosen.items()}
    return table.assign(title=table["tag"].map(titles))


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

    A star marks the peak of each line. If any seed has lost since its own, a panel shows how much.
    """
    tags, titles = common_tags(table), _titles(table)
    scores = [tag for tag in tags if not _is_feature(tag)]
    styles = styles_of(list(table["arm"].unique()))
    lost = any(peaks(table, arm, tag)["lost"].any() for arm, tag in product(styles, scores))
    seeds = table.groupby("arm")["run"].nunique().to_dict()
    legend = [
        handle(f"{style.label} ({seeds[arm]} seed{'s' * (seeds[arm] > 1)})", *style[1:])
        for arm, style in styles.items()
    ]
    legend.append(handle("peak of the mean", "0.3", "*", "none"))
    if (table["encoder"] == "pixels").any():
        legend.append(handle("raw pixels", "0.3", "", REFERENCE_DASH))
    with plot_style():
        figure, panels = new_figure(len(tags) + lost, legend, share=False)
        for panel, tag in zip(panels, [*scores, *[LOST] * lost, *tags[len(scores) :]], strict=True):
            panel.set_title(titles.get(tag, LOST))
            if tag == LOST:
                _draw_lost(panel, table, scores, styles)
            else:
                _draw_score(panel, table, tag, styles)
    return figure


def _draw_score(panel: Axes, table: pd.DataFrame, tag: str, styles: Mapping[str, Style]) -> None:
    selected, score = table[table["tag"] == tag], not _is_feature(tag)
    for arm, style in styles.items():
        runs = selected[(selected["arm"] == arm) & (selected["encoder"] != "pixels")]
        points = runs.groupby("epoch")["value"].agg(mean="mean", low="min", high="max")
        plot_line(panel, points.reset_index(), "epoch", style)
        trained = runs[runs["encoder"] == "trained"].groupby("epoch")["value"].mean()
        if len(trained) and score:
            look: Any = {"color": style.color, "markeredgecolor": "white"}
            panel.plot(trained.nlargest(1), "*", markersize=10, **look)
    pixels = selected.loc[selected["encoder"] == "pixels", "value"]
    if len(pixels) and score:
        panel.axhline(pixels.mean(), color="0.3", linewidth=0.9, linestyle=REFERENCE_DASH)
    settle(panel)
    panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    panel.set(xlabel="epoch", ylabel=unit(tag))


def _draw_lost(
    panel: Axes, table: pd.DataFrame, tags: Sequence[str], styles: Mapping[str, Style]
) -> None:
    titles = _titles(table)
    for (index, (arm, style)), (row, tag) in product(enumerate(styles.items()), enumerate(tags)):
        lost = peaks(table, arm, tag)["lost"]
        places = [row + 0.7 * ((index + 0.5) / len(styles) - 0.5)] * len(lost)
        panel.plot(lost, places, color=style.color, marker=style.marker, alpha=0.7)
    panel.set_yticks(range(len(tags)), [titles[tag].replace(" ", "\n", 1) for tag in tags])
    panel.set_ylim(len(tags) - 0.5, -0.5)
    panel.set_xlim(left=min(0.0, panel.get_xlim()[0]))
    panel.grid(visible=False, axis="y")
    panel.set_xlabel("points; each seed")


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
    titles = _titles(table)
    heads = [f"{titles[tag]}, {unit(tag)}" for tag in tags]
    return _markdown(("arm", "encoder", "seeds", *heads), lines)


def degradation(table: pd.DataFrame) -> str:
    """Return a Markdown table: peak, best, last and best - last of each seed, mean ± deviation.

    Of features, only the last value: they have no best.
    """
    lines, titles = [], _titles(table)
    for arm, tag in product(table["arm"].unique(), common_tags(table)):
        seeds = peaks(table, arm, tag)
        if seeds.empty:
            continue
        decimals = 3 if _is_feature(tag) and "rank" not in tag else 1
        cells = [spread(seeds["epoch"], 0), *(spread(seeds[each]) for each in ("best", "lost"))]
        peak, best, lost = ["-"] * 3 if _is_feature(tag) else cells
        last = spread(seeds["last"], decimals)
        lines.append((arm, titles[tag], unit(tag), len(seeds), peak, best, last, lost))
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


def _titles(table: pd.DataFrame) -> dict[str, str]:
    return dict(zip(table["tag"], table["title"], strict=True))


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)
