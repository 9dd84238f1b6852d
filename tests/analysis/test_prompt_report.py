"""The report of prompt tuning: what it counts, what it shows, what it refuses."""

import json
from pathlib import Path

import pytest
import torch
from refusals import check_wording
from runs import refusal, run_fit
from torchvision.io import read_image

from vitlab.analysis.prompt_report import (
    COLORS,
    OTHERS,
    PromptScores,
    color_entries,
    compare_arms,
    count_macs,
    load_prompted,
    preferred_entries,
)
from vitlab.cli import main
from vitlab.encoders import Pool, PromptedViT, Prompts, ViT, record, save
from vitlab.objectives.classification import Classifier
from vitlab.visualization.colors import Key

TCPA = Prompts(cls=Pool(5, top_k=2), patches=Pool(6, top_k=3))
R_TCPA = Prompts(cls=Pool(3), patches=Pool(4, length=2))
VPT = Prompts(shared=6, dropout=0.0)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> Path:
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("weights") / "backbone"
    save(ViT("nano", 8, 64), path)
    return path


@pytest.fixture(scope="module")
def tuned(backbone: Path, drawn: Path, tmp_path_factory) -> dict[str, Path]:
    """Checkpoints of prompts that were tuned for one epoch."""
    start, folder = "--model.objective.encoder.backbone", tmp_path_factory.mktemp("runs")
    options = (
        *(f"{start}.path", str(backbone), f"{start}.family", "auto", f"{start}.which", ""),
        *("--trainer.max_epochs", "1", "--model.optimizer.warmup_epochs", "0"),
    )
    none = ("--model.objective.encoder.prompts.shared", "0")
    run_fit(folder / "a", drawn, ["prompts_vpt", "demo_prompts"], *options, *none)
    run_fit(folder / "b", drawn, ["prompts_tcpa", "demo_prompts"], *options)
    return {"linear": folder / "a/last.ckpt", "tcpa": folder / "b/last.ckpt"}


def test_the_report_puts_the_arms_beside_the_linear_probe(tuned, drawn, tmp_path, capsys):
    out, data = tmp_path / "report", ("--data.root", str(drawn / "imagenet"), "--size", "64")
    arms = [f"{name}={path}" for name, path in tuned.items()]
    main(["report", "prompts", *arms, *data, "--out", str(out)])
    printed = capsys.readouterr().out
    assert printed.endswith((tmp_path / "report.md").read_text())
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines()[-2:]]
    assert [row[0] for row in rows] == ["linear", "tcpa"]
    for row, path in zip(rows, tuned.values(), strict=True):
        scored = json.loads((path.parent / "results.json").read_text())[-1]
        assert float(row[2]) == pytest.approx(scored["val/top1"], abs=0.05)
    height, width = read_image(str(tmp_path / "report.png")).shape[1:]
    assert width > 4 * 128
    assert height > 6 * 128
    main(["report", "prompts", arms[0], *data, "--out", f"{tmp_path}/without/a"])
    assert {path.name for path in (tmp_path / "without").iterdir()} == {"a.md"}


def test_a_checkpoint_is_read_as_the_run_left_it(tuned):
    model = load_prompted(tuned["tcpa"])
    state = torch.load(tuned["tcpa"], weights_only=True)["state_dict"]
    ours = {f"objective.model.{name}": each for name, each in model.state_dict().items()}
    assert set(ours) == set(state)
    assert all(torch.equal(each, state[name]) for name, each in ours.items())
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    assert all(".prompts." in name or name.startswith("head.") for name in trained)


def prompted(prompts=None) -> Classifier:
    return Classifier(PromptedViT(ViT("nano", 8, 32), *([prompts] if prompts else [])), 3)


@pytest.mark.parametrize(
    ("prompts", "own"), [(R_TCPA, slice(3, 11)), (VPT, slice(6))], ids=["r_tcpa", "vpt"]
)
def test_every_patch_reads_most_from_an_entry_of_its_pool(prompts, own):
    model, images = prompted(prompts).eval(), torch.randn(2, 3, 32, 32)
    how, entries = preferred_entries(model, images)
    with torch.no_grad(), record(model.encoder, "attn.weights") as weights:
        model(images)
    assert (how, len(entries)) == ("read most", len(weights))
    for each, w in zip(entries, weights, strict=True):
        most = w[:, :, 1:, own].mean(1).argmax(-1)
        assert torch.equal(each, most // max(prompts.patches.length, 1))


def test_the_choice_is_the_key_nearest_to_what_enters_the_block():
    model, images = prompted(TCPA).eval(), torch.randn(2, 3, 32, 32)
    how, entries = preferred_entries(model, images)
    assert how == "nearest key"
    states = model.encoder.walk(images)
    for each, state, block in zip(entries, states, model.encoder.blocks, strict=False):
        keys = torch.nn.functional.normalize(block.prompts.patches.keys, dim=-1)
        x = torch.nn.functional.normalize(state.x[:, 1:], dim=-1)
        assert torch.equal(each, (x @ keys.T).argmax(-1))


def test_the_legend_names_all_entries_and_adds_up():
    entries = torch.arange(16).fmod(9)[None]
    legend = color_entries("", entries, (4, 4), 8).legend
    assert len(legend) == len(COLORS) + 1
    assert legend[-1] == Key(OTHERS, "2 others: 12 %")
    assert len({key.color for key in legend}) == len(legend)


def test_macs_of_prompts_are_counted():
    plain, vpt = prompted(), prompted(VPT)
    # per prompt and block: keys and values 2 d^2, scores and values 2 d for each of 17 tokens
    width, blocks = plain.encoder.embed_dim, len(plain.encoder.blocks)
    expected = blocks * 6 * (2 * width**2 + 2 * 17 * width)
    assert count_macs(vpt, 32) - count_macs(plain, 32) == expected


def test_seeds_are_compared_in_pairs():
    arms = {"linear": (50, 60), "vpt": (52, 62), "tcpa": (70,)}
    runs = {name: [PromptScores(top1, 1.0, 10, 1000) for top1 in a] for name, a in arms.items()}
    lines = compare_arms(runs).splitlines()[2:]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert cells[0][2:4] == ["55.0 ± 7.1", ""]
    assert cells[1][2:4] == ["57.0 ± 7.1", "+2.0 ± 0.0"]
    assert cells[2][2:4] == ["70.0", "-"]


def test_other_files_are_refused(backbone, drawn, tmp_path, capsys):
    options = ["--data.root", str(drawn / "imagenet"), "--size", "64"]
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2"}, tmp_path / "other.ckpt")
    for wrong in ("nothing", "a=nothing", f"a={tmp_path / 'other.ckpt'}", f"a={backbone}"):
        refusal(main, ["report", "prompts", wrong, *options])
        check_wording(capsys.readouterr().err.splitlines()[-1])
