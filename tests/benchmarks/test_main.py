import re

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import __main__ as bench
from benchmarks import analysis, attention, data, dino, encoder, probes
from vitlab.data.transforms import MultiCrop
from vitlab.encoders import ViT


@pytest.fixture
def photographs(tmp_path):
    for number, size in enumerate([(120, 90), (100, 130)]):
        rough = np.random.default_rng(number).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(rough).resize(size).save(tmp_path / f"{number}.JPEG", quality=90)
    return tmp_path


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(bench, "REPEATS", 1)
    monkeypatch.setattr(data, "ROUNDS", 1)
    monkeypatch.setattr(attention, "SHAPES", ((1, 2, 9, 16),))
    sizes = {encoder: ("nano", 32, 2), analysis: ("nano", 32, 2), dino: ("nano", 64)}
    for part, smaller in sizes.items():
        tables = part.tables
        monkeypatch.setattr(part, "tables", lambda n, tables=tables, s=smaller: tables(n, *s))
    small = [probes.of_neighbors("l2", 60, 5), probes.of_logistic(1e-3, 200)]
    monkeypatch.setattr(probes, "cases", lambda: small)


@pytest.mark.slow
def test_everything_is_measured_printed_and_written(photographs, tmp_path, capsys):
    out = tmp_path / "docs/cpu.md"
    bench.main(["--images", str(photographs), "--out", str(out)])
    for text in (capsys.readouterr().out, out.read_text()):
        for name in ("entmax 1.3", "DINO's loss", "backward", "locality, refined", "scikit-learn"):
            assert name in text
        assert f"2 pictures of {photographs.name}" in re.sub(r"\s+", " ", text)
    assert "- commit: " in text
    assert "| peer / ours" in text


@pytest.mark.parametrize("part", [encoder, analysis])
def test_every_arm_is_measured_and_what_needs_a_gpu_is_said(part):
    here, there = part.tables(1)
    assert [*here.columns[0].cells] == list(part.ARMS)
    assert [*there.columns[0].cells] == ["not measured: no GPU"]
    aims = {each.header: list(each.cells) for each in here.columns}["aim"]
    wanted = {encoder: ["", "", "<= 1.02", "<= 1.15"], analysis: ["<= 3", "", ""]}
    assert aims == wanted[part]


def test_an_analysis_sees_all_images():
    vit = ViT("nano", 16, 32).eval()
    measured = analysis.Analysis(vit, torch.randn(5, 3, 32, 32), torch.zeros(5, 32, 32).byte())
    measured.step = 2
    measured.all()
    assert measured.engine.accumulator.images == 5


def test_a_part_can_be_measured_alone_and_without_photographs_pictures_are_drawn(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(data, "PHOTOGRAPHS", tmp_path / "none")
    monkeypatch.setattr(data, "DRAWN", 2)
    bench.main(["--only", "data"])
    printed = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "2 pictures drawn at 500 x 375 px" in printed
    assert "DINO's loss" not in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "bench.html"], "ends in .md"),
        (["--only", "data", "--images", "."], "holds no pictures; name a folder of"),
    ],
)
def test_what_cannot_be_measured_or_written_is_refused(
    words, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        bench.main(words)
    assert message in capsys.readouterr().err


def test_the_peer_makes_the_same_crops_of_about_the_same_pixels_on_one_core(photographs):
    before = torch.get_num_threads(), cv2.getNumThreads()
    with data.one_core():
        assert torch.get_num_threads() == 1
        crops = data.Peer().read(photographs / "0.JPEG")
    assert (torch.get_num_threads(), cv2.getNumThreads()) == before
    edges = [size for count, size in MultiCrop().crop_sizes for _ in range(count)]
    assert [crop.shape[-1] for crop in crops] == edges
    assert all(crop.dtype == torch.float32 for crop in crops)
    (_, means, _) = data.closeness(data.pictures(photographs)).columns
    assert all(float(mean) < 0.2 for mean in means.cells)
