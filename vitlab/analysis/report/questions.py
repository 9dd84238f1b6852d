"""Five questions at the top of a report: a figure and an answer in a sentence for each.

Answers follow from 95 % intervals: "yes" or "no" where these decide, "undecided" where they reach
both sides, and what is missing where nothing was measured. All are of the last block but for the
question of layers.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from vitlab.analysis.report.plots import plot_estimates, plot_lines
from vitlab.analysis.report.summary import (
    ALIGN,
    COSINE,
    SEGMENT,
    by_depth,
    drawn_rows,
    estimates,
    interval,
    number,
)
from vitlab.analysis.results import AnalysisResults
from vitlab.visualization.plots import Style

HIGH_NORM = 0.01  # share of patches; DINOv2's artifacts are 2 % (arXiv:2309.16588)
MOST = 3  # differences that are named
Decide = Callable[[pd.Series, pd.Series], str]


class Answer(NamedTuple):
    """An answer, with its figure and the numbers in it; without what it needs there are none."""

    sentence: str
    figure: Figure | None = None
    rows: pd.DataFrame | None = None


class Questions:
    """The questions of a report, in the order in which they are shown.

    Args:
        results: all of an analysis.
        styles: by model.
    """

    def __init__(self, results: AnalysisResults, styles: Mapping[str, Style]):
        self.results, self.styles, self.rows = results, styles, drawn_rows(results)

    def answers(self) -> Iterator[tuple[str, Answer]]:
        """Yield each question with its answer."""
        yield "Is [CLS] unlike the patches?", self.cls()
        yield "Where is the mass of attention?", self.mass()
        yield "Which layer segments best?", self.layers()
        yield "Are there high-norm tokens?", self.norms()
        yield "What changed between the models?", self.changes()

    def cls(self) -> Answer:
        """Compare the cosine of [CLS] and patches with that of patches among themselves."""
        one, other = self._depth(COSINE), self._depth("patch_patch_cosine")

        def decide(cls: pd.Series, patches: pd.Series) -> str:
            if cls["high"] < patches["low"]:
                return "Yes, less like them than they are like each other"
            return "No" if cls["low"] > patches["high"] else "Undecided"

        if one.empty or other.empty:
            return self._missing(COSINE, "there is no [CLS]")
        what = "cos([CLS], patch) against cos(patch, patch)"
        both = pd.concat([one.assign(of="[CLS] and patches"), other.assign(of="patches")])
        return self._answer(_sentence(one, other, decide, what), both, "mean cosine", variant="of")

    def mass(self) -> Answer:
        """Compare the attention of [CLS] on the object with the share of patches on it."""
        mass, share = self._depth("attention_foreground"), self._depth("foreground_share")
        distance = self._depth("attention_distance")
        zeros = self._depth("attention_zeros").groupby("model", sort=False)["mean"].last()
        sparse = [f"{number(100 * each)} % for {label}" for label, each in zeros.items() if each]
        more = f" Weights that are exactly 0, of patch queries: {', '.join(sparse)}."
        more *= bool(sparse)

        def decide(own: pd.Series, spread: pd.Series) -> str:
            if own["low"] > spread["mean"]:
                return "On the object more than an even spread"
            return "Beside the object" if own["high"] < spread["mean"] else "Undecided"

        if len(mass) and len(share):
            what = "share of [CLS]'s weight on the object, against the share of patches on it"
            sentence, chance = _sentence(mass, share, decide, what), share["mean"].mean()
            y = "share of [CLS]'s attention on the object"
            return self._answer(sentence + more, mass, y, chance=chance)
        if distance.empty:
            return self._missing("attention_distance", "there is no attention")
        what = f"mean distance that patches attend over, of {self.results.data.get('size')} px"
        lead = "On objects or beside them is not known without masks"
        sentence = _sentence(distance, distance, lambda *_: lead, what)
        return self._answer(sentence + more, distance, "mean attention distance, pixels")

    def layers(self) -> Answer:
        """Compare the best block with the last, by mIoU or else by alignment."""
        rows, lead, y = self._depth(SEGMENT), "", "mIoU of a linear probe, %"
        if rows.empty:
            rows, y = self._depth(ALIGN), "AUROC of [CLS]-patch cosine for the object"
            lead = "mIoU was not measured (--probe.root does); by the AUROC of [CLS] for objects: "

        def decide(best: pd.Series, last: pd.Series) -> str:
            if best["block"] == last["block"]:
                return f"The last, block {best['block']}"
            sure = best["low"] > last["high"]
            told = "better than the last" if sure else "not told apart from the last"
            return f"Block {best['block']}, {told}"

        if rows.empty:
            return self._missing(ALIGN, "there are neither masks nor a probe (--probe.root)")
        best = rows.loc[rows.groupby("model", sort=False)["mean"].idxmax()]
        sentence = _sentence(best, rows, decide, f"{y}, against that in the last block")
        return self._answer(lead + sentence, rows, y, rings=True)

    def norms(self) -> Answer:
        """Compare the share of high-norm patches with 1 %."""
        shares, peaks = self._depth("norm_outliers"), self._depth("norm_peak")

        def decide(share: pd.Series, _: pd.Series) -> str:
            if share["low"] > HIGH_NORM:
                return "Yes"
            if share["mean"] == 0:
                return "None was seen"
            return "Hardly any" if share["high"] < HIGH_NORM else "Undecided"

        if shares.empty or peaks.empty:
            return self._missing("norm_outliers", "there are no patches")
        what = "share of patches above median + 6 MAD, against the largest norm over the median"
        sentence = _sentence(shares, peaks, decide, what)
        return self._answer(sentence, shares, "share of high-norm patches")

    def changes(self) -> Answer:
        """Name the main numbers whose intervals lie apart, and those whose do not."""
        shown, gaps, alike = estimates(self.rows), {}, []
        if shown.empty:
            return Answer("Not measured: there are no main numbers.")
        for title, own in shown.dropna(subset=["low", "high"]).groupby("title", sort=False):
            low, high = (own.loc[each] for each in (own["mean"].idxmin(), own["mean"].idxmax()))
            if high["low"] <= low["high"] and len(own) > 1:
                alike.append(title)
            elif len(own) > 1:
                width = high["high"] - high["low"] + low["high"] - low["low"]
                ends = " to ".join(
                    f"{each['model']} ({number(each['mean'])})" for each in (low, high)
                )
                gaps[f"{title} from {ends}"] = (high["mean"] - low["mean"]) / max(width, 1e-12)
        named = sorted(gaps, key=lambda each: -gaps[each])
        parts = ["; ".join(named[:MOST]) or "Nothing that the intervals tell apart"]
        parts[0] += f"; and {len(named) - MOST} more" * (len(named) > MOST)
        parts += [f"Not told apart: {'; '.join(alike)}"] * bool(alike)
        if len(self.results.models) < 2:
            parts = ["There is one model; a second one behind --weights is compared with it here"]
        return Answer(". ".join(parts) + ".", plot_estimates(shown, self.styles), shown)

    def _depth(self, measure: str) -> pd.DataFrame:
        return by_depth(self.rows, measure)

    def _answer(self, sentence: str, rows: pd.DataFrame, y: str, **options: Any) -> Answer:
        return Answer(sentence, plot_lines(rows, self.styles, y=y, **options), rows)

    def _missing(self, measure: str, otherwise: str) -> Answer:
        """Return why a measure was left out."""
        known = (
            each.reason for each in self.results.left_out if measure in each.measure.split(", ")
        )
        return Answer(f"Not measured: {next(known, otherwise)}.")


def _sentence(one: pd.DataFrame, other: pd.DataFrame, decide: Decide, what: str) -> str:
    """Return each verdict on the last rows of the models, the models it is true of, and `what`.

    Without intervals, as of one image, nothing is decided.
    """
    found: dict[str, list[str]] = defaultdict(list)
    others = {label: own.iloc[-1] for label, own in other.groupby("model")}
    for label, own in one.groupby("model", sort=False):
        if label in others:
            row, second = own.iloc[-1], others[label]
            verdict = decide(row, second) if pd.notna(row["low"]) else "Undecided, of one image"
            pair = [row] if row.equals(second) else [row, second]
            texts = [interval(each["mean"], each["low"], each["high"]) for each in pair]
            found[verdict].append(f"{label} {' against '.join(texts)}")
    verdicts = [f"{verdict}: {'; '.join(own)}" for verdict, own in found.items()]
    return f"{'. '.join(verdicts)} ({what})."
