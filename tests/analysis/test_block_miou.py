from pathlib import Path

import pytest
import torch
from refusals import refused

from vitlab.analysis.block_miou import BLOCK_MIOU, block_miou, group_blocks
from vitlab.data import VOC2012, ImageNet, SegmentationSquare
from vitlab.encoders import Encoder, Pixels, ViT
from vitlab.probes import DenseProbe, InferenceConfig
from vitlab.probes.features import eval_mode

TRANSFORM = SegmentationSquare(64)
INFERENCE = InferenceConfig(torch.device("cpu"), batch_size=3)


class Cut(Encoder):
    """A ViT that ends after a block."""

    def __init__(self, encoder: ViT, block: int):
        super().__init__()
        self.inner, self.block = encoder, block
        self.embed_dim, self.patch_size = encoder.embed_dim, encoder.patch_size

    def walk(self, images):
        yield from self.inner.walk(images)

    def forward(self, images):
        return self.inner.read(list(self.walk(images))[self.block + 1])


@pytest.fixture
def encoder() -> ViT:
    torch.manual_seed(0)
    return ViT("nano", patch_size=16, img_size=64)


@pytest.fixture
def voc(drawn: Path) -> VOC2012:
    return VOC2012(str(drawn / "VOCdevkit"), num_workers=0)


def test_each_block_has_the_dense_probe_of_an_encoder_that_ends_there(encoder: ViT, voc: VOC2012):
    rows = block_miou("one", encoder, voc, TRANSFORM, 0, INFERENCE)
    assert [row.block for row in rows] == [0, 1, 2, 3]
    ends = [Cut(encoder, block) for block in range(3)] + [encoder]
    for row, end in zip(rows, ends, strict=True):
        with eval_mode(end):
            outcome = DenseProbe(voc.num_classes).run(end, voc, TRANSFORM, 0, INFERENCE)
        assert row.mean == outcome.counts.value
        assert (row.model, row.measure, row.images) == ("one", BLOCK_MIOU.name, 4)
        assert row.low <= row.high
    assert encoder.training
    assert block_miou("one", encoder, voc, TRANSFORM, 0, INFERENCE, memory=1) == rows


def test_as_many_blocks_share_a_pass_as_fit_into_memory(encoder: ViT, voc: VOC2012):
    train = voc.segmentation_dataset("train", TRANSFORM)
    table, targets = 4 * 6 * 16 * encoder.embed_dim, 4 * 6 * 16 * 21
    assert group_blocks(encoder, train, 21) == [range(4)]
    exact = 4 * table + targets  # of three blocks, one of which is there twice
    assert group_blocks(encoder, train, 21, exact) == [range(3), range(3, 4)]
    assert group_blocks(encoder, train, 21, exact - 1) == [range(2), range(2, 4)]
    assert group_blocks(encoder, train, 21, 0) == [range(n, n + 1) for n in range(4)]


def test_an_encoder_without_blocks_has_one_row_and_data_without_masks_none(
    encoder: ViT, voc: VOC2012, drawn: Path
):
    (row,) = block_miou("pixels", Pixels(16), voc, TRANSFORM, 0, INFERENCE)
    with torch.no_grad():
        assert row.mean == DenseProbe(21).run(Pixels(16), voc, TRANSFORM, 0, INFERENCE).counts.value
    data = ImageNet(str(drawn / "imagenet"), num_workers=0)
    with refused():
        block_miou("one", encoder, data, TRANSFORM, 0, INFERENCE)
