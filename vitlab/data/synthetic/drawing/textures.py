"""Textures of objects: coordinates in periods -> mixing weight of two tones, in [0, 1]."""

from collections.abc import Callable

import numpy as np

from vitlab.data.synthetic.drawing.canvas import Floats
from vitlab.data.synthetic.drawing.tones import edge, fold

Texture = Callable[[Floats, Floats, np.random.Generator], Floats]


def _dots(u: Floats, v: Floats, rng: np.random.Generator) -> Floats:
    row = np.round(v)
    return edge(0.31 - np.hypot(fold(u + 0.5 * (row % 2)), v - row), 7.0)


def _bricks(u: Floats, v: Floats, rng: np.random.Generator) -> Floats:
    row = np.floor(v * 1.3)
    upright = fold(u * 0.65 + 0.5 * (row % 2)) / 0.65
    return edge(np.minimum(upright, fold(v * 1.3) / 1.3) - 0.11, 7.0)


def _speckle(u: Floats, v: Floats, rng: np.random.Generator) -> Floats:
    # random waves of one wavelength: irregular spots of one size
    angles, phases = rng.uniform(0, 2 * np.pi, (2, 12))
    total = sum(
        np.cos(2 * np.pi * 0.9 * (u * np.cos(a) + v * np.sin(a)) + p)
        for a, p in zip(angles, phases, strict=True)
    )
    return edge(total / np.sqrt(6), 2.0)


def _scales(u: Floats, v: Floats, rng: np.random.Generator) -> Floats:
    # each row of discs lies over the next, so only the lower rim of a disc shows
    tone = np.zeros_like(u)
    for step in (1, 0):
        row = np.floor(v * 1.6) + step
        distance = np.hypot(fold(u + 0.5 * (row % 2)), (v * 1.6 - row) / 1.6)
        tone = np.where(distance < 0.56, 1 - distance / 0.56, tone)
    return edge(tone - 0.42, 2.6)


TEXTURES: dict[str, Texture] = {
    "stripes": lambda u, v, rng: edge(np.sin(2 * np.pi * u)),
    "checks": lambda u, v, rng: edge(np.sin(np.pi * 1.3 * u) * np.sin(np.pi * 1.3 * v), 4.0),
    "dots": _dots,
    "waves": lambda u, v, rng: edge(np.sin(2 * np.pi * (v + 0.32 * np.sin(2 * np.pi * u / 2.2)))),
    "bricks": _bricks,
    "zigzag": lambda u, v, rng: edge(np.sin(2 * np.pi * (v + 1.3 * fold(u / 1.9)))),
    "grid": lambda u, v, rng: edge(np.minimum(fold(u), fold(v)) - 0.13, 7.0),
    "rings": lambda u, v, rng: edge(np.sin(2 * np.pi * np.hypot(u, v))),
    "scales": _scales,
    "speckle": _speckle,
}
