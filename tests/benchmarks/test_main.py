import re

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import __main__ as bench
from benchmarks import attention as bench_attention
from benchmarks import data as bench_data
from vitlab.data.transforms import MultiCrop


@pytest.fixture
def photographs(tmp_path):
    for number, size in enumerate([(120, 90), (100, 130)]):
        rough = np.random.default_rng(number).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(rough).resize(size).save(tmp_path / f"{number}.JPEG", quality=90)
    return tmp_path


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(bench, "REPEATS", 1)
    monkeypatch.setattr(bench_data, "ROUNDS", 1)
    monkeypatch.setattr(bench_attention, "SHAPES", ((1, 2, 9, 16),))
    for part, smaller in (("encoder", ("nano", 32, 2)), ("dino", ("nano", 64))):
        tables = getattr(bench, part).tables
        monkeypatch.setattr(
            getattr(bench, part), "tables", lambda n, tables=tables, s=smaller: tables(n, *s)
        )
    monkeypatch.setattr(bench.analysis, "tables", lambda n: iter(()))  # measured by its own test
    small = [bench.probes.of_neighbors("l2", 60, 5), bench.probes.of_logistic(1e-3, 200)]
    monkeypatch.setattr(bench.probes, "cases", lambda: small)


@pytest.mark.slow
def test_everything_is_measured_printed_and_written(quick, photographs, tmp_path, capsys):
    out = tmp_path / "docs/cpu.md"
    bench.main(["--images", str(photographs), "--out", str(out)])
    printed, written = capsys.readouterr().out, out.read_text()
    for text in (printed, written):
        assert "entmax 1.3" in text
        assert "DINO's loss" in text
        assert "teacher forward" in text
        assert "locality, refined" in text
        assert "scikit-learn" in text
        assert f"2 of {photographs.name}" in re.sub(r"\s+", " ", text)
    assert "- commit: " in written
    assert "| peer / ours |" in written


def test_a_page_of_another_format_is_refused(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--out", "bench.html"])
    assert "ends in .md" in capsys.readouterr().err


def test_a_part_can_be_measured_alone(quick, capsys):
    bench.main(["--only", "loss"])
    printed = capsys.readouterr().out
    assert "DINO's loss" in printed
    assert "entmax 1.3" not in printed
    assert "images/s" not in printed


def test_a_folder_without_pictures_is_refused(quick, tmp_path, capsys):
    with pytest.raises(SystemExit):
        bench.main(["--only", "data", "--images", str(tmp_path)])
    assert "holds no pictures; name a folder of" in capsys.readouterr().err


def test_without_photographs_pictures_are_drawn(quick, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench_data, "PHOTOGRAPHS", tmp_path / "none")
    monkeypatch.setattr(bench_data, "DRAWN", 2)
    bench.main(["--only", "data"])
    assert "2 pictures drawn at 500 x 375 px" in re.sub(r"\s+", " ", capsys.readouterr().out)


def test_the_peer_makes_the_same_crops(photographs):
    crops = bench_data.Peer().read(photographs / "0.JPEG")
    edges = [size for count, size in MultiCrop().crop_sizes for _ in range(count)]
    assert [crop.shape[-1] for crop in crops] == edges
    assert all(crop.dtype == torch.float32 for crop in crops)


def test_pixels_are_close_to_those_of_pil(photographs):
    (_, means, _) = bench_data.closeness(bench_data.pictures(photographs)).columns
    assert all(float(mean) < 0.2 for mean in means.cells)


def test_measuring_on_one_core_leaves_the_threads_as_they_were():
    before = torch.get_num_threads(), cv2.getNumThreads()
    with bench_data.one_core():
        assert torch.get_num_threads() == 1
    assert (torch.get_num_threads(), cv2.getNumThreads()) == before


def test_the_loss_and_its_peer_have_equal_gradients():
    torch.manual_seed(0)
    _, ours, _, theirs = bench.loss()
    (student,) = {
        cell.cell_contents
        for cell in ours.__closure__ or ()
        if isinstance(cell.cell_contents, torch.Tensor) and cell.cell_contents.requires_grad
    }
    gradients = []
    for call in (ours, theirs):
        student.grad = None
        call()
        gradients.append(student.grad.clone())
    assert torch.allclose(*gradients, rtol=1e-4)
