"""A street with houses, trees, signs and traffic, in perspective."""

from collections.abc import Callable, Sequence

import numpy as np

from vitlab.data.synthetic.drawing.canvas import Canvas, Floats, array
from vitlab.data.synthetic.drawing.silhouettes import blob, box, circle
from vitlab.data.synthetic.drawing.textures import stuff_color
from vitlab.data.synthetic.drawing.tones import edge, fold, mix, noise, two_tones

_DARK = array([0.08, 0.08, 0.1])
_LAMP = array([0.9, 0.2, 0.1])


class Street:
    """A street seen from a car; labels are the ids of Cityscapes.

    Attributes:
        canvas: the picture.
    """

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.rng = rng
        self.horizon = height * rng.uniform(0.38, 0.48)
        self.vanish = width * rng.uniform(0.4, 0.6)
        self.canvas = Canvas(np.zeros((height, width, 3), np.float32))
        self._draw_sky()
        self._draw_houses()
        self._draw_ground()
        self._draw_furniture()
        self._draw_traffic()
        self._draw_border()

    def _put(self, contours: Sequence[Floats], label: int, color: Floats | None = None) -> None:
        shade = two_tones(self.rng)[0] if color is None else color
        self.canvas.put(self.canvas.coverage(contours), shade, label)

    def _draw_sky(self) -> None:
        everything = np.ones_like(self.canvas.pixels[..., 0])
        color = stuff_color(self.canvas, self.rng, "sky", self.horizon)
        self.canvas.put(everything, color * np.float32(0.6) + np.float32(0.4), 23)

    def _draw_houses(self) -> None:
        """Fronts with windows that grow toward both edges of the picture, and trees between."""
        rng, canvas = self.rng, self.canvas
        x_axis, y_axis = canvas.axes()
        for side in (-1, 1):
            near = 0.12
            while near < 1.2:  # distance from the vanishing point, in picture widths
                far, near = near, near + rng.uniform(0.1, 0.3)
                left, right = sorted(
                    self.vanish + side * canvas.width * 0.5 * np.array([far, near])
                )
                top = self.horizon * (1 - rng.uniform(0.6, 0.95) * min(1, near + 0.25))
                base = self.horizon + canvas.height * 0.3 * far
                if rng.random() < 0.28:
                    self._draw_tree((left + right) / 2, base, (base - top) * 0.55)
                    continue
                cell = canvas.height * rng.uniform(0.04, 0.06) * (0.6 + near)
                u, v = (x_axis - left) / cell, (y_axis - top) / (cell * 1.3)
                panes = edge(0.28 - np.maximum(fold(u - 0.5), fold(v - 0.5)), 9)
                self._put([box(left, top, right, base)], 11, mix(panes, two_tones(rng)))

    def _draw_tree(self, x: float, base: float, size: float) -> None:
        rng, canvas = self.rng, self.canvas
        trunk = size * 0.08
        self._put([box(x - trunk, base - size, x + trunk, base)], 21)
        crown = [blob(rng, x + rng.normal() * size / 3, base - size * 1.1, size / 2) for _ in "abc"]
        leaves = noise(rng, canvas.height, canvas.width, (3, 3))
        # one fill for each blob, since overlaps would cut holes
        alpha = np.max([canvas.coverage([part]) for part in crown], 0)
        canvas.put(alpha, mix(edge(leaves, 0.5), two_tones(rng, (0.2, 0.4))), 21)

    def _draw_ground(self) -> None:
        """Sidewalks or lawn from edge to edge, the road as a trapezoid in their middle."""
        rng, canvas = self.rng, self.canvas
        x, y = canvas.axes()
        depth = np.maximum(y - self.horizon, 1) / canvas.height  # 0 at the horizon
        lane, row = (x - self.vanish) / (canvas.width * depth), 0.1 / depth
        height, width = canvas.height, canvas.width
        slabs = edge(np.minimum(fold(lane * 4), fold(row * 4)) - 0.08, 7)
        slabs += np.exp(-depth * 12) * (0.7 - slabs)  # far slabs would alias
        pale = two_tones(rng, (0.15, 0.3))
        self._put([box(-9, self.horizon, width + 9, height + 9)], 8, mix(slabs, pale))
        for side in (-1, 1):
            if rng.random() < 0.35:
                lawn = mix(0.5 + 0.3 * noise(rng, height, width, (1.5, 5)), two_tones(rng))
                self._put([self._wedge(side * 1.4, side * 9)], 22, lawn)
            if rng.random() < 0.3:
                self._draw_barrier(side)
        dashes = edge(0.02 - np.abs(lane), 60) * (np.sin(row * 20) > 0)
        gravel = np.clip(dashes + 0.08 * noise(rng, height, width, (1.5, 1.5)), -0.3, 1)
        curb = rng.uniform(0.7, 0.95)
        self._put([self._wedge(-curb, curb)], 7, mix(gravel, np.sort(two_tones(rng), 0)))

    def _wedge(self, left: float, right: float) -> Floats:
        """The ground between two lines through the vanishing point, (4, 2)."""
        low = self.canvas.height * 1.2
        reach = (low - self.horizon) * self.canvas.width / self.canvas.height
        top = array([[self.vanish + right, self.horizon], [self.vanish + left, self.horizon]])
        foot = [[self.vanish + side * reach, low] for side in (left, right)]
        return np.concatenate([top, foot]).astype(np.float32)

    def _draw_barrier(self, side: int) -> None:
        """A wall (12) or a fence (13) of pickets along one side."""
        canvas, rng = self.canvas, self.rng
        start, end = self._at(side * 1.2, 0.12), self._at(side * 1.2, 0.9)
        tall = 0.35
        contour = array(
            [start, end, [end[0], end[1] - tall * (end[1] - self.horizon)],
             [start[0], start[1] - tall * (start[1] - self.horizon)]]
        )  # fmt: skip
        x, _ = canvas.axes()
        pickets = edge(fold(x / 5) - 0.2, 6)
        if rng.random() < 0.5:
            self._put([contour], 13, mix(pickets, two_tones(rng)))
        else:
            self._put([contour], 12)

    def _at(self, lane: float, depth: float) -> Floats:
        """The point of the ground at a lane (-1 ... 1 is the road) and depth (1 is in front)."""
        down = depth * (self.canvas.height - self.horizon)
        across = lane * down * self.canvas.width / self.canvas.height
        return array([self.vanish + across, self.horizon + down])

    def _draw_furniture(self) -> None:
        """Poles with a sign (20), a light (19) or nothing, bins (4), all on the sidewalks."""
        rng = self.rng
        for depth in np.sort(rng.uniform(0.25, 0.8, rng.integers(1, 5))):
            side = rng.choice([-1, 1])
            x, y = self._at(side * 1.05, depth)
            size = depth * self.canvas.height
            half = max(0.7, 0.012 * size)
            self._put([box(x - half, y - size * 0.75, x + half, y)], 17)
            head = y - size * 0.75
            match rng.integers(4):
                case 0:
                    self._put([circle(size * 0.07) + array([x, head])], 20)
                case 1:
                    wide, tall = size * 0.1, size * 0.05
                    self._put([box(x - wide, head - tall, x + wide, head + tall)], 20)
                case 2:
                    wide, tall = size * 0.04, size * 0.1
                    frame = box(x - wide, head - tall, x + wide, head + tall)
                    self._put([frame], 19, array([0.15, 0.15, 0.1]))
                    lamp = self.canvas.coverage([circle(size * 0.03) + array([x, head])])
                    self.canvas.blend(lamp, array([1, 0.5, 0.2]))
                case _:
                    self._put([box(x + 2, y - size * 0.16, x + 2 + size * 0.1, y)], 4)

    def _draw_traffic(self) -> None:
        """Vehicles on the road and people beside it, the nearest last."""
        rng = self.rng
        movers: list[tuple[float, Callable[..., None], float]] = []
        for _ in range(rng.integers(1, 5)):
            draw = self._draw_car if rng.random() < 0.8 else self._draw_long_car
            movers.append((rng.uniform(0.15, 0.65), draw, rng.choice([-0.5, 0.5, -0.75, 0.75])))
        for _ in range(rng.integers(1, 5)):
            lane = rng.choice([-1, 1]) * rng.uniform(1.05, 1.5)
            movers.append((rng.uniform(0.2, 0.75), self._draw_person, lane))
        if rng.random() < 0.35:
            movers.append((rng.uniform(0.3, 0.6), self._draw_rider, rng.uniform(-0.8, 0.8)))
        for depth, draw, lane in sorted(movers, key=lambda mover: mover[0]):
            x, y = self._at(lane, depth)
            draw(float(x), float(y), depth * self.canvas.height)

    def _put_parts(
        self, label: int, parts: Sequence[tuple[Floats, Floats]], unit: float, x: float, y: float
    ) -> None:
        """Put one thing of (contour, color) parts, each over those before it.

        Contours are in units of the thing from its foot, at (x, y) in pixels; `unit` is in pixels.
        """
        foot = array([x, y])
        covers = [self.canvas.coverage([contour * unit + foot]) for contour, _ in parts]
        self.canvas.put(np.max(covers, 0), parts[0][1], label)
        for alpha, (_, color) in zip(covers[1:], parts[1:], strict=True):
            self.canvas.blend(alpha, color)

    def _draw_car(self, x: float, y: float, size: float) -> None:
        """Tires, cabin, body, window and lamps, seen from behind."""
        paint = two_tones(self.rng)[0]
        parts = [(box(s - 0.2, -0.4, s + 0.2, 0), _DARK) for s in (-0.75, 0.75)]
        cabin = array([[-0.9, -0.9], [-0.65, -1.6], [0.65, -1.6], [0.9, -0.9]])
        parts += [(cabin, paint), (box(-1, -1, 1, -0.2), paint)]
        parts += [(cabin * 0.75 + array([0, -0.31]), _DARK + np.float32(0.2))]
        parts += [(box(s - 0.13, -0.8, s + 0.13, -0.6), _LAMP) for s in (-0.8, 0.8)]
        self._put_parts(26, parts, size * 0.26, x, y)

    def _draw_long_car(self, x: float, y: float, size: float) -> None:
        """A bus (28) with a band of windows, or a truck (27) with none."""
        paint, label = two_tones(self.rng)[0], 27
        parts = [(box(s - 0.2, -0.3, s + 0.2, 0), _DARK) for s in (-0.7, 0.7)]
        parts += [(box(-1, -2.3, 1, -0.2), paint)]
        if self.rng.random() < 0.5:
            label = 28
            parts += [(box(s - 0.25, -2.0, s + 0.25, -1.2), _DARK) for s in (-0.6, 0, 0.6)]
        parts += [(box(s - 0.13, -0.6, s + 0.13, -0.4), _LAMP) for s in (-0.8, 0.8)]
        self._put_parts(label, parts, size * 0.3, x, y)

    def _draw_person(self, x: float, y: float, size: float, label: int = 24) -> None:
        clothes = two_tones(self.rng)
        skin = array([0.85, 0.65, 0.5]) * np.float32(self.rng.uniform(0.35, 1.1))
        stride = self.rng.uniform(0.05, 0.18)
        parts = [
            (array([[-0.1, -0.5], [0.1, -0.5], [s + 0.06, 0], [s - 0.06, 0]]), clothes[0])
            for s in (-stride, stride)
        ]
        torso = array([[-0.16, -0.88], [0.16, -0.88], [0.11, -0.45], [-0.11, -0.45]])
        parts += [(torso, clothes[1]), (circle(0.09) + array([0, -0.98]), skin)]
        self._put_parts(label, parts, size * 0.38, x, y)

    def _draw_rider(self, x: float, y: float, size: float) -> None:
        """A bicycle (33) from the side and its rider (25)."""
        unit = size * 0.13
        wheels = [
            circle(r) * unit + array([x + s * unit * 1.1, y - unit])
            for s in (-1, 1)
            for r in (1, 0.7)
        ]
        self._put([*wheels, box(x - unit, y - 1.3 * unit, x + unit, y - unit)], 33, _DARK)
        self._draw_person(x, y - unit * 0.7, size * 0.95, label=25)

    def _draw_border(self) -> None:
        """What is void in every image: the rim (3) and the hood of our own car (1)."""
        height, width = self.canvas.height, self.canvas.width
        hood = circle(1) * array([width * 0.5, height * 0.09]) + array([width / 2, height])
        self._put([hood], 1, array([0.1, 0.1, 0.12]))
        self.canvas.labels[0] = self.canvas.labels[:, [0, -1]] = 3
