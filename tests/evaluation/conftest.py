"""Results as an evaluation would leave them, and a small set whose colors are its classes."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from vitlab.cli import main
from vitlab.data import Folder, ImageNet
from vitlab.encoders import ViT, save
from vitlab.evaluation.protocol import EvaluationContext
from vitlab.evaluation.registry import protocol_hash
from vitlab.evaluation.result import DataInfo, ProtocolInfo, Result, WeightsInfo
from vitlab.probes import InferenceConfig
from vitlab.probes.metrics import AccuracyCounts, IoUCounts, PerImageCounts, bootstrap_interval

STEPS = {"class_path": "DenseLinear", "init_args": {"steps": 40000, "crop": [512, 512]}}
HASH = protocol_hash("dinov2-linear", 1, STEPS)


class Results:
    """Makes results and writes them below a folder."""

    names = tuple(f"JPEGImages/{index}.jpg" for index in range(60))

    def __init__(self, folder: Path):
        self.folder = folder

    def counts(self, better: float = 0.0, noise: int = 0) -> IoUCounts:
        """Counts in which images differ much and encoders little, as they do."""
        drawn = torch.Generator().manual_seed(0)
        truth = torch.randint(50, 2000, (60, 5), generator=drawn)
        easy = 0.3 + 0.4 * torch.rand(60, 1, generator=drawn)
        own = torch.rand(60, 5, generator=torch.Generator().manual_seed(noise))
        both = (truth * (easy + better + 0.05 * own)).long()
        return IoUCounts(both, truth, truth)

    def result(self, counts: PerImageCounts) -> Result:
        """A result with these counts."""
        classes = {}
        if isinstance(counts, IoUCounts):
            classes = {f"class {i}": float(iou) for i, iou in enumerate(counts.iou())}
        score = "top-1" if isinstance(counts, AccuracyCounts) else "mIoU"
        return Result(
            protocol=ProtocolInfo("dinov2-linear", 1, STEPS, HASH, {}),
            weights=WeightsInfo("dino_s16.pth", "f" * 64, {"size": "S"}, "dino", "teacher"),
            data=DataInfo("VOC2012", "train", "val", {"train": 9, "val": 60}, "abc", "/data"),
            headline=score,
            scores={score: counts.value, "accuracy": 50.0},
            interval=bootstrap_interval(counts, resamples=50),
            classes=classes,
            tried={"lr 0.1": counts.value, "lr 10": float("nan")},
            chosen="lr 0.1",
            chosen_on="held out",
            seed=0,
            seconds=1.25,
            environment={"command": "vitlab evaluate", "devices": []},
        )

    def write(
        self,
        name: str,
        weights: str,
        counts: PerImageCounts | None = None,
        changes: dict | None = None,
    ) -> Path:
        """Write a result; changes are of the protocol, the data or the result itself."""
        counts = counts or self.counts()
        result, changes = self.result(counts), changes or {}
        for part in ("protocol", "data"):
            own = {
                key: changes.pop(key)
                for key in list(changes)
                if hasattr(getattr(result, part), key)
            }
            result = replace(result, **{part: replace(getattr(result, part), **own)})
        result = replace(
            result, weights=replace(result.weights, path=weights, hash=weights), **changes
        )
        result.write(self.folder / name, counts, self.names)
        return self.folder / name


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path)


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    save(ViT("nano", 16, 64).eval(), tmp_path / "weights")
    return tmp_path / "weights"


@pytest.fixture
def evaluate(weights, drawn, tmp_path, monkeypatch):
    """Run the command in this process; returns its result."""
    monkeypatch.chdir(tmp_path)

    def run(protocol, *options, data="imagenet", out="result"):
        words = ["evaluate", "--weights", str(weights), "--protocol", protocol]
        words += ["--data.root", str(drawn / data), "--num-workers", "0", "--accelerator", "cpu"]
        main([*words, "--out", out, *options])
        return Result.read(tmp_path / out)

    return run


COLORS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
SIZE, CELL = 64, 16


def draw(root: Path, void: int = 0, train: int = 6, val: int = 5) -> Path:
    """Write images of 4 x 4 cells with their masks; the first rows of pixels are void."""
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            cells = generator.integers(3, size=(4, 4))
            labels = np.kron(cells, np.ones((CELL, CELL), int)).astype(np.uint8)
            image = np.ascontiguousarray(COLORS[labels][..., ::-1])
            labels[:void] = 255
            cv2.imwrite(str(root / f"images/{split}/{split}{index}.png"), image)
            cv2.imwrite(str(root / f"masks/{split}/{split}{index}.png"), labels)
    (root / "classes.json").write_text(json.dumps({"classes": ["r", "g", "b"]}))
    return root


def dataset(root: Path) -> Folder:
    return Folder(str(root), max_unreadable=0)


@pytest.fixture
def colors(tmp_path: Path) -> Folder:
    return dataset(draw(tmp_path / "colors"))


@pytest.fixture
def make(tmp_path: Path):
    """Draw such a set with other amounts."""

    def made(**options: int) -> Folder:
        return dataset(draw(tmp_path / f"colors {options}", **options))

    return made


@pytest.fixture
def context():
    """Make a context on the CPU."""

    def made(batch_size: int = 2, **options) -> EvaluationContext:
        config = InferenceConfig(torch.device("cpu"), batch_size)
        return EvaluationContext(config, quiet=True, **options)

    return made


@pytest.fixture
def imagenet(drawn: Path) -> ImageNet:
    return ImageNet(str(drawn / "imagenet"), num_workers=0, max_unreadable=0)


@pytest.fixture
def encoder() -> ViT:
    torch.manual_seed(0)
    return ViT("nano", 16, 64).eval()


@pytest.fixture(autouse=True)
def _no_gradients(request):
    with torch.set_grad_enabled("fit" in request.fixturenames):  # which trains
        yield
