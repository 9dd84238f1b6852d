import io
import statistics

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

from vitlab.cli import main
from vitlab.evaluation.comparison import NO_INTERVAL, ON_VAL, PUBLISHED, compare
from vitlab.evaluation.comparison_plot import draw
from vitlab.evaluation.comparison_text import (
    cells,
    footnotes,
    title,
    to_csv,
    to_latex,
    to_markdown,
)
from vitlab.evaluation.evaluations import any_seed, printable, read_evaluations, seed_of
from vitlab.evaluation.registry import protocol_hash
from vitlab.probes.metrics import AccuracyCounts, IoUCounts, bootstrap_scores

FEWER = {"class_path": "DenseLinear", "init_args": {"steps": 1000, "crop": [512, 512]}}
MODIFIED = {
    "settings": FEWER,
    "hash": protocol_hash("dinov2-linear", 1, FEWER),
    "changed": {"init_args.steps": (40000, 1000)},
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


def why(row):
    (text,) = row.difference_remarks
    return text


def test_seeds_become_a_row_with_mean_and_deviation(seeds):
    first, second = compared(seeds.folder).itertuples()
    assert [(row.weights, row.seeds) for row in (first, second)] == [
        ("dino", 3),
        ("dino_entmax", 3),
    ]
    values = [seeds.counts(0.05, noise=seed).value for seed in range(3)]
    assert second.percent == pytest.approx(statistics.mean(values))
    assert second.deviation == pytest.approx(statistics.stdev(values))
    others = [seeds.counts(noise=seed).value for seed in range(3)]
    assert second.difference_by_seed == pytest.approx(
        [value - other for value, other in zip(values, others, strict=True)]
    )
    assert second.difference == pytest.approx(statistics.mean(second.difference_by_seed))
    assert second.difference_low < second.difference < second.difference_high
    assert pd.isna(first.difference)


def test_the_interval_of_a_paired_difference_is_narrower(seeds):
    """Images are easy or hard for both encoders, which cancels in pairs."""
    table = compared(seeds.folder / "dino-0", seeds.folder / "dino_entmax-0")
    paired = table.difference_high[1] - table.difference_low[1]
    assert paired < (table.high - table.low).min() / 5


@settings(max_examples=5, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=12))
def test_paired_draws_are_those_of_the_difference_itself(pairs):
    """The difference of accuracies is the accuracy difference of each image, resampled."""
    one, other = (AccuracyCounts(torch.tensor(each)) for each in zip(*pairs, strict=True))
    change = one.correct.double() - other.correct.double()
    direct = bootstrap_scores(len(pairs), lambda times: 100 * (times @ change) / times.sum(1))
    both = bootstrap_scores(len(pairs), one.score) - bootstrap_scores(len(pairs), other.score)
    assert torch.allclose(direct, both, atol=1e-9)


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
    results.write("b", "dino.pth", results.counts(0.1), dict(MODIFIED))
    results.write("c", "dino.pth", None, {"fingerprint": "def"})
    results.write("d", "dino.pth", None, {"fingerprint": "ghi", "dataset": "ADE20K"})
    table = compared(results.folder)
    assert list(table.table) == [1, 2, 3, 4]
    assert "difference" not in table
    assert table.not_comparable[0] == ""
    assert table.not_comparable[1] == (
        "Not comparable with table 1 (VOC2012, dinov2-linear, hash 398561817624): "
        "steps: 40000 vs 1000."
    )
    assert "files of VOC2012: 9 train, 60 val (fingerprint abc) vs" in table.not_comparable[2]
    assert "dataset: VOC2012 vs ADE20K" in table.not_comparable[3]
    changed = table[table.table == 2]
    assert "dinov2-linear* version 1, hash df7b2bd5176f" in title(changed)
    assert footnotes(changed) == {
        "*": "changed from the published protocol: init_args.steps 1000 (published: 40000)"
    }


def test_a_baseline_that_a_table_lacks_gives_no_difference_there(results):
    results.write("a", "dino.pth")
    results.write("b", "ibot.pth", results.counts(0.1))
    results.write("c", "ibot.pth", results.counts(0.1), dict(MODIFIED))
    table = compared(results.folder, baseline="dino")
    assert table.difference[1] > 0
    assert pd.isna(table.difference[2])
    assert "the baseline dino has no result" in why(table.iloc[2])
    with refused("--baseline"):
        compared(results.folder, baseline="capi")


def test_a_head_chosen_on_the_reported_images_is_marked(results):
    results.write("a", "dino.pth", None, {"chosen_on": "val"})
    table = compared(results.folder)
    assert footnotes(table) == {"†": ON_VAL}
    assert "]† |" in to_markdown(table)
    assert f"† {ON_VAL}" in to_markdown(table)


def test_without_counts_there_is_no_difference(seeds):
    for seed in range(3):
        (seeds.folder / f"dino-{seed}/counts.safetensors").unlink()
    first, second = (row for _, row in compared(seeds.folder).iterrows())
    assert "counts of images are missing" in why(second)
    assert first.remarks == [NO_INTERVAL]
    assert pd.isna(first.low)


def test_seeds_are_paired_with_their_own(seeds):
    paths = [seeds.folder / name for name in ("dino-0", "dino-1", "dino_entmax-1", "dino_entmax-2")]
    row = compared(*paths).iloc[1]
    assert len(row.difference_by_seed) == 1
    assert why(row) == "over the 1 of 2 seeds that both rows have"
    late = [seeds.write(f"late-{i}", f"runs/dino_entmax/seed{i}/last.ckpt") for i in (7, 8)]
    assert "no seed is in both" in why(compared(*paths[:2], *late).iloc[1])
    public = seeds.write("public", "dino_s16.pth", seeds.counts(0.1, noise=9))
    table = compared(public, *paths[:2])  # one encoder is paired with every seed
    assert list(table.weights) == ["dino_s16", "dino"]
    assert len(table.difference_by_seed[1]) == 2


def test_a_repeat_is_no_seed(results):
    for name, weights in ("a", "dino.pth"), ("b", "dino.pth"), ("c", "x/dino/seed0/last.ckpt"):
        results.write(name, weights)
    results.write("d", "x/dino/seed0/last.ckpt", results.counts(0.1))  # trained again
    table = compared(results.folder)
    assert list(table.seeds) == [1, 1, 1, 1]
    assert table.weights.nunique() == 4


def test_rows_of_one_name_get_longer_ones(results):
    results.write("a", "runs/dino/seed0/last.ckpt")
    results.write("b", "runs/dino/seed0/best.ckpt")
    results.write("c", "old/dino/seed0/best.ckpt")
    assert list(compared(results.folder).weights) == [
        "dino/last.ckpt",
        "runs/dino/seed*/best.ckpt (teacher)",
        "old/dino/seed*/best.ckpt (teacher)",
    ]


def test_a_result_named_twice_counts_once(results):
    folder = results.write("a", "dino.pth")
    assert len(read_evaluations([folder, folder / "result.json", results.folder])) == 1
    (results.folder / "empty").mkdir()
    with refused("results"):
        read_evaluations([results.folder / "empty"])


def test_masks_and_kinds_of_counts_must_agree(results):
    own = results.counts(0.1)
    truth = own.truth.clone()
    truth[7] += torch.tensor([1, -1, 0, 0, 0])  # one pixel, of another class
    moved = IoUCounts(torch.minimum(own.both, truth), truth, truth)
    results.write("a", "runs/dino/seed0/last.ckpt")
    results.write("b", "ibot.pth", moved)
    counted = {"headline": "mIoU", "scores": {"mIoU": 50.0}, "classes": {}}
    results.write("c", "capi.pth", AccuracyCounts(torch.arange(60) < 30), counted)
    table = compared(results.folder)
    assert "same names but other masks" in why(table.iloc[1])
    assert table.low.notna().all()  # each has its own
    assert "images are counted in one" in why(table.iloc[2])
    results.write("d", "runs/dino/seed1/last.ckpt", moved)
    row = compared(results.folder / "a", results.folder / "d").iloc[0]
    assert (row.seeds, row.remarks) == (2, [NO_INTERVAL])


def test_all_files_are_written(seeds, capsys):
    seeds.write("m", "dino.pth", seeds.counts(0.2), dict(MODIFIED))
    main(["compare", str(seeds.folder), "--out", str(seeds.folder / "out/table.v2")])
    shown = capsys.readouterr().out
    assert "Not comparable with table 1" in shown
    found = sorted(file.name for file in (seeds.folder / "out").iterdir())
    assert found == [f"table.v2.{ending}" for ending in ("csv", "md", "png", "svg", "tex")]
    assert (seeds.folder / "out/table.v2.png").stat().st_size > 5000
    assert "dino_entmax" in (seeds.folder / "out/table.v2.svg").read_text()


def test_markdown_csv_and_latex_hold_the_same_numbers(seeds):
    table = compared(seeds.folder)
    row = table.iloc[1]
    value = f"{row.percent:.1f} [{row.low:.1f}, {row.high:.1f}]"
    change = f"{row.difference:+.2f} [{row.difference_low:+.2f}, {row.difference_high:+.2f}]"
    expected = ["dino_entmax", "3", value, f"± {row.deviation:.2f}", change]
    assert list(cells(table).iloc[1])[:5] == expected
    text, tex = to_markdown(table), to_latex(table)
    assert "### 1. VOC2012 val, 60 images: dinov2-linear version 1, hash 398561817624" in text
    for cell in expected[1:]:
        assert cell in text
        assert cell.replace("-", "\N{MINUS SIGN}") in tex
    assert r"dino\_entmax & 3 & " in tex
    assert tex.count(r"\toprule") == tex.count(r"\bottomrule") == tex.count(r"\begin{table}") == 1
    read = pd.read_csv(io.StringIO(to_csv(table)), dtype=str)
    for column in ("percent", "low", "deviation", "difference_high"):
        assert float(read[column][1]) == row[column]
    assert read.by_seed[1] == " ".join(map(str, row.by_seed))
    assert pd.isna(read.difference[0])
    assert read.baseline[0] == "dino"


def test_names_cannot_break_a_table(results, capsys):
    nasty = "a|b_{c}$%&#~^\\[x](y)*<z>\x1b[2J\n.pth"
    results.write("a", nasty)
    main(["compare", str(results.folder), "--out", str(results.folder / "out")])
    assert "\x1b[2J" not in capsys.readouterr().out
    table = compared(results.folder)
    (line,) = [line for line in to_markdown(table).splitlines() if line.startswith("| a")]
    assert r"a\|b\_{c}$%&\#\~^\\[x\](y)\*\<z\>" in line
    tex = r"a|b\_\{c\}\$\%\&\#\textasciitilde{}\textasciicircum{}\textbackslash{}[x](y)*<z>"
    assert tex in to_latex(table)
    assert pd.read_csv(io.StringIO(to_csv(table))).weights[0].startswith(r"a|b_{c}$%&#~^\[x](y)*")


def test_published_numbers_are_never_among_ours(results):
    one = {"protocol": "dinov2-linear", "dataset": "VOC2012", "images": 60, "learned": 0}
    one |= {"model": "DINOv2", "percent": 81.1, "conditions": "one scale", "source": "arXiv:1"}
    others = [{"learned": 9}, {"learned": 8}, {"images": 1449}, {"dataset": "ADE20K"}]
    others.append({"protocol": "knn"})
    references = pd.DataFrame(
        [one, *({**one, **each, "model": f"model {i}"} for i, each in enumerate(others))]
    )
    results.write("a", "dino.pth")
    results.write("b", "dino.pth", results.counts(0.1), dict(MODIFIED))
    table = compared(results.folder, references=references)
    assert list(table.table) == [1, 1, 1, 2]
    assert list(table.published_model[1:3]) == ["DINOv2", "model 0"]
    assert table.percent[1:3].isna().all()
    assert table.remarks[1] == [PUBLISHED]
    text = to_markdown(table)
    assert text.index("| dino") < text.index(f"**{PUBLISHED}**") < text.index("| DINOv2")
    assert "one scale; head from 9 images" in text
    assert f"{PUBLISHED}." in to_latex(table)


def test_the_plot_has_a_panel_for_each_table_and_its_differences(seeds):
    seeds.write("m", "dino.pth", seeds.counts(0.2), dict(MODIFIED))
    figure = draw(compared(seeds.folder))
    assert len(figure.axes) == 4
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["dino", "dino_entmax"]
    assert len(draw(compared(seeds.folder / "m")).axes) == 1


@given(st.text())
def test_any_path_has_a_place_and_can_be_printed(path):
    assert seed_of(any_seed(path)) in ("", seed_of(path)) or "seed" in path
    assert printable(path).isprintable()


def test_the_last_folder_of_a_seed_counts():
    assert any_seed("/a/seed1/dino/seed12/last.ckpt") == "/a/seed1/dino/seed*/last.ckpt"
    assert seed_of("/a/seed1/dino/seed12/last.ckpt") == "seed12"
    assert seed_of("seedlings/dino.pth") == ""
