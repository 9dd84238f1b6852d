"""The report: well formed, complete, the same each time, whatever the results."""

import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote, urlparse
from xml.etree import ElementTree

import matplotlib as mpl
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from vitlab.analysis.analyze import analyze, name_encoder
from vitlab.analysis.block_miou import BLOCK_MIOU
from vitlab.analysis.images import Images
from vitlab.analysis.report import Picture, headline, write_report
from vitlab.analysis.report.array_figures import ArrayFigures
from vitlab.analysis.report.data import ReportData
from vitlab.analysis.report.page import sections
from vitlab.analysis.report.row_figures import RowFigures
from vitlab.analysis.report.style import plot_style, shorten, styles_of
from vitlab.analysis.report.summary import observations
from vitlab.analysis.report.table import by_block, interval, layers, number
from vitlab.analysis.results import AnalysisResults, Array, Measure, Omission, Row, table
from vitlab.encoders import Locality, ViT, vit
from vitlab.probes import InferenceConfig

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FEW = ("locality", "attention_zeros", "channel_magnitude", "token_norm", "bias_alpha")
NASTY = (
    "<script>alert(1)</script>", "a$b$ \\frac{", "_hidden", "</style>&amp;\"'", "{{ 7 * 7 }}",
    "模型\nčau \U0001f600", "long " * 30,
)  # fmt: skip


def results_of(labels, images=3) -> AnalysisResults:
    """Results of small encoders on random images: plain, with registers and a bias, and so on."""
    torch.manual_seed(0)
    options = [{}, {"num_registers": 2, "normalizer": "entmax15", "locality": Locality("gaussian")}]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vit.SHAPES, "nano", replace(vit.SHAPES["nano"], embed_dim=16, depth=2))
        encoders = [
            name_encoder(
                ViT("nano", 8, 32, **options[i % 2]), label, f"runs/{i}.ckpt", "ab12" * 4, {"a": i}
            )
            for i, label in enumerate(labels)
        ]
    masks = torch.zeros(images, 32, 32, dtype=torch.uint8)
    masks[:, 8:24, 8:24] = 1
    pairs = TensorDataset(torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8), masks)
    about = {"dataset": "VOC2012", "root": "data/voc", "split": "val", "size": 32}
    images = Images(pairs, {**about, "images": images, "masks": True}, True)
    found = analyze(encoders, images, InferenceConfig(torch.device("cpu")))
    rows = [
        Row(label, "block_miou", block, "", None, "", 5.0 + block, 4.0 + block, 6.0 + block, 3)
        for label in labels
        for block in range(2)
    ]
    return replace(
        found,
        measures=[*found.measures, BLOCK_MIOU],
        rows=pd.concat([found.rows, table(rows, Row)], ignore_index=True),
        environment={"command": "vitlab analyze --weights a b", "packages": {"torch": "2.8"}},
    )


def only(results: AnalysisResults, *names: str) -> AnalysisResults:
    """The results of some measures, which are drawn quickly."""
    return replace(
        results,
        measures=[each for each in results.measures if each.name in names],
        rows=results.rows[results.rows["measure"].isin(names)],
        arrays=results.arrays[results.arrays["measure"].isin(names)],
    )


def with_rows(results: AnalysisResults, *rows: Row) -> AnalysisResults:
    return replace(results, rows=table(rows, Row), arrays=results.arrays.iloc[:0])


class Page(HTMLParser):
    """Links, images and text of a page that must be well formed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.images: list[dict] = []
        self.ids: list[str] = []
        self.text = ""
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
        self.text += data if self.open and self.open[-1] != "style" else ""


def written(results: AnalysisResults, folder: Path, pictures=()) -> Page:
    return Page(write_report(results, pictures, folder)[0].read_text("utf-8"))


def png() -> bytes:
    content = BytesIO()
    Image.new("RGB", (8, 6), "red").save(content, "PNG")
    return content.getvalue()


@pytest.fixture(scope="module")
def results() -> AnalysisResults:
    return results_of(["dino", "entmax"])


@pytest.fixture
def unrendered(monkeypatch):
    """Figures are made, and not turned into files, which takes most of the time."""
    monkeypatch.setattr("vitlab.analysis.report.data.render", lambda figure: (b"", b""))


@pytest.fixture(scope="module")
def folder(results, tmp_path_factory) -> Path:
    """A report of two encoders."""
    folder = tmp_path_factory.mktemp("report")
    few = only(results, *FEW, "cls_patch_cosine", "foreground_auroc", "block_miou", "feature_rank",
               "norm_outliers")  # fmt: skip
    few = replace(few, measures=results.measures)
    write_report(few, [Picture("PCA", "three components", png())], folder)
    few.save(folder)
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
    svgs, pngs = ({path.stem for path in folder.glob(f"figures/*.{e}")} for e in ("svg", "png"))
    assert len(page.images[:-1]) == len(svgs)  # the last is the picture
    assert page.tags.count("details") >= len(svgs)
    assert pngs - svgs == {"picture-1-pca"}
    for name in svgs:
        svg = (folder / "figures" / f"{name}.svg").read_text("utf-8")
        inches = [float(ElementTree.fromstring(svg).attrib[side][:-2]) / 72 for side in
                  ("width", "height")]  # fmt: skip
        with Image.open(folder / "figures" / f"{name}.png") as image:
            assert all(dots >= 150 * inch for dots, inch in zip(image.size, inches, strict=True))
        assert "<text" not in svg


def test_the_page_has_definitions_omissions_and_origin(results, page):
    for measure in results.measures:
        assert measure.name in page.text
        assert measure.meaning in page.text
    for text in ("no prompts", "vitlab analyze --weights", "VOC2012", "ab12ab12", "2.8"):
        assert text in page.text


def test_figures_of_each_measure(results, unrendered):
    data = ReportData(results)
    with plot_style():
        names = {figure.name for section in sections(data) for figure in section.figures}
        heads = {figure.name for figure in RowFigures(data, data.measure("dead_keys")).draw()}
    assert heads == {"dead-keys-heads"}
    assert names >= {
        "attention-distance-heads-patches", "bias-alpha-heads-patches", "bias-alpha-map-patches-2",
        "channel-log-ratio-by-channel-norm1", "channel-magnitude-cls-against-patches",
        "cls-patch-cosine-across-norm1", "cls-patch-cosine-across-norm2",
        "cls-patch-cosine-map-all", "cls-patch-cosine-read-all",
        "cls-patch-cosine-read-foreground-background", "cls-patch-cosine-through-a-block",
        "diffusion-index-across-norm1", "diffusion-index-read", "feature-rank-read-cls",
        "foreground-hit-read", "layer-against-miou", "locality-output", "token-norm-last-layer",
        "token-norm-output-registers", "token-norm-over-depth",
    }  # fmt: skip
    assert not [n for n in names if n.startswith(("diffusion-index-map", "foreground-share"))]
    assert not [n for n in names if "diffusion-index-across-norm2" in n]


def test_equal_results_give_equal_bytes_whatever_others_set_in_matplotlib(results, tmp_path):
    few = only(results, "locality")
    one = write_report(few, [], tmp_path / "a")
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "black", "text.usetex": False}):
        other = write_report(few, [], tmp_path / "b")
        assert mpl.rcParams["font.size"] == 30
    assert [p.relative_to(tmp_path / "a") for p in one] == [
        p.relative_to(tmp_path / "b") for p in other
    ]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, other, strict=True))


def test_labels_are_harmless(tmp_path):
    found = only(results_of(NASTY), "locality", "dead_keys")
    found = replace(
        found,
        data={**found.data, "root": NASTY[0]},
        environment={"command": NASTY[0], "devices": [NASTY[3]]},
        left_out=[Omission(NASTY[0], NASTY[3], NASTY[4])],
    )
    page = written(found, tmp_path, [Picture(NASTY[0], NASTY[3], png())])
    assert "script" not in page.tags
    assert all(label in page.text for label in NASTY)
    for path in (tmp_path / "figures").iterdir():
        assert re.fullmatch(r"[a-z0-9-]+\.(svg|png)", path.name)


def test_nine_models_are_told_apart():
    labels = ["runs/dino/seed0/a/b/c/d/e/best.ckpt", "runs/dino/seed0/x/b/c/d/e/best.ckpt"]
    styles = styles_of([*labels, *map(str, range(7))]).values()
    for unique in (lambda s: s.marker, lambda s: s.label, lambda s: (s.color, s.marker, s.dash)):
        assert len({unique(style) for style in styles}) == 9
    assert max(len(style.label) for style in styles) <= 30


def test_one_image_has_no_intervals(tmp_path, unrendered):
    found = only(results_of(["only"], images=1), "foreground_auroc", "feature_rank", "token_norm")
    page = written(found, tmp_path)
    assert "no interval: one image has none" in page.text
    assert "95 % interval over images" not in page.text
    assert observations(ReportData(found)) == []


def test_numbers_that_are_none_are_dashes(results, tmp_path, unrendered):
    few = only(results, "locality", "norm_outliers", "channel_magnitude", "token_norm")
    broken = [[math.nan, math.inf, -math.inf][i % 3] for i in range(len(few.rows))]
    nothing = [[math.nan] * len(values) for values in few.arrays["values"]]
    few = replace(
        few,
        rows=few.rows.assign(mean=broken, low=math.nan, high=math.nan),
        arrays=few.arrays.assign(values=nothing),
    )
    page = written(few, tmp_path)
    assert "\N{EN DASH}" in page.text
    assert not re.search(r"\b(nan|inf|None|<NA>)\b", page.text)
    assert headline(few) == {}


def test_no_results_are_a_page_all_the_same(results, tmp_path):
    page = written(with_rows(results), tmp_path)
    assert page.images == []
    assert "No intervals lie apart" in page.text


@pytest.mark.parametrize(
    ("values", "axes", "edges"),
    [
        ([1.0], ["channel"], []),
        ([3.0, None, 2.0], ["prompt"], []),
        ([[1.0, 2.0]], ["row", "column"], []),
        ([[None, None]], ["head", "channel"], []),
        ([0, 5, 0, 1], ["bin"], [0, 1, 2, 3, 4]),
        ([2], ["bin"], [-1, 1]),
        ([0, 0], ["bin"], [0, 1, 2]),
        ([], ["channel"], []),
        ([[[1.0]]], ["a", "b", "c"], []),
    ],
)
def test_arrays_of_an_unknown_measure_are_drawn(values, axes, edges, results):
    strange = Measure("strange", "Strange", "bananas", "Unknown.")
    array = Array("dino", "strange", 0, "", None, "", values, axes, edges)
    found = replace(with_rows(results), measures=[strange], arrays=table([array], Array))
    with plot_style():
        figures = ArrayFigures(ReportData(found), strange).draw()
    assert len(figures) == (len(axes) < 3 and values != [])


def test_rows_of_an_unknown_measure_are_drawn(results):
    def row(block=None, point="", head=None, role=""):
        return Row("dino", "strange", block, point, head, role, 1.5, 1.0, 2.0, 3)

    for rows, names in (
        ([row()], ["strange-whole"]),
        ([row(0), row(1), row()], ["strange"]),
        ([row(0, point, None, role) for point in "abcde" for role in "xy"],
         ["strange-through-a-block", "strange-e-x", "strange-e-y"]),
        ([row(0, "", head, "cls") for head in range(3)], ["strange-heads-cls"]),
        ([row(None, "", head) for head in range(3)], ["strange-whole"]),
    ):  # fmt: skip
        data = ReportData(replace(with_rows(results, *rows), measures=[]))
        with plot_style():
            figures = RowFigures(data, data.measure("strange")).draw()
        assert [figure.name for figure in figures] == names


def test_numbers_below_a_figure_are_those_of_the_results(results):
    data = ReportData(results)
    with plot_style():
        (curve,) = RowFigures(data, data.measure("locality")).draw()
        figures = ArrayFigures(data, data.measure("token_norm")).draw()
    for row in data.rows("locality").itertuples():
        assert curve.table[row.model][row.block] == interval(row)
    counts = data.arrays("token_norm").iloc[1]["values"]
    shown = figures[0].table["share"][: sum(map(bool, counts))]
    assert [*shown] == [number(count / sum(counts)) for count in counts if count]


def test_output_belongs_to_what_is_read_and_is_shown_once():
    rows = [
        Row("m", "x", block, point, None, role, 0.1 * (block or 9), None, None, 9)
        for role in ("all", "foreground")
        for block, point in ((0, "norm1"), (1, "norm1"), (0, "read"), (1, "read"), (None, "final"))
    ]
    rows = table([*rows, Row("m", "x", 1, "read", 0, "all", 7.0, None, None, 9)], Row)
    assert [*by_block(rows, "norm1", "all")["block"]] == [0, 1]
    assert by_block(rows, "read", "all")["mean"].tolist() == pytest.approx([0.9, 0.1, 0.9])
    assert layers(rows, "m")["mean"].tolist() == pytest.approx([0.9, 0.1, 0.9])
    same = rows.assign(mean=0.5)
    assert [*by_block(same, "read", "all")["block"]] == [0, 1]


def test_headline_has_the_output_and_the_best_block(results):
    found = with_rows(
        results,
        Row("dino", "foreground_auroc", 0, "read", None, "", 0.9, 0.89, 0.91, 9),
        Row("dino", "foreground_auroc", 1, "read", None, "", 0.5, 0.49, 0.51, 9),
        Row("dino", "foreground_auroc", None, "final", None, "", 0.5, 0.49, 0.51, 9),
        *(
            Row("dino", "attention_zeros", 0, "", h, "patches", h / 4, None, None, 9)
            for h in (1, 2)
        ),
        Row("dino", "attention_zeros", 0, "", None, "cls", 0.9, None, None, 9),
    )
    top = headline(found)
    best, last, zeros = (cells["dino"] for cells in top.values())
    assert [*top][:2] == ["foreground AUROC, best", "foreground AUROC, output"]
    assert best == ("0.900", "[0.890, 0.910]", "block 0")
    assert last == ("0.500", "[0.490, 0.510]", "")
    assert zeros.text == "0.375"
    assert {cells["entmax"].text for cells in top.values()} == {"\N{EN DASH}"}


def test_sentences_need_intervals_that_lie_apart(results):
    def sentences(after: tuple[float, float], miou: tuple[float, float]) -> list[str]:
        rows = [Row("dino", "cls_patch_cosine", 0, "input", None, "all", 0.6, 0.5, 0.7, 9)]
        rows.append(Row("dino", "cls_patch_cosine", 0, "norm1", None, "all", 0.1, *after, 9))
        for block, (auroc, score) in enumerate(zip((0.9, 0.5), miou, strict=True)):
            bounds = (auroc - 0.01, auroc + 0.01)
            rows.append(Row("dino", "foreground_auroc", block, "read", None, "", auroc, *bounds, 9))
            rows.append(Row("dino", "block_miou", block, "read", None, "", score, None, None, 9))
        return observations(ReportData(with_rows(results, *rows)))

    title = "AUROC of [CLS]-patch cosine for the object"
    assert sentences((0.0, 0.2), (10, 20)) == [
        "Mean [CLS]-patch cosine falls across norm1: dino from 0.60 to 0.10 (1 of 1 blocks).",
        f"Foreground ({title}): dino aligns best in block 0 (0.900) and segments best in block 1 "
        "(there 0.500).",
    ]
    assert sentences((0.0, 0.55), (20, 10)) == [
        f"Foreground aligns best ({title}) before the last layer: dino block 0 (0.900, last 0.500)."
    ]


def test_differences_between_models_are_named_where_they_are_sure(results):
    found = with_rows(
        results,
        Row("dino", "norm_outliers", 0, "output", None, "", 0.037, 0.006, 0.038, 9),
        Row("entmax", "norm_outliers", 0, "output", None, "", 0.059, 0.004, 0.075, 9),
        Row("dino", "diffusion_index", None, "final", None, "", 0.3, 0.2, 0.4, 9),
        Row("entmax", "diffusion_index", None, "final", None, "", 0.6, 0.5, 0.7, 9),
    )
    assert observations(ReportData(found)) == [
        "Surely more than 0.5 % of patches are of high norm: dino (3.7 %, block 0).",
        "Diffusion index of the last layer is higher for entmax (0.60) than for dino (0.30).",
    ]


def test_numbers_have_three_digits():
    values = {0.0: "0", 0.123456: "0.123", 1234.5: "1234", 1.5e7: "1.5e+07", -0.5: "-0.5"}
    assert {value: number(value) for value in values} == values
    row = Row("m", "x", 0, "", None, "", 0.5073, 0.4874, 0.5274, 9)
    assert interval(row) == "0.507 [0.487, 0.527]"
    assert interval(row._replace(mean=0.5, low=0.5, high=0.5)) == "0.500 [0.500, 0.500]"
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
