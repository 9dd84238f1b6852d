"""The report: well formed, complete, the same each time, whatever the results."""

import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import matplotlib as mpl
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset
from torchvision.io import encode_png

from vitlab.analysis.analyze import analyze, name_encoder
from vitlab.analysis.block_miou import BLOCK_MIOU
from vitlab.analysis.images import Images
from vitlab.analysis.report import Picture, headline, write_report
from vitlab.analysis.report.page import sections
from vitlab.analysis.report.questions import Questions
from vitlab.analysis.report.summary import interval, number
from vitlab.analysis.results import AnalysisResults, Array, Omission, Row, table
from vitlab.encoders import Locality, ViT, vit
from vitlab.probes import InferenceConfig
from vitlab.visualization.plots import COLUMN, TEXT, styles_of

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FEW = ("locality", "channel_magnitude", "token_norm", "bias_alpha", "foreground_auroc",
       "block_miou")  # fmt: skip
PNG = encode_png(torch.zeros(3, 6, 8, dtype=torch.uint8)).numpy().tobytes()
QUESTIONS = (
    "Is [CLS] unlike the patches?", "Where is the mass of attention?",
    "Which layer segments best?", "Are there high-norm tokens?", "What changed between the models?",
)  # fmt: skip
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
        vits = [ViT("nano", 8, 32, **options[i % 2]) for i in range(len(labels))]
    encoders = [
        name_encoder(model, label, f"runs/{label[:2]}.ckpt", "ab12" * 4, {"a": 1})
        for model, label in zip(vits, labels, strict=True)
    ]
    masks = torch.zeros(images, 32, 32, dtype=torch.uint8)
    masks[:, 8:24, 8:24] = 1
    pairs = TensorDataset(torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8), masks)
    about = {"dataset": "VOC2012", "root": "data/voc", "split": "val", "size": 32}
    images = Images(pairs, {**about, "images": images, "masks": True}, True)
    found = analyze(encoders, images, InferenceConfig(torch.device("cpu")))
    scores = ((0, 5.0, 4.0, 6.0), (1, 6.0, 5.0, 7.0))
    rows = [row("block_miou", *each, model=label, point="") for label in labels for each in scores]
    return replace(
        found,
        measures=[*found.measures, BLOCK_MIOU],
        rows=pd.concat([found.rows, table(rows, Row)], ignore_index=True),
        environment={"command": "vitlab analyze --weights a b", "packages": {"torch": "2.8"}},
    )


def row(measure, block, mean, low=None, high=None, model="dino", point="read", role="") -> Row:
    return Row(model, measure, block, point, None, role, mean, low, high, 9)


def only(results: AnalysisResults, *names: str) -> AnalysisResults:
    """The results of some measures, which are drawn quickly."""
    rows, arrays = results.rows, results.arrays
    kept = rows[rows["measure"].isin(names)], arrays[arrays["measure"].isin(names)]
    return replace(results, rows=kept[0], arrays=kept[1])


def with_rows(results: AnalysisResults, *rows: Row) -> AnalysisResults:
    return replace(results, rows=table(rows, Row), arrays=results.arrays.iloc[:0])


class Page:
    """Tags, attributes and text of a page, which must be well formed."""

    def __init__(self, results: AnalysisResults, folder: Path, pictures=()):
        root = ElementTree.fromstring(write_report(results, pictures, folder)[0].read_text("utf-8"))
        self.tags = [each.tag for each in root.iter()]
        self.attributes = [pair for each in root.iter() for pair in each.items()]
        self.text = "".join(root.find("body").itertext())

    def values(self, name: str) -> list[str]:
        """The values of an attribute."""
        return [value for each, value in self.attributes if each == name]


def figures(results: AnalysisResults) -> dict:
    return {each.name: each for part in sections(results).values() for each in part}


@pytest.fixture
def unrendered(monkeypatch):
    """Figures are made and laid out, but no files of them."""
    monkeypatch.setattr("vitlab.analysis.report.figures.render", lambda _: {})


@pytest.fixture(scope="module")
def results() -> AnalysisResults:
    return results_of(["dino", "entmax"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def page(results, folder) -> Page:
    few = only(results, *FEW)
    few.save(folder)
    return Page(few, folder, [Picture("PCA", "three components", PNG)])


def test_the_page_needs_nothing_but_itself_and_names_what_it_shows(page, folder, results):
    assert not {"script", "iframe", "object", "embed"} & set(page.tags)
    assert all(source.startswith("data:image/webp") for source in page.values("src"))
    for link in page.values("href"):
        if link.startswith("#"):
            assert link[1:] in page.values("id")
        elif not link.startswith("data:"):
            assert (folder / unquote(link)).is_file()
    assert len(set(page.values("id"))) == len(page.values("id"))
    made = [{path.stem for path in folder.glob(f"figures/*.{e}")} for e in ("svg", "pdf", "png")]
    svgs, pdfs, pngs = made
    assert svgs == pdfs
    assert pngs - svgs == {"picture-1-pca"}
    assert page.tags.count("img") == len(pngs)
    assert all(len(text) > 10 for text in page.values("alt"))
    for name in svgs:
        svg = (folder / "figures" / f"{name}.svg").read_text("utf-8")
        assert "<text" not in svg
        inches = float(ElementTree.fromstring(svg).attrib["width"][:-2]) / 72
        assert inches == pytest.approx(COLUMN) or inches == pytest.approx(TEXT)
        with Image.open(folder / "figures" / f"{name}.png") as image:
            assert image.width == pytest.approx(300 * inches, abs=2)
    for measure in results.measures:
        assert measure.name in page.text
        assert measure.meaning in page.text
    for text in ("no prompts", "vitlab analyze --weights", "VOC2012", "ab12ab12", "2.8"):
        assert text in page.text
    heading, _, _ = page.text.partition("All measures")
    assert [heading.count(each) for each in QUESTIONS] == [1] * 5
    assert "data/voc" not in heading
    assert (folder / "report.html").stat().st_size < 1e6


def test_figures_of_each_measure(results, unrendered):
    made = figures(results)
    cosine = ("before-and-after-norm1", "before-and-after-norm2", "by-block-and-point",
              "on-the-way-through-a-block")  # fmt: skip
    assert made.keys() >= {
        "attention-distance-heads-patch-queries", "bias-alpha-heads-patch-queries",
        "bias-alpha-patches-encoder-2-entmax", "block-miou-which-depth-aligns-which-segments",
        "channel-log-ratio-by-channel-norm1", "channel-magnitude-cls-against-patches",
        "cls-patch-cosine", *(f"cls-patch-cosine-{each}" for each in cosine), "dead-keys-heads",
        "diffusion-index", "feature-rank", "foreground-hit", "locality-output",
        "token-norm-last-layer-measured", "token-norm-output", "token-norm-over-depth",
    }  # fmt: skip
    assert not [name for name in made if name.startswith("foreground-share")]


def test_equal_results_give_equal_bytes_whatever_others_set_in_matplotlib(results, tmp_path):
    few = only(results, "locality")
    one = write_report(few, [], tmp_path / "a")
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "black", "text.usetex": False}):
        other = write_report(few, [], tmp_path / "b")
        assert mpl.rcParams["font.size"] == 30
    assert [each.name for each in one] == [each.name for each in other]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, other, strict=True))


def test_labels_are_harmless(tmp_path):
    found = replace(
        only(results_of(NASTY), "locality", "dead_keys"),
        environment={"command": NASTY[0], "devices": [NASTY[3]]},
        left_out=[Omission(NASTY[0], NASTY[3], NASTY[4])],
    )
    page = Page(found, tmp_path, [Picture(NASTY[0], NASTY[3], PNG)])
    assert "script" not in page.tags
    assert all(label in page.text for label in NASTY)
    for path in (tmp_path / "figures").iterdir():
        assert re.fullmatch(r"[a-z0-9-]+\.(svg|png|pdf)", path.name)


def test_nine_models_are_told_apart():
    labels = ["runs/dino/seed0/a/b/c/d/e/best.ckpt", "runs/dino/seed1/a/b/c/d/e/best.ckpt"]
    styles = styles_of([*labels, "a\n\x00b", *map(str, range(6))]).values()
    for unique in (lambda s: s.marker, lambda s: s.label, lambda s: (s.color, s.marker, s.dash)):
        assert len({unique(style) for style in styles}) == 9
    assert max(len(style.label) for style in styles) <= 26
    assert "a  b" in [style.label for style in styles]


def test_one_image_has_no_intervals(unrendered):
    found = only(results_of(["only"], images=1), "foreground_auroc", "feature_rank", "token_norm")
    captions = [each.caption for each in figures(found).values()]
    assert any("over 1 images; no interval" in caption for caption in captions)
    assert not any("95 %" in caption for caption in captions)
    for _, each in Questions(found, styles_of(["only"])).answers():
        assert "Yes" not in each.sentence
        assert "[" not in each.sentence.replace("[CLS]", "")


def test_numbers_that_are_none_are_left_out(results, tmp_path):
    few = only(results, "locality", "norm_outliers", "channel_magnitude", "token_norm")
    broken = [[math.nan, math.inf, -math.inf][i % 3] for i in range(len(few.rows))]
    rows = few.rows.assign(mean=broken, low=math.nan, high=math.nan)
    nothing = [[math.nan] * len(values) for values in few.arrays["values"]]
    page = Page(replace(few, rows=rows, arrays=few.arrays.assign(values=nothing)), tmp_path)
    assert not page.values("src")
    assert not re.search(r"\b(nan|inf|None|<NA>)\b", page.text)
    assert "Not measured: there are no main numbers." in page.text
    rows.loc[rows[rows["measure"] == "norm_outliers"].index[-1], "mean"] = 0.5
    found = headline(replace(few, rows=rows))
    assert sorted(found.to_numpy().ravel()) == ["0.5", "\N{EN DASH}"]


def test_arrays_of_an_unknown_measure_are_drawn_by_their_axes(results, unrendered):
    arrays = [
        Array("dino", "values", 0, values=[1.0, None], axes=["prompt"]),
        Array("dino", "channels", 0, values=[3.0, None, 2.0], axes=["channel"]),
        Array("dino", "map", 0, values=[[1.0, None]], axes=["row", "column"]),
        Array("dino", "bins", 0, values=[0, 5, 1], axes=["bin"], edges=[0, 1, 2, 3]),
        Array("dino", "one", 0, values=[2], axes=["bin"], edges=[-1, 1]),
        Array("dino", "empty", 0, values=[0, 0], axes=["bin"], edges=[0, 1, 2]),
        Array("dino", "cube", 0, values=[[[1.0]]], axes=["a", "b", "c"]),
        Array("dino", "none", 0, values=[None], axes=["channel"]),
    ]
    found = replace(with_rows(results), measures=[], arrays=table(arrays, Array))
    assert list(figures(found)) == [
        "values-by-prompt", "channels-by-channel", "map-encoder-1-dino",
        "bins-last-layer-measured", "one-last-layer-measured", "empty-last-layer-measured",
    ]  # fmt: skip


def test_rows_of_an_unknown_measure_are_drawn(results):
    def strange(block=None, point="", head=None, role=""):
        return Row("dino", "strange", block, point, head, role, 1.5, 1.0, 2.0, 3)

    for rows, names in (
        ([strange()], ["strange"]),
        ([strange(0), strange(1), strange()], ["strange"]),
        ([strange(0, point, None, role) for point in "abcde" for role in "xy"],
         ["strange-on-the-way-through-a-block", "strange-by-block-and-point", "strange-e"]),
        ([strange(0, "", head, "cls") for head in range(3)], ["strange-heads-cls-queries"]),
        ([strange(None, "", head) for head in range(3)], ["strange"]),
    ):  # fmt: skip
        assert list(figures(replace(with_rows(results, *rows), measures=[]))) == names


def test_numbers_below_a_figure_are_those_of_the_results(results, unrendered):
    made = figures(results)
    for name, column, line, where in (
        ("locality-output", "dino", 1, {"measure": "locality"}),
        ("attention-zeros-heads-cls-queries", "dino, head 1", 1,
         {"measure": "attention_zeros", "role": "cls", "head": 1}),
        ("cls-patch-cosine-by-block-and-point", "dino, block 1", "mlp",
         {"measure": "cls_patch_cosine", "role": "all", "point": "mlp"}),
        ("feature-rank", "entmax, cls", 1,
         {"measure": "feature_rank", "role": "cls", "model": "entmax"}),
    ):  # fmt: skip
        found = results.select(**{"model": "dino", "block": 1, **where}).iloc[0]
        shown = made[name].table.set_index(made[name].table.columns[0])
        assert shown[column][line] == interval(found["mean"], found["low"], found["high"])
    arrays = results.arrays[results.arrays["model"] == "dino"].set_index("measure")
    channels = arrays.loc["channel_magnitude"].query("point == 'norm1' and role == 'cls'")
    tops = made["channel-magnitude-cls-against-patches"].table
    largest = int(torch.tensor(channels["values"].iloc[-1]).argmax())
    assert largest in set(tops["channel"][tops["model"] == "dino"])
    last = results.arrays[results.arrays["measure"] == "token_norm"].iloc[1]["values"]
    shown = set(made["token-norm-last-layer-measured"].table["dino"]) - {"\N{EN DASH}"}
    assert shown == {number(count / sum(last)) for count in last if count}


def test_headline_has_the_output_and_the_best_block(results):
    rows = [row("foreground_auroc", 0, 0.9, 0.89, 0.91)]
    rows.append(row("foreground_auroc", 1, 0.5, 0.49, 0.51))
    rows.append(row("foreground_auroc", None, 0.5, 0.49, 0.51, point="final"))
    for block, mean, role in ((1, 0.25, "patches"), (2, 0.5, "patches"), (2, 0.9, "cls")):
        rows.append(row("attention_zeros", block, mean, point="", role=role))
    top = headline(with_rows(results, *rows))
    assert dict(top.loc["dino"]) == {
        "foreground AUROC, best": "0.900 [0.890, 0.910] (block 0)",
        "foreground AUROC, output": "0.500 [0.490, 0.510]",
        "attention weights exactly 0, mean of blocks": "0.375",
    }
    assert set(top.loc["entmax"]) == {"\N{EN DASH}"}


def rows_of(measure: str, *values: tuple, role: str = "", point: str = "read") -> list[Row]:
    """Rows of (mean, low, high), those of "dino" in the first block and then in the last."""
    return [row(measure, block, *each, role=role, point=point) for block, each in enumerate(values)]


CLS = rows_of("cls_patch_cosine", (0.2, 0.1, 0.3), role="all")
LIKE = rows_of("patch_patch_cosine", (0.5, 0.4, 0.6), role="all")
HALF = rows_of("foreground_share", (0.3, 0.2, 0.4))
AUROC = rows_of("foreground_auroc", (0.9, 0.8, 0.95), (0.6, 0.5, 0.7))
PEAK = rows_of("norm_peak", (3.0, 2.9, 3.1), point="output")


def of_mass(*values: tuple) -> list[Row]:
    return rows_of("attention_foreground", *values, role="cls", point="") + HALF


def of_norms(*values: tuple) -> list[Row]:
    return rows_of("norm_outliers", *values, point="output") + PEAK


@pytest.mark.parametrize(
    ("question", "rows", "start"),
    [
        (0, CLS + LIKE, "Yes, less like them than they are like each other: dino 0.20 ["),
        (0, [*rows_of("cls_patch_cosine", (0.9, 0.8, 0.95), role="all"), *LIKE], "No: dino"),
        (0, [*rows_of("cls_patch_cosine", (0.4, 0.3, 0.5), role="all"), *LIKE], "Undecided: dino"),
        (0, [*rows_of("cls_patch_cosine", (0.4,), role="all"), *LIKE], "Undecided, of one image: "),
        (0, LIKE, "Not measured: there is no [CLS]."),
        (1, of_mass((0.6, 0.5, 0.7)), "On the object more than an even spread: dino 0.60 ["),
        (1, of_mass((0.1, 0.05, 0.2)), "Beside the object: dino"),
        (1, of_mass((0.4, 0.2, 0.6)), "Undecided: dino"),
        (1, rows_of("attention_distance", (40, 30, 50), role="patches", point=""), "On objects or"),
        (1, CLS, "Not measured: no blocks."),
        (2, AUROC, "mIoU was not measured (--probe.root does); by the AUROC of [CLS] for "
                   "objects: Block 0, better than the last: dino 0.9"),
        (2, rows_of("block_miou", (5, 4, 6), (6, 5, 7)), "The last, block 1: dino 6.0 [5.0, 7.0]"),
        (2, rows_of("block_miou", (6, 4, 8), (5, 4, 6)), "Block 0, not told apart from the last:"),
        (2, CLS, "Not measured: no masks."),
        (3, of_norms((0.05, 0.03, 0.07)), "Yes: dino 0.050 [0.030, 0.070] against "),
        (3, of_norms((0.0, 0.0, 0.2)), "None was seen: dino"),
        (3, of_norms((0.001, 0.0005, 0.003)), "Hardly any: dino"),
        (3, of_norms((0.01, 0.001, 0.1)), "Undecided: dino"),
        (4, CLS + LIKE, "Nothing that the intervals tell apart."),
        (4, [*CLS, row("cls_patch_cosine", 0, 0.8, 0.7, 0.9, "entmax", role="all")],
         "[CLS]-patch cosine, output from dino (0.2) to entmax (0.8)."),
        (4, [*CLS, row("cls_patch_cosine", 0, 0.3, 0.2, 0.4, "entmax", role="all")],
         "Nothing that the intervals tell apart. Not told apart: [CLS]-patch cosine, output."),
    ],
)  # fmt: skip
def test_answers_follow_from_intervals_and_are_honest(results, question, rows, start):
    why = [Omission("", "attention_distance, x", "no blocks")]
    why.append(Omission("", "foreground_auroc", "no masks"))
    found = replace(with_rows(results, *rows), left_out=why)
    name, answer = [*Questions(found, styles_of(["dino", "entmax"])).answers()][question]
    assert name == QUESTIONS[question]
    assert answer.sentence.startswith(start)
    assert (answer.figure is None) == answer.sentence.startswith("Not measured")


def test_numbers_have_three_digits():
    values = {0.0: "0", 0.123456: "0.123", 1234.5: "1234", 1.5e7: "1.5e+07", -0.5: "-0.5"}
    assert {value: number(value) for value in values} == values
    assert interval(0.5073, 0.4874, 0.5274) == "0.507 [0.487, 0.527]"
    assert interval(0.5, 0.5, 0.5) == "0.500 [0.500, 0.500]"


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")
@pytest.mark.slow
def test_a_browser_shows_it_without_errors_and_without_scrolling_aside(page, folder, tmp_path):
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
    flags = "--headless --no-sandbox --disable-gpu --allow-file-access-from-files --dump-dom"
    flags += " --enable-logging=stderr --virtual-time-budget=5000"
    profile, address = (
        f"--user-data-dir={tmp_path / 'profile'}",
        (tmp_path / "frames.html").as_uri(),
    )
    done = subprocess.run(
        [BROWSER, *flags.split(), profile, address],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert 'data-found="0,0;0,0;0,0"' in done.stdout
    assert "CONSOLE" not in done.stderr
