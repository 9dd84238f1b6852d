"""Results of equal file names whose masks, or whose counts, are not the same."""

import torch

from vitlab.evaluation import blocks as module
from vitlab.evaluation.blocks import blocks
from vitlab.evaluation.compare import find
from vitlab.probes.metrics import AccuracyCounts, IoUCounts


def test_other_masks_of_the_same_names_have_no_difference(results):
    own = results.overlaps(0.1)
    truth = own.truth.clone()
    truth[7] += torch.tensor([1, -1, 0, 0, 0])  # one pixel, of another class
    moved = IoUCounts(torch.minimum(own.both, truth), truth, truth)
    results.write("a", "dino.pth")
    results.write("b", "ibot.pth", moved)
    (block,) = blocks(find([results.folder]))
    assert block.rows[1].difference is None
    assert "same names but other masks" in block.notes[block.rows[1].difference_mark]
    assert block.rows[1].score.interval is not None  # its own


def test_seeds_with_other_masks_have_no_common_interval(results):
    own = results.overlaps(0.1)
    truth = own.truth + 1
    results.write("a", "runs/dino/seed0/last.ckpt")
    results.write("b", "runs/dino/seed1/last.ckpt", IoUCounts(own.both, truth, truth))
    (block,) = blocks(find([results.folder]))
    assert block.rows[0].seeds == 2
    assert block.rows[0].score.interval is None
    assert block.notes[block.rows[0].score_mark] == module.NO_INTERVAL


def test_images_and_pixels_have_no_difference(results):
    right = AccuracyCounts(torch.arange(60) < 30)
    pixels = results.overlaps()
    counted = {"headline": "mIoU", "scores": {"mIoU": 50.0}, "classes": {}}
    results.write("a", "dino.pth", right, counted)
    results.write("b", "ibot.pth", pixels)
    (block,) = blocks(find([results.folder]))
    assert "images are counted in one" in block.notes[block.rows[1].difference_mark]
