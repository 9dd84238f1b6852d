"""Where an object lies on the canvas, and how it is turned."""

from dataclasses import dataclass

import numpy as np

from vitlab.data.synthetic.drawing.canvas import Canvas, Contours, Floats, array


@dataclass(frozen=True)
class Pose:
    """Where a silhouette lies: point -> center + matrix @ point.

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

    def frame(self, canvas: Canvas, period: float) -> tuple[Floats, Floats]:
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
