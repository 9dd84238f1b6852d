"""Textures of regions without a shape of their own: wall, floor, sky, grass and water."""

import numpy as np

from vitlab.data.synthetic.drawing.canvas import Canvas, Floats
from vitlab.data.synthetic.drawing.tones import edge, fold, mix, noise, two_tones


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
