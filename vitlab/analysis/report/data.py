"""Results of a report by measure, and what all of its figures share."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vitlab.analysis.report.plots import Curve, plot_curves
from vitlab.analysis.report.style import render, styles_of
from vitlab.analysis.report.table import pivot, quantity, slug
from vitlab.analysis.results import AnalysisResults, Measure


@dataclass(frozen=True)
class ReportFigure:
    """A figure: name of its files, title, caption, files, numbers as text, whole width or not."""

    name: str
    title: str
    caption: str
    svg: bytes
    png: bytes
    table: pd.DataFrame
    wide: bool


class ReportData:
    """Results by measure, NaN for all that is no finite number, and the style of each model."""

    def __init__(self, results: AnalysisResults):
        self.results = results
        self.styles = styles_of([model.label for model in results.models])
        rows = results.rows.replace([math.inf, -math.inf], math.nan)
        arrays = results.arrays.assign(values=[_numbers(v) for v in results.arrays["values"]])
        arrays = arrays[arrays["values"].map(len).astype(int) > 0]
        self._rows = dict(list(rows.groupby("measure", sort=False)))
        self._arrays = dict(list(arrays.groupby("measure", sort=False)))
        self.measures = list(results.measures)  # those that are defined, then others
        known = {measure.name for measure in self.measures}
        names = dict.fromkeys([*self._rows, *self._arrays])
        self.measures += [Measure(name, name, "", "") for name in names if name not in known]

    def measure(self, name: str) -> Measure:
        """Return a measure by its name."""
        return next(each for each in self.measures if each.name == name)

    def rows(self, measure: str) -> pd.DataFrame:
        """Return the rows of a measure."""
        return self._rows.get(measure, self.results.rows.iloc[:0])

    def arrays(self, measure: str) -> pd.DataFrame:
        """Return the arrays of a measure that hold numbers."""
        return self._arrays.get(measure, self.results.arrays.iloc[:0])

    def by_model(self, rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Return the rows of each model that has any, in the order of the models."""
        parts = {label: rows[rows["model"] == label] for label in self.styles}
        return {label: own for label, own in parts.items() if len(own)}


class MeasureFigures:
    """What the figures of a measure share."""

    def __init__(self, data: ReportData, measure: Measure):
        self.data, self.measure = data, measure

    def finish(
        self,
        figure: Figure,
        name: Sequence[str],
        words: str,
        caption: str,
        table: pd.DataFrame,
        *,
        wide: bool = False,
    ) -> ReportFigure:
        """Return a figure with its files; `name`, `words` follow the measure's name and title."""
        name, title = slug(self.measure.name, *name), f"{self.measure.title}{words}"
        return ReportFigure(name, title, caption, *render(figure), table, wide)

    def curves(
        self,
        curves: Mapping[str, Curve],
        name: Sequence[str],
        words: str,
        caption: str,
        *,
        more: Mapping[str, pd.DataFrame] | None = None,
        legend: Sequence[Line2D] | None = None,
        **axis: Any,
    ) -> ReportFigure:
        """Return a figure of lines; `more` are columns of its table that are no lines."""
        if legend is None:
            legend = [curve.style.handle() for curve in curves.values()]
        figure = plot_curves({quantity(self.measure): [*curves.values()]}, legend, **axis)
        series = {label: curve.rows for label, curve in curves.items()}
        table = pivot(series | dict(more or {}), axis.get("x") or "point", axis.get("ticks", ()))
        return self.finish(figure, name, words, caption, table)


def listed(*parts: str) -> str:
    """Return what follows a title: ": " and the parts that are not empty, or nothing."""
    text = ", ".join(filter(None, parts))
    return f": {text}" if text else ""


def line(values: pd.Series) -> pd.DataFrame:
    """Return values by block as the rows of a curve without intervals."""
    found = values.rename("mean").rename_axis("block").reset_index()
    return found.assign(low=math.nan, high=math.nan)


def _numbers(values: list) -> np.ndarray:
    """Return nested lists as an array."""
    found = np.array(values, dtype=float)
    return np.where(np.isfinite(found), found, math.nan)
