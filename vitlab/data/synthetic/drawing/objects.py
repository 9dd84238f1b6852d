"""The ten classes of objects that all sets share: pose, texture, shadow."""

from dataclasses import dataclass

import cv2
import numpy as np

from vitlab.data.synthetic.drawing.canvas import Canvas, Contours, Floats, array
from vitlab.data.synthetic.drawing.silhouettes import SILHOUETTES
from vitlab.data.synthetic.drawing.textures import TEXTURES
from vitlab.data.synthetic.drawing.tones import edge, mix, noise, two_tones


@dataclass(frozen=True)
class Kind:
    """A class of objects: what its members share. Color, size and pose vary.

    Attributes:
        name: key of its silhouette.
        texture: key of its texture.
        period: of the texture, as a share of the picture's short side.
    """

    name: str
    texture: str
    period: float


KINDS = (
    Kind("disc", "stripes", 0.09),
    Kind("ring", "checks", 0.2),
    Kind("star", "dots", 0.14),
    Kind("cross", "waves", 0.24),
    Kind("triangle", "bricks", 0.12),
    Kind("crescent", "zigzag", 0.07),
    Kind("horseshoe", "grid", 0.17),
    Kind("gear", "rings", 0.22),
    Kind("leaf", "scales", 0.08),
    Kind("heart", "speckle", 0.28),
)


@dataclass(frozen=True)
class Pose:
    """Position of a silhouette: point -> center + radius * matrix @ point.

    Attributes:
        x: center, in pixels.
        y: center, in pixels.
        radius: of the circle around the untilted silhouette, in pixels.
        matrix: (2, 2), rotation times mild affine; columns have a length near 1.
    """

    x: float
    y: float
    radius: float
    matrix: Floats

    def place(self, contours: Contours) -> Contours:
        """From the unit circle to pixels."""
        center = array([self.x, self.y])
        return [(c @ self.matrix.T * self.radius + center).astype(np.float32) for c in contours]

    def coordinates(self, canvas: Canvas, period: float) -> tuple[Floats, Floats]:
        """Coordinates that turn with the object, in texture periods from its center."""
        x, y = canvas.axes()
        offset = np.stack([x - self.x, y - self.y], -1)
        u, v = np.moveaxis(offset @ np.linalg.inv(self.matrix).T / period, -1, 0)
        return u.astype(np.float32), v.astype(np.float32)


def random_pose(rng: np.random.Generator, x: float, y: float, radius: float) -> Pose:
    """Turned by up to a sixth of a circle, perhaps mirrored, slightly stretched and sheared."""
    angle, shear = rng.uniform(-np.pi / 3, np.pi / 3), rng.uniform(-0.15, 0.15)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    mirror = rng.choice([-1.0, 1.0])
    stretch = np.array([[mirror * rng.uniform(0.85, 1.15), shear], [0, rng.uniform(0.85, 1.15)]])
    return Pose(x, y, radius, (rotation @ stretch).astype(np.float32))


def draw_object(
    canvas: Canvas, rng: np.random.Generator, kind: Kind, pose: Pose, label: int
) -> None:
    """Draw one textured object with its shadow; `label` goes into the labels."""
    alpha = canvas.coverage(pose.place(SILHOUETTES[kind.name]))
    short = canvas.short
    u, v = pose.coordinates(canvas, period=short * kind.period * rng.uniform(0.85, 1.15))
    shift = rng.uniform(-0.5, 0.5, 2) if kind.texture != "rings" else (0, 0)
    tone = TEXTURES[kind.texture](u + np.float32(shift[0]), v + np.float32(shift[1]), rng)
    # colors that change over the object, so that they identify neither object nor class
    first, second = two_tones(rng), two_tones(rng)
    blend = edge(noise(rng, canvas.height, canvas.width, (short / 3, short / 3)))[..., None]
    color = mix(tone, first) * (1 - blend) + mix(tone, second) * blend
    color += 0.06 * noise(rng, canvas.height, canvas.width, (short / 6, short / 6))[..., None]
    _cast_shadow(canvas, rng, alpha)
    canvas.put(alpha, color, label)


def _cast_shadow(canvas: Canvas, rng: np.random.Generator, alpha: Floats) -> None:
    reach = 0.03 * canvas.short
    move = array([[1, 0, rng.uniform(-2, 2) * reach], [0, 1, rng.uniform(-2, 2) * reach]])
    moved = cv2.warpAffine(alpha, move, (canvas.width, canvas.height))
    soft = cv2.GaussianBlur(moved, (0, 0), reach)
    canvas.pixels *= 1 - np.float32(rng.uniform(0, 0.5)) * soft[..., None]
