"""Tones in [0, 1]: soft edges, noise, pairs of colors and the mixture of a pair."""

import cv2
import numpy as np

from vitlab.data.synthetic.drawing.canvas import Floats


def edge(level: Floats, sharpness: float = 2.2) -> Floats:
    """0 where `level` is below 0 and 1 above, with a soft step between."""
    return np.clip(0.5 + sharpness * level, 0, 1).astype(np.float32)


def fold(x: Floats) -> Floats:
    """Distance to the nearest whole number, in [0, 0.5]."""
    return np.abs(x - np.round(x))


def noise(rng: np.random.Generator, height: int, width: int, grain: tuple[float, float]) -> Floats:
    """Smooth noise, (height, width), mean 0, deviation near 1; `grain` is (x, y) in pixels."""
    rows, columns = max(2, round(height / grain[1])), max(2, round(width / grain[0]))
    coarse = rng.standard_normal((rows + 1, columns + 1)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) * np.float32(1.3)


def two_tones(rng: np.random.Generator, gap: tuple[float, float] = (0.3, 0.6)) -> Floats:
    """Two random colors, (2, 3), whose lightness differs by `gap`; either may be the lighter."""
    difference = rng.uniform(*gap)
    dark = rng.uniform(0.06, 0.94 - difference)
    chroma = rng.uniform(-0.2, 0.2, (2, 3))
    chroma -= chroma.mean(1, keepdims=True)
    pair = np.clip(np.array([[dark], [dark + difference]]) + chroma, 0, 1)
    return pair[rng.permutation(2)].astype(np.float32)


def balanced_tones(rng: np.random.Generator, gap: tuple[float, float] = (0.35, 0.7)) -> Floats:
    """Two random colors, (2, 3), whose mean is near gray: their average tells nothing."""
    middle = rng.uniform(0.45, 0.55)
    half = rng.uniform(*gap) / 2
    chroma = rng.uniform(-0.25, 0.25, 3)
    chroma -= chroma.mean()
    pair = np.clip(np.stack([middle - half - chroma, middle + half + chroma]), 0, 1)
    return pair[rng.permutation(2)].astype(np.float32)


def mix(tone: Floats, pair: Floats) -> Floats:
    """Where `tone`, (height, width), is 0 the first color, where it is 1 the second."""
    return pair[0] + tone[..., None] * (pair[1] - pair[0])
