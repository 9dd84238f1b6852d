"""The report of an analysis: well formed, complete, the same each time, whatever was found."""

import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from random import Random
from urllib.parse import unquote, urlparse
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from PIL import Image

from vitlab.analysis.measures import (
    attention,
    bias,
    channels,
    cosines,
    foreground,
    locality,
    norms,
    prompts,
    rank,
)
from vitlab.analysis.report import Picture, write_report
from vitlab.analysis.report.drawing import interval, looks, number, shorten
from vitlab.analysis.report.gathered import Gathered
from vitlab.analysis.report.headline import headline
from vitlab.analysis.report.histograms import histograms
from vitlab.analysis.report.observations import observations
from vitlab.analysis.results import AnalysisResults, Array, LeftOut, Measure, Model, Row

MODULES = (cosines, foreground, norms, attention, locality, bias, channels, rank, prompts)
MIOU = Measure("block_miou", "mIoU of a linear head", "%", "Quick probe of patches.")
MEASURES = [*(measure for module in MODULES for measure in module.MEASURES), MIOU]
POINTS = ("input", "norm1", "attention", "scale1", "residual1", "norm2", "mlp", "output", "read")
LEVELS = (0.6, 0.06, 0.45, 0.45, 0.62, 0.25, 0.5, 0.6, 0.5)  # of the [CLS]-patch cosine at each
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


class Invented:
    """AnalysisResults that look like those of real encoders.

    Attributes:
        images: 1 gives no intervals.
    """

    def __init__(self, labels, depth=4, heads=3, width=32, images=200, seed=0) -> None:
        self.labels, self.depth, self.heads, self.width = labels, depth, heads, width
        self.images, self.random = images, Random(seed)
        self.rows: list[Row] = []
        self.arrays: list[Array] = []

    def row(self, model, measure, block, value, *, point="", head=None, role="", spread=0.02):
        mean = value + self.random.gauss(0, spread / 3)
        bounds = (mean - spread, mean + spread) if self.images > 1 else (None, None)
        self.rows.append(Row(model, measure, block, point, head, role, mean, *bounds, self.images))

    def array(self, model, measure, block, values, axes, *, point="", head=None, role="", edges=()):
        self.arrays.append(
            Array(model, measure, block, point, head, role, values, axes, list(edges))
        )

    def findings(self) -> AnalysisResults:
        for place, label in enumerate(self.labels):
            for block in range(self.depth):
                self.tokens(label, place, block)
                self.heads_of(label, place, block)
                self.channels(label, place, block)
                self.norms(label, place, block)
            self.output(label, place)
        models = [
            Model(f, f"runs/{f}/best.ckpt", "ab12" * 4, {"depth": self.depth}, self.depth,
                  self.heads, 16, 4 * (i % 2), 21_665_664)
            for i, f in enumerate(self.labels)
        ]  # fmt: skip
        data = {"dataset": "VOC2012", "root": "data/voc", "images": self.images, "size": 224}
        command = "vitlab analyze --weights a b --data VOC2012"
        return AnalysisResults(
            {**data, "masks": True},
            models,
            MEASURES,
            self.rows,
            self.arrays,
            [LeftOut("", "prompt_mass", "no prompts")],
            {"command": command, "commit": "abc", "packages": {"torch": "2.8"}, "devices": []},
        )

    def tokens(self, label, place, block) -> None:
        deep = block / max(1, self.depth - 1)
        for point, level in zip(POINTS, LEVELS, strict=True):
            cosine = level - 0.12 * place - 0.1 * deep
            for role, shift in (("all", 0), ("foreground", 0.1), ("background", -0.07)):
                self.row(label, "cls_patch_cosine", block, cosine + shift, point=point, role=role)
                patch = 0.4 + 0.2 * deep + 0.3 * shift - 0.05 * place
                self.row(label, "patch_patch_cosine", block, patch, point=point, role=role)
            self.row(label, "diffusion_index", block, 0.3 + 0.3 * deep, point=point)
        bump = 0.6 + 0.25 * math.exp(-(((deep - 0.35) * 4) ** 2)) - 0.02 * place
        for name, value in (
            ("foreground_auroc", bump),
            ("foreground_hit", bump - 0.1),
            ("foreground_hit_box", bump),
            ("foreground_share", 0.3),
            ("foreground_pc1_iou", 0.2 + 0.3 * deep),
            ("locality", -0.6 + 0.4 * deep),
            ("block_miou", 5 + 30 * deep - 2 * place),
        ):
            self.row(label, name, block, value, point="read")
        if place % 2:
            for name in ("cls_registers_cosine", "registers_patch_cosine"):
                self.row(label, name, block, 0.3 - 0.2 * deep, point="output")

    def heads_of(self, label, place, block) -> None:
        for head in range(self.heads):
            far = 20 + 90 * self.random.random() * (1 + block) / self.depth
            where = {"head": head, "spread": 0.0}
            self.row(label, "attention_distance", block, far, role="patches", **where)
            self.row(label, "dead_keys", block, 0.1 * (place % 2) * self.random.random(), **where)
            for role in ("patches", "cls"):
                zeros = (place % 2) * self.random.uniform(0.3, 0.9)
                self.row(label, "attention_zeros", block, zeros, role=role, **where)
                self.row(label, "attention_support", block, 197 * (1 - zeros), role=role, **where)
                entropy = self.random.uniform(2, 5.2)
                self.row(label, "attention_entropy", block, entropy, role=role, **where)
                self.row(label, "attention_max", block, 0.5 / entropy, role=role, **where)
            if place == 1:
                self.row(label, "bias_alpha", block, 1.0 + head, role="patches", **where)
                values = [
                    [1.0 + 0.1 * math.hypot(r - 6, c - 7) for c in range(14)] for r in range(13)
                ]
                self.array(label, "bias_alpha", block, values, ["row", "column"], head=head)

    def channels(self, label, place, block) -> None:
        for point in ("input", "norm1"):
            for role in ("cls", "patches"):
                values = [self.random.lognormvariate(-1, 0.5) for _ in range(self.width)]
                values[0 if role == "cls" else -1] *= 12
                self.array(
                    label, "channel_magnitude", block, values, ["channel"], point=point, role=role
                )
                self.array(
                    label, "channel_overlap", block, [3, 1, 2], ["rank"], point=point, role=role
                )
            ratio = [self.random.gauss(0, 1) for _ in range(self.width)]
            self.array(label, "channel_log_ratio", block, ratio, ["channel"], point=point)
            self.row(label, "channel_log_ratio", block, 0.5 + 0.1 * place, point=point)
            self.row(label, "channel_overlap", block, 0.3, point=point)

    def norms(self, label, place, block) -> None:
        edges = [10 ** (-4 + i / 20) for i in range(241)]
        middle = 20 * (1 + block)
        counts = [round(4e4 * math.exp(-((math.log(e / middle) * 4) ** 2))) for e in edges[:-1]]
        counts[130] += 50 * (place % 2)
        self.array(
            label, "token_norm", block, counts, ["bin"], point="output", role="patches", edges=edges
        )
        for role in ("patches", "cls"):
            self.row(label, "token_norm", block, middle, point="output", role=role)
        self.row(label, "norm_outliers", block, 0.03 * (place % 2), point="output", spread=0.003)
        self.row(label, "norm_peak", block, 1.5 + 2 * (place % 2), point="output")

    def output(self, label, place) -> None:
        for name in ("cls_patch_cosine", "patch_patch_cosine"):
            for role in ("all", "foreground", "background"):
                self.row(label, name, None, 0.5 - 0.1 * place, point="final", role=role)
        for name in ("diffusion_index", "foreground_auroc", "foreground_hit"):
            self.row(label, name, None, 0.6 - 0.05 * place, point="final")
        self.row(label, "block_miou", None, 33 - 2 * place, point="final")
        for role in ("cls", "patches"):
            self.row(label, "feature_rank", None, 200 - 10 * place, point="final", role=role)


FEW = ("locality", "attention_zeros", "channel_magnitude", "token_norm", "bias_alpha")


def only(findings: AnalysisResults, *names: str) -> AnalysisResults:
    """Return the findings of some measures, which are drawn quickly."""
    return replace(
        findings,
        measures=[each for each in findings.measures if each.name in names],
        rows=[row for row in findings.rows if row.measure in names],
        arrays=[array for array in findings.arrays if array.measure in names],
    )


class Page(HTMLParser):
    """What a page refers to and says; refuses what is not well formed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.images: list[dict] = []
        self.ids: list[str] = []
        self.said = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes) -> None:
        given = dict(attributes)
        self.tags.append(tag)
        self.links += [given[key] for key in ("src", "href", "data", "srcset") if key in given]
        self.ids += [given["id"]] if "id" in given else []
        if tag == "img":
            self.images.append(given)
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.said += data if self.open and self.open[-1] != "style" else ""


def written(findings: AnalysisResults, folder: Path, pictures=()) -> Page:
    return Page(write_report(findings, pictures, folder)[0].read_text("utf-8"))


def png(color="red") -> bytes:
    content = BytesIO()
    Image.new("RGB", (8, 6), color).save(content, "PNG")
    return content.getvalue()


@pytest.fixture(scope="module")
def findings() -> AnalysisResults:
    found = Invented(["dino", "entmax"], depth=3, heads=2, width=12).findings()
    return replace(
        only(found, *FEW, "cls_patch_cosine", "foreground_auroc", "foreground_hit",
             "foreground_share", "block_miou", "channel_log_ratio", "channel_overlap",
             "norm_outliers", "feature_rank", "cls_registers_cosine"),
        measures=MEASURES,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(findings, tmp_path_factory) -> Path:
    """A whole report of two encoders."""
    folder = tmp_path_factory.mktemp("report")
    write_report(findings, [Picture("PCA", "three components", png())], folder)
    findings.save(folder)
    return folder


@pytest.fixture(scope="module")
def page(folder) -> Page:
    return Page((folder / "report.html").read_text("utf-8"))


def test_the_page_needs_nothing_but_itself(folder, page):
    text = (folder / "report.html").read_text("utf-8")
    assert not re.search(r"@import|url\(", text.split("<body>")[0])
    assert not {"script", "iframe", "object", "embed"} & set(page.tags)
    for link in page.links:
        assert not urlparse(link).scheme or link.startswith("data:")
        if link.startswith("#"):
            assert link[1:] in page.ids
        elif not link.startswith("data:"):
            assert (folder / unquote(link)).is_file()
    assert all(image["src"].startswith("data:image/") for image in page.images)
    assert len(set(page.ids)) == len(page.ids)


def test_every_figure_has_words_numbers_and_both_files(folder, page):
    assert all(len(image["alt"]) > 10 for image in page.images)
    drawn = page.images[:-1]  # the last is the picture
    assert page.tags.count("details") >= len(drawn)
    svgs = {path.stem for path in (folder / "figures").glob("*.svg")}
    pngs = {path.stem for path in (folder / "figures").glob("*.png")}
    assert len(drawn) == len(svgs)
    assert pngs - svgs == {"picture-1-pca"}
    for name in svgs:
        root = ElementTree.parse(folder / "figures" / f"{name}.svg").getroot()
        with Image.open(folder / "figures" / f"{name}.png") as image:
            inches = [
                float(root.attrib[side].removesuffix("pt")) / 72 for side in ("width", "height")
            ]
            assert all(dots >= 150 * inch for dots, inch in zip(image.size, inches, strict=True))
        assert "<text" not in (folder / "figures" / f"{name}.svg").read_text("utf-8")


def test_every_measure_is_defined_and_what_is_left_out_is_said(page):
    for measure in MEASURES:
        assert measure.name in page.said
        assert measure.meaning in page.said
    assert "no prompts" in page.said
    for measure in ("exact zeros", "feature rank (RankMe)", "mIoU of a linear head"):
        assert page.said.count(measure) >= 2


def test_the_page_says_what_made_it(page):
    for text in ("vitlab analyze --weights", "VOC2012", "ab12ab12", "abc", "21,665,664", "2.8"):
        assert text in page.said


def test_the_same_findings_give_the_same_bytes(findings, tmp_path):
    few = only(findings, *FEW)
    pages = [write_report(few, [], tmp_path / name) for name in "ab"]
    assert [path.relative_to(tmp_path / "a") for path in pages[0]] == [
        path.relative_to(tmp_path / "b") for path in pages[1]
    ]
    for one, other in zip(*pages, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_what_others_set_in_matplotlib_changes_nothing(findings, tmp_path):
    few = only(findings, "locality")
    plain = write_report(few, [], tmp_path / "a")
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "black", "text.usetex": False}):
        changed = write_report(few, [], tmp_path / "b")
        assert mpl.rcParams["font.size"] == 30
    for one, other in zip(plain, changed, strict=True):
        assert one.read_bytes() == other.read_bytes()


NASTY = (
    "<script>alert(1)</script>", "a$b$ \\frac{", "_hidden", "</style>&amp;\"'", "{{ 7 * 7 }}",
    "模型\nčau \U0001f600", "long " * 30,
)  # fmt: skip


def test_labels_are_harmless(tmp_path):
    found = only(Invented(NASTY, depth=2, heads=2, width=6).findings(), *FEW)
    found = replace(
        found,
        data={**found.data, "root": NASTY[0]},
        environment={"command": NASTY[0], "devices": [NASTY[3]]},
        left_out=[LeftOut(NASTY[0], NASTY[3], NASTY[4])],
    )
    page = written(found, tmp_path, [Picture(NASTY[0], NASTY[3], png())])
    assert "script" not in page.tags
    for label in NASTY:
        assert label in page.said
    for path in (tmp_path / "figures").glob("*.svg"):
        ElementTree.parse(path)
    assert all(
        re.fullmatch(r"[a-z0-9-]+\.(svg|png)", p.name) for p in (tmp_path / "figures").iterdir()
    )


@pytest.mark.parametrize("count", [1, 5, 9])
def test_any_number_of_models_is_told_apart(count, tmp_path):
    labels = [f"model {i}" for i in range(count)]
    found = only(
        Invented(labels, depth=2, heads=1, width=6).findings(), "locality", "channel_magnitude"
    )
    page = written(found, tmp_path)
    assert all(label in page.said for label in labels)
    drawn = looks(labels).values()
    assert len({(look.color, look.marker, look.dash) for look in drawn}) == count
    assert len({look.marker for look in drawn}) == count


def test_labels_that_shorten_alike_stay_apart():
    labels = ["runs/dino/seed0/a/b/c/d/e/best.ckpt", "runs/dino/seed0/x/b/c/d/e/best.ckpt"]
    short = [look.label for look in looks(labels).values()]
    assert len(set(short)) == 2
    assert max(map(len, short)) <= 30


def test_one_image_and_one_block_have_no_intervals(tmp_path):
    found = Invented(["only"], depth=1, heads=1, width=4, images=1).findings()
    found = only(found, *FEW, "foreground_auroc", "block_miou", "feature_rank")
    page = written(found, tmp_path)
    assert "no interval: one image has none" in page.said
    assert "95 % interval over images" not in page.said
    assert observations(Gathered(found)) == []


def test_numbers_that_are_none_are_dashes(findings, tmp_path):
    few = only(findings, "locality", "norm_outliers", "channel_magnitude", "token_norm")
    broken = [math.nan, math.inf, -math.inf]
    few = replace(
        few,
        rows=[
            replace(row, mean=broken[i % 3], low=None, high=math.nan)
            for i, row in enumerate(few.rows)
        ],
        arrays=[replace(array, values=[math.nan] * len(array.values)) for array in few.arrays],
    )  # fmt: skip
    page = written(few, tmp_path)
    assert "\N{EN DASH}" in page.said
    assert not re.search(r"\b(nan|inf|None)\b", page.said)
    assert headline(Gathered(few)).columns == []


def test_without_masks_the_rest_is_there(findings, tmp_path):
    few = only(findings, "cls_patch_cosine", "locality")
    rows = [row for row in few.rows if row.role not in ("foreground", "background")]
    page = written(replace(few, rows=rows), tmp_path)
    assert "layers" not in page.ids
    assert "norms" in page.ids


def test_nothing_found_is_a_page_all_the_same(findings, tmp_path):
    page = written(replace(findings, rows=[], arrays=[]), tmp_path)
    assert page.images == []
    assert "no intervals lie apart" in page.said


def arrays_of(label: str) -> Iterator[Array]:
    """Arrays of many shapes, of a measure that no report has heard of."""
    for values, axes, edges in (
        ([1.0], ["channel"], []),
        ([3.0, None, 2.0], ["prompt"], []),
        ([[1.0, 2.0]], ["row", "column"], []),
        ([[None, None]], ["head", "channel"], []),
        ([0, 5, 0, 1], ["bin"], [0, 1, 2, 3, 4]),
        ([2], ["bin"], [-1, 1]),
        ([0, 0], ["bin"], [0, 1, 2]),
        ([], ["channel"], []),
        ([[[1.0]]], ["a", "b", "c"], []),
    ):
        yield Array(label, "unheard_of", 0, "", None, "", values, axes, edges)


@pytest.mark.parametrize("array", list(arrays_of("dino")), ids=lambda a: f"{a.axes}{a.values}")
def test_arrays_of_a_measure_never_heard_of_are_drawn(array, findings, tmp_path):
    strange = Measure("unheard_of", "Strange", "bananas", "Nobody knows.")
    page = written(
        replace(findings, measures=[strange], rows=[], arrays=[array], models=findings.models[:1]),
        tmp_path,
    )
    assert len(page.images) == (len(array.axes) < 3 and array.values != [])
    assert "Nobody knows." in page.said


def test_rows_of_a_measure_never_heard_of_are_drawn(findings, tmp_path):
    def row(block=None, point="", head=None, role=""):
        return Row("dino", "unheard_of", block, point, head, role, 1.5, 1.0, 2.0, 3)

    for rows in (
        [row()],
        [row(0), row(1), row()],
        [row(0, point, None, role) for point in "abcde" for role in "xy"],
        [row(0, "", head, "cls") for head in range(3)],
        [row(None, "", head) for head in range(3)],
    ):
        page = written(replace(findings, measures=[], rows=rows, arrays=[]), tmp_path)
        assert len(page.images) >= 1
        assert "unheard_of" in page.said


def test_numbers_below_a_figure_are_those_of_the_findings(findings, tmp_path):
    few = only(findings, "locality")
    page = written(few, tmp_path)
    for row in few.rows:
        assert interval(row.mean, row.low, row.high) in page.said


def test_the_headline_has_the_output_and_the_best_block():
    rows = [
        Row("m", "foreground_auroc", 0, "read", None, "", 0.9, 0.89, 0.91, 9),
        Row("m", "foreground_auroc", 1, "read", None, "", 0.5, 0.49, 0.51, 9),
        Row("m", "foreground_auroc", None, "final", None, "", 0.5, 0.49, 0.51, 9),
    ]
    found = replace(Invented(["m"], depth=1).findings(), rows=rows, arrays=[])
    top = headline(Gathered(found))
    assert top.columns == ["foreground AUROC, best", "foreground AUROC, output"]
    best, last = top.lines[0][2]
    assert (best.text, best.interval, best.layer) == ("0.900", "[0.890, 0.910]", "block 0")
    assert (last.text, last.layer) == ("0.500", "")


def test_high_norms_are_named_where_more_than_chance_is_sure():
    rows = [
        Row("sure", "norm_outliers", 0, "output", None, "", 0.037, 0.006, 0.068, 9),
        Row("unsure", "norm_outliers", 0, "output", None, "", 0.039, 0.004, 0.075, 9),
    ]
    plain = Invented(["sure", "unsure"], depth=1).findings()
    assert observations(Gathered(replace(plain, rows=rows, arrays=[]))) == [
        "Surely more than 0.5 % of patches are of high norm: sure (3.7 %, block 0)."
    ]


def test_a_histogram_says_what_it_counted(findings):
    drawn = histograms(Gathered(findings), Gathered(findings).measure("token_norm"))
    assert all("Share of all patches of all images" in each.caption for each in drawn)


def test_sentences_need_intervals_that_lie_apart():
    def found(after: tuple[float, float], miou: tuple[float, float]) -> list[str]:
        rows = [Row("m", "cls_patch_cosine", 0, "input", None, "all", 0.6, 0.5, 0.7, 9)]
        rows.append(Row("m", "cls_patch_cosine", 0, "norm1", None, "all", 0.1, *after, 9))
        for block, (auroc, score) in enumerate(zip((0.9, 0.5), miou, strict=True)):
            bounds = (auroc - 0.01, auroc + 0.01)
            rows.append(Row("m", "foreground_auroc", block, "read", None, "", auroc, *bounds, 9))
            rows.append(Row("m", "block_miou", block, "read", None, "", score, None, None, 9))
        plain = Invented(["m"], depth=1).findings()
        return observations(Gathered(replace(plain, rows=rows, arrays=[])))

    falls, aligns = found((0.0, 0.2), (10, 20))
    assert (
        falls == "Mean [CLS]-patch cosine falls across norm1: m from 0.60 to 0.10 (1 of 1 blocks)."
    )
    assert "m aligns best in block 0 (0.900) and segments best in block 1 (there 0.500)" in aligns
    assert found((0.0, 0.55), (20, 10)) == [
        "Foreground aligns best (AUROC of [CLS]-patch cosine for the object) before the last "
        "layer: m block 0 (0.900, last 0.500)."
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.123456, "0.123"), (1234.5, "1234"), (1.5e7, "1.5e+07"), (-0.5, "-0.5")],
)
def test_numbers_have_three_digits(value, text):
    assert number(value) == text
    assert interval(0.5073, 0.4874, 0.5274) == "0.507 [0.487, 0.527]"
    assert interval(0.5, 0.5, 0.5) == "0.500 [0.500, 0.500]"
    assert shorten("a\n\t\x00b") == "a b"


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")
@pytest.mark.slow
def test_a_browser_shows_it_without_errors_and_without_scrolling_aside(folder, tmp_path):
    frames = "".join(
        f'<iframe src="{folder.as_uri()}/report.html" width="{width}" height="800"></iframe>'
        for width in (390, 1024, 1440)
    )
    script = """onload = () => {
        const measure = ({contentDocument: page}) => [
            page.documentElement.scrollWidth - page.documentElement.clientWidth,
            [...page.images].filter(image => !image.naturalWidth).length];
        const frames = [...document.querySelectorAll("iframe")];
        document.body.dataset.found = frames.map(measure).join(";") }"""
    (tmp_path / "frames.html").write_text(f"<body>{frames}<script>{script}</script>")
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
        "--disable-background-networking --disable-component-update --allow-file-access-from-files "
        "--enable-logging=stderr --virtual-time-budget=5000"
    )
    done = subprocess.run(
        [BROWSER, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
         (tmp_path / "frames.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert 'data-found="0,0;0,0;0,0"' in done.stdout
    assert "CONSOLE" not in done.stderr
