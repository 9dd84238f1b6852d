"""patch100 as people type it: it is scored at 100 pixels, and pictures are of the masks' size."""

import pytest
import torch

from vitlab.cli import main
from vitlab.encoders import ViT, save
from vitlab.evaluation.result import Result


@pytest.mark.filterwarnings("ignore:there are 40 training images")
def test_patch100_ends_with_pictures(drawn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save(ViT("nano", 16, 64).eval(), tmp_path / "weights")
    main(
        [
            *("evaluate", "--weights", "weights", "--protocol", "patch100"),
            *(
                "--data.root",
                str(drawn / "VOCdevkit"),
                "--num-workers",
                "0",
                "--accelerator",
                "cpu",
            ),
            *("--protocol.split", "train", "--protocol.images", "3", "--out", "result"),
            *("--protocol.recipe.epochs", "1", "--protocol.recipe.batch_size", "3"),
            *("--protocol.transform.size", "64", "--protocol.test.short", "64"),
        ]
    )
    assert 0 <= Result.read(tmp_path / "result").value <= 100
    assert (tmp_path / "result/pictures.png").stat().st_size > 1000
