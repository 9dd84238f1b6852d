"""The twelve classes of objects that all sets share: pose, texture, shadow."""

from dataclasses import dataclass

import cv2
import numpy as np

from vitlab.data.synthetic.drawing.canvas import Canvas, Contours, Floats, array
from vitlab.data.synthetic.drawing.silhouettes import SILHOUETTES
from vitlab.data.synthetic.drawing.textures import TEXTURES
from vitlab.data.synthetic.drawing.tones import balanced_tones, edge, mix, noise


@dataclass(frozen=True)
class Kind:
    """A class of objects: what its members share. Color, size and pose vary.

    Attributes:
        silhouette: its key.
        texture: its key.
        period: of the texture, in pixels.
    """

    silhouette: str
    texture: str
    period: float

    @property
    def name(self) -> str:
        """For people, such as "disc with dots"."""
        return f"{self.silhouette} with {self.texture}"


# some share a silhouette, some a texture
KINDS = (
    Kind("disc", "stripes", 10),
    Kind("disc", "dots", 13),
    Kind("ring", "checks", 15),
    Kind("star", "dots", 13),
    Kind("star", "bricks", 18),
    Kind("cross", "zigzag", 11),
    Kind("triangle", "grid", 13),
    Kind("triangle", "stripes", 10),
    Kind("crescent", "speckle", 13),
    Kind("gear", "checks", 15),
    Kind("heart", "scales", 13),
    Kind("leaf", "speckle", 13),
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
    """Turned by up to 15 degrees, perhaps mirrored, slightly stretched and sheared."""
    angle, shear = rng.uniform(-np.pi / 12, np.pi / 12), rng.uniform(-0.1, 0.1)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    mirror = rng.choice([-1.0, 1.0])
    stretch = np.array([[mirror * rng.uniform(0.85, 1.15), shear], [0, rng.uniform(0.85, 1.15)]])
    return Pose(x, y, radius, (rotation @ stretch).astype(np.float32))


def draw_object(
    canvas: Canvas, rng: np.random.Generator, kind: Kind, pose: Pose, label: int
) -> None:
    """Draw one textured object with its shadow; `label` goes into the labels."""
    alpha = canvas.coverage(pose.place(SILHOUETTES[kind.silhouette]))
    short = canvas.short
    u, v = pose.coordinates(canvas, period=kind.period * rng.uniform(0.85, 1.15))
    shift = rng.uniform(-0.5, 0.5, 2) if kind.texture != "rings" else (0, 0)
    tone = TEXTURES[kind.texture](u + np.float32(shift[0]), v + np.float32(shift[1]), rng)
    # colors that change over the object and average to gray: they identify neither it nor its class
    first, second = balanced_tones(rng), balanced_tones(rng)
    blend = edge(noise(rng, canvas.height, canvas.width, (short / 3, short / 3)))[..., None]
    color = mix(tone, first) * (1 - blend) + mix(tone, second) * blend
    color += 0.03 * noise(rng, canvas.height, canvas.width, (short / 6, short / 6))[..., None]
    _cast_shadow(canvas, rng, alpha)
    canvas.put(alpha, color, label)


def _cast_shadow(canvas: Canvas, rng: np.random.Generator, alpha: Floats) -> None:
    reach = 0.03 * canvas.short
    move = array([[1, 0, rng.uniform(-2, 2) * reach], [0, 1, rng.uniform(-2, 2) * reach]])
    moved = cv2.warpAffine(alpha, move, (canvas.width, canvas.height))
    soft = cv2.GaussianBlur(moved, (0, 0), reach)
    canvas.pixels *= 1 - np.float32(rng.uniform(0, 0.5)) * soft[..., None]
