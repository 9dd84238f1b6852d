"""The files of docs/extending.md, written into an empty folder and run through the verbs."""

import csv
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import vitlab
from vitlab.cli import main

PAGE = Path(__file__).parents[1] / "docs/extending.md"


@pytest.fixture(scope="module")
def files():
    blocks = re.findall(r"(?s)```(?:python|yaml)\n# (\S+)\n(.*?)```", PAGE.read_text())
    assert len(blocks) == 5
    return dict(blocks)


@pytest.fixture
def folder(files, tmp_path, monkeypatch):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for split, count in (("train", 48), ("val", 12)):
        rows = [{"path": f"{split}{i}.png", "label": "abc"[i % 3]} for i in range(count)]
        for i, row in enumerate(rows):
            pixels = rng.integers(0, 80, (40, 40, 3)).astype(np.uint8)
            pixels[..., i % 3] += 100
            cv2.imwrite(str(tmp_path / "photos" / row["path"]), pixels)
        with open(tmp_path / f"photos/{split}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, ["path", "label"])
            writer.writeheader()
            writer.writerows(rows)
    monkeypatch.chdir(tmp_path)
    modules = [Path(name).stem for name in files if name.endswith(".py")]
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("VITLAB_ALLOW", ",".join(modules))
    yield tmp_path
    for module in modules:
        sys.modules.pop(module, None)


DATA = "--data my_data.CSVDataset --data.root photos --num-workers 0"


@pytest.mark.parametrize("encoder", ["my_encoder.TimmViT", "my_encoder.ConvNet"])
def test_own_classes_work_in_every_verb(encoder, folder, capsys):
    if encoder.endswith("ConvNet"):
        text = Path("my_run.yaml").read_text()
        own = "my_encoder.TimmViT, init_args: {img_size: 32, depth: 2}"
        Path("my_run.yaml").write_text(text.replace(own, "my_encoder.ConvNet"))
    main(["fit", "--config", "my_run.yaml", "--run-dir", "run"])
    assert "mean/top1" in Path("run/measurements.json").read_text()
    weights = "--weights run/last.ckpt"
    for words in (
        f"evaluate {weights} --protocol knn --protocol.size 32 --protocol.ks [20] {DATA} "
        "--out result",
        "measure run",
        "cost --config my_run.yaml --sizes 32",
        f"export {weights} --out exported",
        f"figure all photos/val0.png {weights} --size 64 --parts 3 --out figure.png",
        f"analyze {weights} --data my_data.CSVDataset --data.root photos --size 32 --images 4 "
        "--num-workers 0 --out analysis",
        "plan --config my_run.yaml --run-dir another --steps 1",
    ):
        main(words.split())
    encoder = vitlab.load("exported")
    assert type(encoder).__name__ in ("TimmViT", "ConvNet")
    state = torch.load("run/last.ckpt", weights_only=True)["state_dict"]
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, state[f"objective.encoder.{name}"])
