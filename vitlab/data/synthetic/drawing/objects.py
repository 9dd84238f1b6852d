"""The ten classes of objects that the sets share, and how one of them is drawn."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from vitlab.data.synthetic.drawing.canvas import Canvas, Contours, Floats, array
from vitlab.data.synthetic.drawing.pose import Pose
from vitlab.data.synthetic.drawing.silhouettes import SILHOUETTES
from vitlab.data.synthetic.drawing.textures import TEXTURES, Texture
from vitlab.data.synthetic.drawing.tones import edge, mix, noise, two_tones


@dataclass(frozen=True)
class Kind:
    """A class of objects: what its members share. Color, size and pose are free.

    Attributes:
        name: of the silhouette, one word.
        surface: name of the texture.
        period: of the texture, as a share of the picture's short side.
    """

    name: str
    surface: str
    period: float

    @property
    def silhouette(self) -> Callable[[], Contours]:
        """Makes the contours, inside the unit circle."""
        return SILHOUETTES[self.name]

    @property
    def texture(self) -> Texture:
        """Coordinates in periods -> which of the two tones of the object."""
        return TEXTURES[self.surface]


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


def draw_object(
    canvas: Canvas, rng: np.random.Generator, kind: Kind, pose: Pose, label: int
) -> None:
    """Put one textured object with its shadow; `label` goes into the labels."""
    alpha = canvas.coverage(pose.place(kind.silhouette()))
    short = min(canvas.height, canvas.width)
    u, v = pose.frame(canvas, period=short * kind.period * rng.uniform(0.85, 1.15))
    shift = rng.uniform(-0.5, 0.5, 2) if kind.surface != "rings" else (0, 0)
    tone = kind.texture(u + np.float32(shift[0]), v + np.float32(shift[1]), rng)
    # colors that change over the object, so that they tell one object no more than one class
    first, second = two_tones(rng), two_tones(rng)
    blend = edge(noise(rng, canvas.height, canvas.width, (short / 3, short / 3)))[..., None]
    color = mix(tone, first) * (1 - blend) + mix(tone, second) * blend
    color += 0.06 * noise(rng, canvas.height, canvas.width, (short / 6, short / 6))[..., None]
    _cast_shadow(canvas, rng, alpha)
    canvas.put(alpha, color, label)


def _cast_shadow(canvas: Canvas, rng: np.random.Generator, alpha: Floats) -> None:
    reach = 0.03 * min(canvas.height, canvas.width)
    move = array([[1, 0, rng.uniform(-2, 2) * reach], [0, 1, rng.uniform(-2, 2) * reach]])
    moved = cv2.warpAffine(alpha, move, (canvas.width, canvas.height))
    soft = cv2.GaussianBlur(moved, (0, 0), reach)
    canvas.pixels *= 1 - np.float32(rng.uniform(0, 0.5)) * soft[..., None]
