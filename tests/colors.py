"""Images whose colors are their classes, and encoders that know colors."""

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from vitlab.data import Folder
from vitlab.encoders import Encoder, Tokens, TokenSequence
from vitlab.encoders.tokens import assemble

COLORS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], np.uint8)


def write_pair(root: Path, split: str, index: int, labels: np.ndarray, mask: np.ndarray) -> None:
    """Write an image whose colors are labels, and a mask."""
    for kind, pixels in (("images", COLORS[labels][..., ::-1]), ("masks", mask)):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
        path = root / kind / split / f"{split}{index:02}.png"
        cv2.imwrite(str(path), np.ascontiguousarray(pixels, np.uint8))


def folder(root: Path, classes: list[str] | None = None, **options) -> Folder:
    """A folder of images and masks as data; with classes, their names are written first."""
    if classes is not None:
        (root / "classes.json").write_text(json.dumps({"classes": classes}))
    return Folder(str(root), **{"num_workers": 0, "max_unreadable": 0, **options})


class Known(Encoder):
    """An encoder whose features a subclass computes from averaged patches of 8 x 8 pixels."""

    patch_size = 8

    def features(self, patches: torch.Tensor) -> torch.Tensor:
        """Features (b, p, d) of patches (b, p, 3)."""
        raise NotImplementedError

    def walk(self, images: torch.Tensor) -> Iterator[TokenSequence]:
        colors = F.avg_pool2d(images, 8)
        patches = self.features(colors.flatten(2).transpose(1, 2))
        cls = patches.mean(1, keepdim=True)
        yield TokenSequence(assemble(cls, patches[:, :0], patches), tuple(colors.shape[2:]))

    def forward(self, images: torch.Tensor) -> Tokens:
        return next(iter(self.walk(images))).tokens()
