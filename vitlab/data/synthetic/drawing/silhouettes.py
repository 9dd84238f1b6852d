"""Contours: ten silhouettes inside the unit circle, and simple shapes."""

import numpy as np

from vitlab.data.synthetic.drawing.canvas import Contours, Floats, Number, array


def _polar(angles: Floats, radii: Floats | float) -> Floats:
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], -1).astype(np.float32)


def circle(radius: float = 1.0) -> Floats:
    """Contour of a disc around the origin, (64, 2)."""
    return _polar(np.linspace(0, 2 * np.pi, 64, endpoint=False, dtype=np.float32), radius)


def box(left: Number, top: Number, right: Number, bottom: Number) -> Floats:
    """Contour of an upright rectangle, (4, 2)."""
    return array([[left, top], [right, top], [right, bottom], [left, bottom]])


def blob(rng: np.random.Generator, x: float, y: float, radius: float) -> Floats:
    """Contour of an irregular round patch, (48, 2)."""
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    radii = 1 + sum(
        rng.uniform(0, 0.25) * np.cos(k * angles + rng.uniform(0, 6.3)) for k in (2, 3, 5)
    )
    return _polar(angles, radius * radii) + array([x, y])


def _cross() -> Floats:
    corners = array([[0.33, 0.33], [0.33, 1.0], [-0.33, 1.0]])  # one arm; the others turned
    quarter = np.array([[0, 1], [-1, 0]])
    arms = [corners @ np.linalg.matrix_power(quarter, turn) for turn in range(4)]
    return np.concatenate(arms).astype(np.float32)


def _crescent() -> Floats:
    # the unit disc without the disc of radius 0.8 around (0.45, 0), which meets it at x = 0.625
    tip = np.arccos(0.625)
    outer = _polar(np.linspace(tip, 2 * np.pi - tip, 48), 1.0)
    bend = np.arctan2(np.sin(tip), 0.625 - 0.45)
    inner = _polar(np.linspace(2 * np.pi - bend, bend, 48), 0.8) + array([0.45, 0])
    return np.concatenate([outer, inner])


def _horseshoe() -> Floats:
    arch = np.linspace(np.pi, 2 * np.pi, 32)
    outer, inner = _polar(arch, 0.8), _polar(arch[::-1], 0.38)
    legs = array([[0.8, 0.85], [0.38, 0.85]]), array([[-0.38, 0.85], [-0.8, 0.85]])
    return np.concatenate([outer, legs[0], inner, legs[1]]) * 0.88


def _gear() -> Floats:
    step = np.arange(32)
    return _polar((step + 0.2 * (step % 2)) * 2 * np.pi / 32, np.where(step % 4 < 2, 1.0, 0.72))


def _leaf() -> Floats:
    along = np.linspace(-1, 1, 40)
    half = 0.62 * (1 - along**2) * (1 - 0.35 * along)  # fuller toward the stalk
    return np.concatenate([np.stack([along, half], -1), np.stack([along, -half], -1)[::-1]])


def _heart() -> Floats:
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -13 * np.cos(t) + 5 * np.cos(2 * t) + 2 * np.cos(3 * t) + np.cos(4 * t)
    return (np.stack([x, y - 2], -1) / 17).astype(np.float32)


SILHOUETTES: dict[str, Contours] = {
    "disc": [circle(0.9)],
    "ring": [circle(1.0), circle(0.5)],
    "star": [_polar(np.arange(10) * np.pi / 5, np.where(np.arange(10) % 2, 0.45, 1.0))],
    "cross": [_cross()],
    "triangle": [_polar(np.arange(3) * 2 * np.pi / 3, 1.0)],
    "crescent": [_crescent()],
    "horseshoe": [_horseshoe()],
    "gear": [_gear(), circle(0.25)],
    "leaf": [_leaf()],
    "heart": [_heart()],
}
