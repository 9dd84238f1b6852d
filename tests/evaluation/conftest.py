"""Results as an evaluation would leave them, made of drawn counts."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vitlab.cli import main
from vitlab.encoders import ViT, save
from vitlab.evaluation.registry import protocol_hash
from vitlab.evaluation.result import DataInfo, ProtocolInfo, Result, WeightsInfo
from vitlab.probes.metrics import AccuracyCounts, IoUCounts, PerImageCounts, bootstrap_interval

STEPS = {"class_path": "DenseLinear", "init_args": {"steps": 40000, "crop": [512, 512]}}
HASH = protocol_hash("dinov2-linear", 1, STEPS)


class Results:
    """Makes results and writes them below a folder."""

    names = tuple(f"JPEGImages/{index}.jpg" for index in range(60))

    def __init__(self, folder: Path):
        self.folder = folder

    def overlaps(self, better: float = 0.0, noise: int = 0) -> IoUCounts:
        """Counts in which images differ much and encoders little, as they do."""
        drawn = torch.Generator().manual_seed(0)
        truth = torch.randint(50, 2000, (60, 5), generator=drawn)
        easy = 0.3 + 0.4 * torch.rand(60, 1, generator=drawn)
        own = torch.rand(60, 5, generator=torch.Generator().manual_seed(noise))
        both = (truth * (easy + better + 0.05 * own)).long()
        return IoUCounts(both, truth, truth)

    def result(self, evidence: PerImageCounts) -> Result:
        """A result with this evidence."""
        classes = {}
        if isinstance(evidence, IoUCounts):
            classes = {f"class {i}": float(iou) for i, iou in enumerate(evidence.iou())}
        score = "top-1" if isinstance(evidence, AccuracyCounts) else "mIoU"
        return Result(
            protocol=ProtocolInfo("dinov2-linear", 1, STEPS, HASH, {}),
            weights=WeightsInfo("dino_s16.pth", "f" * 64, {"size": "S"}, "dino", "teacher"),
            data=DataInfo("VOC2012", "train", "val", {"train": 9, "val": 60}, "abc", "/data"),
            headline=score,
            scores={score: evidence.value, "accuracy": 50.0},
            interval=bootstrap_interval(evidence, resamples=50),
            classes=classes,
            tried={"lr 0.1": evidence.value, "lr 10": float("nan")},
            chosen="lr 0.1",
            chosen_on="held out",
            seed=0,
            seconds=1.25,
            environment={"command": "vitlab evaluate", "devices": ()},
        )

    def write(
        self,
        name: str,
        weights: str,
        evidence: PerImageCounts | None = None,
        changes: dict | None = None,
    ) -> Path:
        """Write a result; changes are of the protocol, the data or the result itself."""
        evidence = evidence or self.overlaps()
        result, changes = self.result(evidence), changes or {}
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
        result.write(self.folder / name, evidence, self.names)
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
