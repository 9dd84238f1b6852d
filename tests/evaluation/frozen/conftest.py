"""A small set whose patches are one color each, and its color says its class."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from vitlab.data import Folder
from vitlab.evaluation.protocol import EvaluationContext
from vitlab.probes import InferenceConfig

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


def work(batch: int = 2, **options) -> EvaluationContext:
    return EvaluationContext(InferenceConfig(torch.device("cpu"), batch), quiet=True, **options)


@pytest.fixture
def job():
    """Make a plan of work on the CPU."""
    return work


@pytest.fixture(autouse=True)
def _no_gradients(request):
    with torch.set_grad_enabled("fit" in request.fixturenames):  # which trains
        yield
