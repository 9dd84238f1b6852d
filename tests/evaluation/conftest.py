"""Results as an evaluation would leave them, and a small set whose colors are its classes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from colors import folder, write_pair

from vitlab.cli import main
from vitlab.data import Folder, ImageNet
from vitlab.encoders import ViT, save
from vitlab.evaluation.protocol import EvaluationContext
from vitlab.evaluation.registry import protocol_hash
from vitlab.evaluation.result import DataInfo, ProtocolInfo, Result, WeightsInfo
from vitlab.probes import InferenceConfig
from vitlab.probes.metrics import AccuracyCounts, IoUCounts, PerImageCounts, bootstrap_interval

STEPS = {"class_path": "DenseLinear", "init_args": {"steps": 40000, "crop": [512, 512]}}
HASH = protocol_hash("dinov2-linear", 2, STEPS)


class Results:
    """Makes results and writes them below a folder."""

    names = tuple(f"JPEGImages/{index}.jpg" for index in range(60))

    def __init__(self, folder: Path):
        self.folder = folder

    def counts(self, better: float = 0.0, noise: int = 0) -> IoUCounts:
        """Counts in which images differ much and encoders little, as they do."""
        drawn, own = (torch.Generator().manual_seed(seed) for seed in (0, noise))
        truth = torch.randint(50, 2000, (60, 5), generator=drawn)
        easy = 0.3 + 0.4 * torch.rand(60, 1, generator=drawn)
        both = truth * (easy + better + 0.05 * torch.rand(60, 5, generator=own))
        return IoUCounts(both.long(), truth, truth)

    def result(self, counts: PerImageCounts) -> Result:
        """A result with these counts."""
        classes = {}
        if isinstance(counts, IoUCounts):
            classes = {f"class {i}": float(iou) for i, iou in enumerate(counts.iou())}
        score = "top-1" if isinstance(counts, AccuracyCounts) else "mIoU"
        return Result(
            protocol=ProtocolInfo("dinov2-linear", 2, STEPS, HASH, {}),
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
        self, place: str, weights: str, counts: PerImageCounts | None = None, **changes
    ) -> Path:
        """Write a result; changes are of the protocol, the data or the result itself."""
        counts = counts or self.counts()
        result = self.result(counts)
        parts = {"weights": replace(result.weights, path=weights, hash=weights)}
        for part in ("protocol", "data"):
            old = getattr(result, part)
            own = {key: changes.pop(key) for key in [*changes] if hasattr(old, key)}
            parts[part] = replace(old, **own)
        replace(result, **parts, **changes).write(self.folder / place, counts, self.names)
        return self.folder / place


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path)


@pytest.fixture
def weights(tmp_path, encoder):
    save(encoder, tmp_path / "weights")
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


@pytest.fixture
def make(tmp_path: Path):
    """Draw images of 4 x 4 cells with their masks; the first rows of pixels are void.

    All pixels of the splits in `blank` are.
    """

    def made(void: int = 0, train: int = 6, val: int = 5, blank: tuple[str, ...] = ()) -> Folder:
        root = tmp_path / f"colors {void} {train} {val} {blank}"
        generator = np.random.default_rng(0)
        for split, count in (("train", train), ("val", val)):
            for index in range(count):
                labels = np.kron(generator.integers(3, size=(4, 4)), np.ones((16, 16), int))
                mask = labels.astype(np.uint8)
                mask[: 64 if split in blank else void] = 255
                write_pair(root, split, index, labels, mask)
        return folder(root, ["r", "g", "b"])

    return made


@pytest.fixture
def colors(make) -> Folder:
    return make()


@pytest.fixture
def context():
    """Make a context on the CPU."""

    def made(batch_size: int = 2, **options) -> EvaluationContext:
        config = InferenceConfig(torch.device("cpu"), batch_size)
        return EvaluationContext(config, **options)

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
