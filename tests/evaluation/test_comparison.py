import io
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
import torch
from refusals import refused

from vitlab.cli import main
from vitlab.evaluation.comparison import ON_VAL, OTHER_IMAGES, compare
from vitlab.evaluation.comparison_latex import to_latex
from vitlab.evaluation.comparison_plot import draw
from vitlab.evaluation.comparison_text import PUBLISHED, footnotes, to_markdown
from vitlab.evaluation.evaluations import read_evaluations, split_seed
from vitlab.evaluation.registry import protocol_hash, read_references
from vitlab.probes.metrics import AccuracyCounts, IoUCounts

FEWER = {"class_path": "DenseLinear", "init_args": {"steps": 1000, "crop": [512, 512]}}
MODIFIED = {
    "settings": FEWER,
    "hash": protocol_hash("dinov2-linear", 2, FEWER),
    "changed": {"steps": (40000, 1000)},
}


@pytest.fixture
def seeds(results):
    """Three seeds of two arms, as `vitlab fit` lays them out."""
    for seed in range(3):
        for arm, better in (("dino", 0.0), ("dino_entmax", 0.05)):
            counts = results.counts(better, noise=seed)
            results.write(f"{arm}-{seed}", f"runs/{arm}/seed{seed}/last.ckpt", counts)
    return results


def compared(*paths, **options):
    return compare(read_evaluations(paths), **options)


def test_seeds_become_a_row_with_mean_and_deviation(seeds):
    table = compared(seeds.folder)
    first, second = table.itertuples()
    assert [*table.weights, *table.seeds] == ["dino", "dino_entmax", 3, 3]
    assert split_seed("/seed1/dino/seed12/a") == ("/seed1/dino/seed*/a", "seed12")
    assert split_seed("seedlings/dino.pth")[1] == ""
    values, others = (
        np.array([seeds.counts(better, noise=seed).value for seed in range(3)])
        for better in (0.05, 0.0)
    )
    for found, expected, mean, deviation in (
        (second.by_seed, values, second.percent, second.deviation),
        (
            second.difference_by_seed,
            values - others,
            second.difference,
            second.difference_deviation,
        ),
    ):
        assert found == pytest.approx(expected)
        assert (mean, deviation) == pytest.approx((expected.mean(), expected.std(ddof=1)))
    assert second.difference_low < second.difference < second.difference_high
    assert pd.isna(first.difference)


def test_the_interval_of_one_image_is_that_by_hand(results):
    """One of 60 is right in one, none in the other: the difference is the share drawn of it."""
    results.write("a", "a.pth", AccuracyCounts(torch.zeros(60, dtype=torch.bool)))
    results.write("b", "b.pth", AccuracyCounts(torch.arange(60) < 1))
    row = compared(results.folder).iloc[1]
    assert row.difference == pytest.approx(100 / 60)
    # how often one image is drawn is binomial(60, 1/60): 0 at 2.5 %, 3 at 97.5 %
    assert (row.difference_low, row.difference_high) == pytest.approx((0, 300 / 60))


def test_other_settings_and_images_are_apart_and_marked(results):
    results.write("a", "dino.pth")
    results.write("b", "dino.pth", results.counts(0.1), **MODIFIED)
    results.write("c", "dino.pth", fingerprint="def")
    results.write("d", "dino.pth", fingerprint="def", dataset="ADE20K")
    results.write("e", "dino.pth", fingerprint="def", name="knn", hash="1", settings={"k": 2})
    table = compared(results.folder)
    assert list(table.table) == [1, 2, 3, 4, 5]
    assert "difference" not in table
    why = [text.removeprefix("Not comparable with table ") for text in table.not_comparable]
    assert why[:2] == ["", "1: steps: 40000 vs 1000."]
    assert why[2].startswith("1: files: {'train': 9, 'val': 60} (fingerprint abc) vs")
    assert why[3:] == ["3: dataset: VOC2012 vs ADE20K.", "3: protocol: dinov2-linear vs knn."]
    changed = table[table.table == 2]
    assert footnotes(changed)[1] == (
        "* changed from the published protocol: steps 1000 (published: 40000)"
    )
    assert "### 1. VOC2012 val, 60 images: dinov2-linear\\*\n" in to_markdown(changed)
    assert "Protocol dinov2-linear version 2, hash 1359bbb88572." in to_markdown(changed)


def test_results_of_an_older_version_are_apart_and_named_without_published_numbers(results):
    results.write("a", "dino.pth", dataset="ADE20K")
    results.write("b", "dino.pth", dataset="ADE20K", version=1, hash="1")
    published = read_references().assign(images=60, learned=0)
    table = compared(results.folder, references=published)
    present, old = (table[table.table == number] for number in (1, 2))
    assert len(present) > 1 == len(old)
    assert footnotes(present) == []
    assert footnotes(old)[0].startswith("Made by version 1 of dinov2-linear, which is version 2 in")
    assert "version: 2 vs 1" in footnotes(old)[1]
    mine = compared(results.write("c", "dino.pth", name="mine", version=1))
    assert not mine.outdated.any()  # a protocol of one's own


def test_a_baseline_that_a_table_lacks_gives_no_difference_there(results):
    results.write("a", "dino.pth")
    results.write("b", "ibot.pth", results.counts(0.1))
    results.write("c", "ibot.pth", results.counts(0.1), **MODIFIED)
    table = compared(results.folder, baseline="dino")
    assert table.difference[1] > 0
    assert pd.isna(table.difference[2])
    assert "the baseline has no result" in table.remarks[2]
    assert list(compared(results.folder, baseline="ibot").baseline) == ["ibot"] * 3
    with refused("--baseline"):
        compared(results.folder, baseline="capi")


def test_without_the_same_images_there_is_no_difference(seeds):
    own = seeds.counts(0.1)
    truth = own.truth.clone()
    truth[7] += torch.tensor([1, -1, 0, 0, 0])  # one pixel, of another class
    moved = IoUCounts(torch.minimum(own.both, truth), truth, truth)
    first = seeds.write("a", "x/dino/seed0/last.ckpt")
    counted = {"headline": "mIoU", "scores": {"mIoU": 50.0}, "classes": {}}
    others = [
        seeds.write("b", "ibot.pth", moved),
        seeds.write("c", "capi.pth", AccuracyCounts(torch.arange(60) < 30), **counted),
        seeds.write("d", "x/dino/seed1/last.ckpt", moved),
    ]
    seeds.names = seeds.names[::-1]
    others.append(seeds.write("e", "timm.pth"))
    for other in others:
        table = compared(first, other)
        assert OTHER_IMAGES in table.remarks.iloc[-1]
        assert table.low.notna().all() == (other.name != "d")  # where each has its own
    (seeds.folder / "dino-1/counts.safetensors").unlink()
    arms = ("dino-0", "dino-1", "dino_entmax-0", "dino_entmax-1")
    missing = compared(*(seeds.folder / name for name in arms))
    assert list(missing.remarks) == [
        f"no interval: {OTHER_IMAGES}",
        f"no difference: {OTHER_IMAGES}",
    ]
    assert list(missing.low.isna()) == [True, False]


def test_seeds_are_paired_with_their_own(seeds):
    paths = [seeds.folder / name for name in ("dino-0", "dino-1", "dino_entmax-1", "dino_entmax-2")]
    row = compared(*paths).iloc[1]
    change = seeds.counts(0.05, noise=1).value - seeds.counts(noise=1).value
    assert row.difference_by_seed == [change]
    assert row.remarks == "difference over the 1 of 2 seeds that both rows have"
    late = [seeds.write(f"late-{i}", f"runs/dino_entmax/seed{i}/last.ckpt") for i in (7, 8)]
    assert "no seed is in both" in compared(*paths[:2], *late).remarks[1]
    public = seeds.write("public", "dino_s16.pth", seeds.counts(0.1, noise=9))
    table = compared(public, *paths[:2])  # one encoder is paired with every seed
    assert list(table.weights) == ["dino_s16", "dino"]
    assert len(table.difference_by_seed[1]) == 2


def test_rows_of_one_name_get_longer_ones_and_a_repeat_is_no_seed(results):
    folder = results.write("a", "runs/dino/seed0/last.ckpt")
    results.write("c", "runs/dino_v1.5/last.ckpt")
    results.write("d", "dino_s16.pth")
    b, e = (results.write(each, "runs/dino/seed0/best.ckpt") for each in "be")  # trained again
    table = compared(results.folder)
    names = ["dino/seed*/last", str(b), "dino_v1.5", "dino_s16", str(e)]
    assert list(table.weights) == names
    assert (table.seeds == 1).all()
    assert len(read_evaluations([folder, folder / "result.json", results.folder])) == 5
    (results.folder / "empty").mkdir()
    with refused("results"):
        read_evaluations([results.folder / "empty"])


def test_all_files_hold_the_same_numbers(seeds, capsys):
    seeds.write("m", "dino.pth", seeds.counts(0.2), **MODIFIED)
    main(["compare", str(seeds.folder), "--out", str(seeds.folder / "out/table.v2")])
    written = {file.suffix: file for file in (seeds.folder / "out").glob("table.v2.*")}
    assert sorted(written) == [".csv", ".md", ".pdf", ".png", ".svg", ".tex"]
    assert written[".png"].stat().st_size > 5000
    panels = draw(compared(seeds.folder)).axes
    assert len(panels) == 4  # scores and differences of two tables
    labels = [text.get_text() for text in panels[0].get_yticklabels()]
    assert labels == ["dino", "dino_entmax"]
    text, tex = written[".md"].read_text(), written[".tex"].read_text()
    assert capsys.readouterr().out == text + "\n"
    row = compared(seeds.folder).iloc[1]
    value = f"{row.percent:.1f} [{row.low:.1f}, {row.high:.1f}] ± {row.deviation:.2f}"
    change = f"{row.difference:+.2f} [{row.difference_low:+.2f}, {row.difference_high:+.2f}]"
    for cell in (value, f"{change} ± {row.difference_deviation:.2f}"):
        assert cell in text
        signed = cell.replace(" ±", " & ±").replace(" [", " & [").replace("±", r"$\pm$")
        assert signed.replace("+", "$+$") in tex
    assert r"dino\_entmax & 3 & " in tex
    read = pd.read_csv(written[".csv"])
    for column in ("percent", "low", "deviation", "difference_high"):
        assert read[column][1] == row[column]
    assert (read.by_seed[1], read.baseline[1]) == (str(row.by_seed), "dino")


NASTY = "a|b_{c}$%&#~^\\[x](y)*<z>\x1b[2J\n\"'é \u03b1-entmax \u00d7模.pth"


def test_names_cannot_break_a_table_and_a_flattered_score_is_marked(results, capsys):
    results.write("a", NASTY, chosen_on="val")
    main(["compare", str(results.folder), "--out", str(results.folder / "out")])
    assert "\x1b[2J" not in capsys.readouterr().out
    table = compared(results.folder)
    text = to_markdown(table)
    assert "]† |" not in text
    assert "† [" in text
    assert f": {ON_VAL}" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| a")]
    assert r"a\|b\_{c}$%&\#\~^\\[x\](y)\*\<z\>" in line
    tex = to_latex(table)
    assert r"a\textbar{}b\_\{c\}\$\%\&\#\textasciitilde{}\textasciicircum{}" in tex
    assert r"\textquotesingle{}é $\alpha$-entmax $\times${[}U+6A21{]} & 3" in tex
    assert pd.read_csv(io.StringIO(table.to_csv())).weights[0].startswith(r"a|b_{c}$%&#~^\[x](y)*")


def structure(tex: str) -> list[tuple[int, list[str]]]:
    """Columns of each table of LaTeX, and its rows; every row must fill them."""
    assert set(re.findall(r"usepackage(?:\[T1\])?{(\w+)}", tex)) == {
        "fontenc",
        "textcomp",
        "booktabs",
    }
    found = []
    for body in re.findall(r"\\begin{table}(.*?)\\end{table}", tex, re.S):
        for part in (r"\caption{", r"\label{tab:", r"\toprule", r"\midrule", r"\bottomrule"):
            assert part in body
        assert not re.search("hash", body[: body.index(r"\begin{tabular}")])
        spec = re.search(r"\\begin{tabular}{(.*)}\n", body)[1]
        columns = len(re.sub(r"@{\\hspace{0.7em}}| ", "", spec))
        rows = [line.strip() for line in body.splitlines() if line.endswith(r"\\")]
        for row in rows:
            cells = re.sub(r"\\[&%]", "", row)
            across = [int(each) for each in re.findall(r"\\multicolumn{(\d+)}", cells)]
            assert cells.count("&") + 1 + sum(across) - len(across) <= columns, row
        found.append((columns, rows))
    return found


def test_latex_leaves_out_what_is_empty_and_names_rows_and_metrics(seeds):
    for arm in ("dino", "dino_entmax"):
        seeds.write(f"{arm}-knn", f"runs/{arm}/seed0/last.ckpt", name="knn", hash="1")
    seeds.write("alone", "timm.pth", fingerprint="def")
    table = compared(seeds.folder, labels=["dino=DINO"], metrics=["mIoU=mIoU (val)"])
    tex = to_latex(table)
    alone, several, one_seed = structure(tex)
    assert [each[0] for each in (several, one_seed, alone)] == [8, 5, 3]
    assert several[1][0].startswith(r"& seeds & \multicolumn{3}{c}{mIoU (val), \%} &")
    assert alone[1][0].startswith(r"& \multicolumn{2}{c}{mIoU (val), \%}")
    assert r"DINO & 3 & " in tex
    assert "difference to DINO" in tex
    assert len(set(re.findall(r"\\label{(.*?)}", tex))) == 3
    assert "mIoU, %" in to_markdown(compared(seeds.folder, metrics=["mIoU"]))


@pytest.mark.parametrize("labels", [["a"], ["dino=DINO", "dyno=x"], ["x", "x"], ["a", " "]])
def test_labels_that_do_not_fit_are_refused(seeds, labels):
    with refused("--labels"):
        compared(seeds.folder, labels=labels)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex here")
def test_latex_compiles(seeds):
    seeds.write("a", NASTY, seeds.counts(0.1), chosen_on="val", **MODIFIED)
    seeds.write("b", "dino.pth", **MODIFIED)
    published = read_references().assign(images=60, learned=9, dataset="VOC2012")
    table = compared(seeds.folder, references=published)
    assert "published_model" in table
    (seeds.folder / "table.tex").write_text(to_latex(table))
    packages = "".join(
        rf"\usepackage{each}" for each in ("[T1]{fontenc}", "{textcomp}", "{booktabs}")
    )
    text = rf"\documentclass{{article}}{packages}\begin{{document}}\input{{table}}\end{{document}}"
    (seeds.folder / "page.tex").write_text(text)
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-draftmode", "page.tex"]
    done = subprocess.run(words, cwd=seeds.folder, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]


def test_published_numbers_are_never_among_ours(results):
    one = {"protocol": "dinov2-linear", "dataset": "VOC2012", "images": 60, "learned": 0}
    one |= {"model": "DINOv2", "percent": 81.1, "conditions": "one scale", "source": "arXiv:1"}
    others = [{"learned": 9}, {"learned": 8}, {"images": 1449}, {"dataset": "ADE20K"}]
    others = [{**one, **each, "model": f"model {i}"} for i, each in enumerate(others)]
    references = pd.DataFrame([one, *others, {**one, "protocol": "knn"}])
    results.write("a", "dino.pth")
    results.write("b", "dino.pth", results.counts(0.1), **MODIFIED)
    table = compared(results.folder, references=references)
    assert list(table.table) == [1, 1, 1, 2]
    assert list(table.published_model[1:3]) == ["DINOv2", "model 0"]
    assert table.percent[1:3].isna().all()
    text = to_markdown(table)
    assert text.index("| dino") < text.index(f"**{PUBLISHED}**") < text.index("| DINOv2")
    assert "one scale; head from 9 images" in text
    assert PUBLISHED in to_latex(table)
