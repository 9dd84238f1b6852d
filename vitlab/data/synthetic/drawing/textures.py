"""Textures of objects and of regions without a shape of their own.

Those of objects: coordinates in periods -> mixing weight of two tones, in [0, 1].
"""

from collections.abc import Callable

import numpy as np

from vitlab.data.synthetic.drawing.canvas import Canvas, Floats
from vitlab.data.synthetic.drawing.tones import edge, fold, mix, noise, two_tones

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


def stuff_color(canvas: Canvas, rng: np.random.Generator, name: str, horizon: float) -> Floats:
    """Texture of a region, (height, width, 3), in random colors."""
    height, width, short = canvas.height, canvas.width, canvas.short
    x, y = canvas.axes()
    if name == "wall":  # upright ribs, each split by a fine dark joint
        tone = edge(fold(x / (short * 0.05)) - 0.1, 4) * np.float32(0.8)
        tone += 0.1 * noise(rng, height, width, (3, 3))
    elif name == "floor":  # planks that run toward a point on the horizon
        depth = np.maximum(y - horizon + 0.15 * height, 1) / height
        lane = (x - width * rng.uniform(0.3, 0.7)) / (width * 0.14 * (0.3 + depth))
        joint = np.log(depth) * 4 + 0.5 * (np.floor(lane) % 2)
        tone = 0.35 * edge(np.minimum(fold(lane), 2 * fold(joint)) - 0.06, 8)
        tone += 0.3 * np.sin(np.floor(lane) * 2.4 + np.floor(joint) * 1.7) + 0.4
    elif name == "sky":  # wide soft clouds
        clouds = noise(rng, height, width, (short / 2, short / 5))
        tone = 0.3 * y / height + edge(clouds + rng.uniform(-0.5, 0.5), 0.4) * np.float32(0.6)
    elif name == "grass":  # blades: upright streaks
        tone = 0.5 + 0.3 * noise(rng, height, width, (1.6, short * 0.05))
    else:  # water: lying streaks, longer toward the front
        tone = 0.5 + 0.3 * noise(rng, height, width, (short * 0.14, 2.5))
    return mix(tone.astype(np.float32), two_tones(rng, (0.15, 0.4)))
