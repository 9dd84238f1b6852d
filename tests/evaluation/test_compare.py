import csv
import io
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitlab.evaluation import blocks as module
from vitlab.evaluation.blocks import blocks
from vitlab.evaluation.compare import compare, find
from vitlab.evaluation.plot import draw
from vitlab.evaluation.references import Reference
from vitlab.evaluation.registry import protocol_hash
from vitlab.evaluation.rows import any_seed, difference, printable, seed_of
from vitlab.evaluation.tables import comma_separated, latex, markdown
from vitlab.probes.metrics import AccuracyCounts, bootstrap_scores

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
            evidence = results.overlaps(better, noise=seed)
            results.write(f"{arm}-{seed}", f"runs/{arm}/seed{seed}/last.ckpt", evidence)
    return results


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_seeds_become_a_row_with_mean_and_deviation(seeds):
    (block,) = blocks(find([seeds.folder]))
    assert [(row.label, row.seeds) for row in block.rows] == [("dino", 3), ("dino_entmax", 3)]
    values = [seeds.overlaps(0.05, noise=seed).value for seed in range(3)]
    assert block.rows[1].score.value == pytest.approx(statistics.mean(values))
    assert block.rows[1].score.deviation == pytest.approx(statistics.stdev(values))
    found = block.rows[1].difference
    assert found.by_seed == pytest.approx(
        [value - seeds.overlaps(noise=seed).value for seed, value in enumerate(values)]
    )
    assert found.value == pytest.approx(statistics.mean(found.by_seed))
    assert found.interval[0] < found.value < found.interval[1]
    assert block.rows[0].difference is None


def test_the_interval_of_a_paired_difference_is_narrower(seeds):
    """Images are easy or hard for both encoders, which cancels in pairs."""
    (block,) = blocks(find([seeds.folder / "dino-0", seeds.folder / "dino_entmax-0"]))
    paired = block.rows[1].difference.interval
    widths = [high - low for low, high in (row.score.interval for row in block.rows)]
    assert paired[1] - paired[0] < min(widths) / 5


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=12))
def test_paired_draws_are_those_of_the_difference_itself(pairs):
    """The difference of accuracies is the accuracy difference of each image, resampled."""
    one, other = (AccuracyCounts(torch.tensor(each)) for each in zip(*pairs, strict=True))
    change = one.correct.double() - other.correct.double()
    direct = bootstrap_scores(len(pairs), lambda times: 100 * (times @ change) / times.sum(1))
    both = bootstrap_scores(len(pairs), one.score) - bootstrap_scores(len(pairs), other.score)
    assert torch.allclose(direct, both, atol=1e-9)


def test_two_images_give_the_interval_by_hand(results):
    """One of 60 is right in one, none in the other: the difference is the share drawn of it."""
    one = torch.arange(60) < 1
    runs = find([
        results.write("a", "a.pth", AccuracyCounts(torch.zeros(60, dtype=torch.bool))),
        results.write("b", "b.pth", AccuracyCounts(one)),
    ])  # fmt: skip
    found = difference(runs[1:], runs[:1])
    assert found.value == pytest.approx(100 / 60)
    # how often one image is drawn is binomial(60, 1/60): 0 at 2.5 %, 3 at 97.5 %
    assert found.interval == pytest.approx((0, 300 / 60))


def test_an_encoder_does_not_differ_from_itself(seeds):
    runs = find([seeds.folder / "dino-0"])
    assert difference(runs, runs).interval == (0, 0)


def test_other_settings_are_apart_and_marked(results):
    runs = find([
        results.write("a", "dino.pth"),
        results.write("b", "dino.pth", results.overlaps(0.1), dict(MODIFIED)),
    ])  # fmt: skip
    first, second = blocks(runs)
    assert first.apart == ""
    assert second.apart == (
        "Not comparable with table 1 (VOC2012, dinov2-linear, hash 398561817624): "
        "steps: 40000 vs 1000."
    )
    assert "dinov2-linear* version 1, hash df7b2bd5176f" in second.title
    assert second.notes == {
        "*": "changed from the published protocol: init_args.steps 1000 (published: 40000)"
    }
    with pytest.raises(ValueError, match="have no difference"):
        difference(runs[1:], runs[:1])


def test_other_images_are_apart(results):
    runs = find([
        results.write("a", "dino.pth"),
        results.write("b", "dino.pth", None, {"fingerprint": "def"}),
        results.write("c", "dino.pth", None, {"fingerprint": "ghi", "dataset": "ADE20K"}),
    ])  # fmt: skip
    made = blocks(runs)
    assert "files of VOC2012: 9 train, 60 val (fingerprint abc) vs" in made[1].apart
    assert "dataset: VOC2012 vs ADE20K" in made[2].apart
    for other in runs[1:]:
        with pytest.raises(ValueError, match="different protocols, settings or data"):
            difference([other], runs[:1])


def test_a_baseline_that_a_table_lacks_gives_no_difference_there(results):
    results.write("a", "dino.pth")
    results.write("b", "ibot.pth", results.overlaps(0.1))
    results.write("c", "ibot.pth", results.overlaps(0.1), dict(MODIFIED))
    first, second = blocks(find([results.folder]), baseline="dino")
    assert first.rows[1].difference.value > 0
    assert second.rows[0].difference is None
    assert "the baseline dino has no result" in second.notes[second.rows[0].difference_mark]
    with pytest.raises(ValueError, match=r"no row 'capi'.*dino, ibot"):
        blocks(find([results.folder]), baseline="capi")


def test_a_head_chosen_on_the_reported_images_is_marked(results):
    results.write("a", "dino.pth", None, {"chosen_on": "val"})
    (block,) = blocks(find([results.folder]))
    assert block.notes == {"†": module.ON_VAL}
    text = markdown([block])
    assert "]† |" in text
    assert f"† {module.ON_VAL}" in text


def test_without_counts_there_is_no_difference_and_that_is_said(seeds):
    for seed in range(3):
        (seeds.folder / f"dino-{seed}/evidence.safetensors").unlink()
    (block,) = blocks(find([seeds.folder]))
    assert block.rows[1].difference is None
    assert "(evidence.safetensors) are missing" in block.notes[block.rows[1].difference_mark]
    assert block.notes[block.rows[0].score_mark] == module.NO_INTERVAL


def test_seeds_are_paired_with_their_own(seeds):
    paths = [seeds.folder / name for name in ("dino-0", "dino-1", "dino_entmax-1", "dino_entmax-2")]
    (block,) = blocks(find(paths))
    assert len(block.rows[1].difference.by_seed) == 1
    assert block.notes[block.rows[1].difference_mark] == "over the 1 of 2 seeds that both rows have"
    late = [seeds.write(f"late-{i}", f"runs/dino_entmax/seed{i}/last.ckpt") for i in (7, 8)]
    (block,) = blocks(find([*paths[:2], *late]))
    assert "no seed is in both" in block.notes[block.rows[1].difference_mark]


def test_one_public_encoder_is_compared_with_every_seed(seeds):
    public = seeds.write("public", "dino_s16.pth", seeds.overlaps(0.1, noise=9))
    (block,) = blocks(find([public, seeds.folder]))
    assert [row.label for row in block.rows] == ["dino_s16", "dino", "dino_entmax"]
    assert [len(row.difference.by_seed) for row in block.rows[1:]] == [3, 3]


def test_a_repeat_is_no_seed(results):
    for name in "ab":
        results.write(name, "dino.pth")
    (block,) = blocks(find([results.folder]))
    assert [row.seeds for row in block.rows] == [1, 1]
    assert len({row.label for row in block.rows}) == 2


def test_weights_that_were_trained_again_are_no_seed(results):
    for name, better in (("a", 0.0), ("b", 0.1)):
        results.write(name, "runs/dino/seed0/last.ckpt", results.overlaps(better))
    (block,) = blocks(find([results.folder]))
    assert [row.seeds for row in block.rows] == [1, 1]
    assert block.rows[1].difference.value > 0


def test_rows_of_one_name_get_longer_ones(results):
    results.write("a", "runs/dino/seed0/last.ckpt")
    results.write("b", "runs/dino/seed0/best.ckpt")
    results.write("c", "old/dino/seed0/best.ckpt")
    (block,) = blocks(find([results.folder]))
    assert [row.label for row in block.rows] == [
        "dino/last.ckpt",
        "runs/dino/seed*/best.ckpt (teacher)",
        "old/dino/seed*/best.ckpt (teacher)",
    ]


def test_a_result_named_twice_counts_once(results):
    folder = results.write("a", "dino.pth")
    assert len(find([folder, folder / "result.json", results.folder])) == 1
    (results.folder / "empty").mkdir()
    with pytest.raises(ValueError, match=r"there is no result\.json in .* or below it"):
        find([results.folder / "empty"])


def test_all_files_are_written(seeds, capsys):
    seeds.write("m", "dino.pth", seeds.overlaps(0.2), dict(MODIFIED))
    compare([seeds.folder], seeds.folder / "out/table.v2")
    shown = capsys.readouterr().out
    assert "Not comparable with table 1" in shown
    assert "+/-" not in shown
    found = sorted(file.name for file in (seeds.folder / "out").iterdir())
    assert found == [f"table.v2.{ending}" for ending in ("csv", "md", "png", "svg", "tex")]
    assert (seeds.folder / "out/table.v2.png").stat().st_size > 5000
    assert "dino_entmax" in (seeds.folder / "out/table.v2.svg").read_text()


def test_markdown_csv_and_latex_hold_the_same_numbers(seeds):
    made = blocks(find([seeds.folder]))
    row = made[0].rows[1]
    value = f"{row.score.value:.1f} [{row.score.interval[0]:.1f}, {row.score.interval[1]:.1f}]"
    change = f"{row.difference.value:+.2f} [{row.difference.interval[0]:+.2f}, "
    text = markdown(made)
    assert "### 1. VOC2012 val, 60 images: dinov2-linear version 1, hash 398561817624" in text
    assert f"| dino_entmax | 3 | {value} | ± {row.score.deviation:.2f} | {change}" in text
    tex = latex(made)
    assert rf"dino\_entmax & 3 & {value} & $\pm$ {row.score.deviation:.2f} & {change}" in tex
    assert tex.count(r"\toprule") == tex.count(r"\bottomrule") == tex.count(r"\begin{table}") == 1
    lines = rows(comma_separated(made))
    assert float(lines[1]["percent"]) == row.score.value
    assert float(lines[1]["difference_high"]) == row.difference.interval[1]
    assert lines[1]["by_seed"] == " ".join(map(str, row.score.by_seed))
    assert (lines[0]["difference"], lines[0]["baseline"]) == ("", "dino")


def test_names_cannot_break_a_table(results, capsys):
    nasty = "a|b_{c}$%&#~^\\[x](y)*<z>\x1b[2J\n.pth"
    results.write("a", nasty)
    made = blocks(find([results.folder]))
    compare([results.folder], results.folder / "out")
    assert "\x1b[2J" not in capsys.readouterr().out
    (line,) = [line for line in markdown(made).splitlines() if line.startswith("| a")]
    assert r"a\|b\_{c}$%&\#\~^\\[x\](y)\*\<z\>" in line
    tex = r"a\textbar{}b\_\{c\}\$\%\&\#\textasciitilde{}\textasciicircum{}\textbackslash{}[x](y)*"
    assert tex in latex(made)
    assert rows(comma_separated(made))[0]["weights"].startswith("a|b_{c}$%&#~^\\[x](y)*<z>")


def test_published_numbers_are_never_among_ours(results):
    other = Reference("dinov2-linear", "VOC2012", 60, 0, "DINOv2", 81.1, "one scale", "arXiv:1")
    subset = Reference("dinov2-linear", "VOC2012", 1449, 0, "whole set", 1.0, "", "arXiv:2")
    results.write("a", "dino.pth")
    results.write("b", "dino.pth", results.overlaps(0.1), dict(MODIFIED))
    made = blocks(find([results.folder]), references=[other, subset])
    assert [block.published for block in made] == [[other], []]
    text = markdown(made)
    assert (
        text.index("| dino |") < text.index("**published (not ours)**") < text.index("| DINOv2 |")
    )
    assert "whole set" not in text
    ours, published, _ = rows(comma_separated(made))
    assert published["percent"] == published["weights"] == ours["published_percent"] == ""
    assert (published["published_percent"], published["remarks"]) == (
        "81.1",
        "published (not ours)",
    )
    assert r"\textbf{published (not ours)}" in latex(made)


def test_the_plot_has_a_panel_for_each_table_and_its_differences(seeds):
    seeds.write("m", "dino.pth", seeds.overlaps(0.2), dict(MODIFIED))
    figure = draw(blocks(find([seeds.folder])))
    assert len(figure.axes) == 4
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["dino", "dino_entmax"]
    alone = draw(blocks(find([seeds.folder / "m"])))
    assert len(alone.axes) == 1


@given(st.text())
def test_any_path_has_a_place_and_can_be_printed(path):
    assert seed_of(any_seed(path)) in ("", seed_of(path)) or "seed" in path
    assert printable(path).isprintable()


def test_the_last_folder_of_a_seed_counts():
    assert any_seed("/a/seed1/dino/seed12/last.ckpt") == "/a/seed1/dino/seed*/last.ckpt"
    assert seed_of("/a/seed1/dino/seed12/last.ckpt") == "seed12"
    assert seed_of("seedlings/dino.pth") == ""
