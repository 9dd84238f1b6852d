"""Brushes of the synthetic pictures: silhouettes, textures, backdrops, light.

Coordinates are (x, y) in pixels, y downwards; colors are RGB in [0, 1]; every random choice comes
from the generator that is handed in, so one generator makes one picture.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]  # float32 wherever a picture is large
Contours = list[Floats]  # each (points, 2); overlapping contours cut holes
Texture = Callable[[Floats, Floats, np.random.Generator], Floats]

# each silhouette is drawn at four times the size, then averaged: smooth rims and exact masks
_FINE = 4


def _array(values: object) -> Floats:
    return np.asarray(values, np.float32)


@dataclass
class Canvas:
    """A picture while it is drawn, with what each pixel shows.

    Attributes:
        pixels: (height, width, 3), RGB in [0, 1].
        labels: (height, width), class of the topmost thing; 0 where nothing was put.
        things: (height, width), number of the topmost thing, from 1 in drawing order.
        count: how many things were put so far.
    """

    pixels: Floats
    labels: NDArray[np.uint8] = field(init=False)
    things: NDArray[np.uint16] = field(init=False)
    count: int = 0

    def __post_init__(self) -> None:
        self.labels = np.zeros(self.pixels.shape[:2], np.uint8)
        self.things = np.zeros(self.pixels.shape[:2], np.uint16)

    @property
    def height(self) -> int:
        """Rows, in pixels."""
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        """Columns, in pixels."""
        return self.pixels.shape[1]

    def blend(self, alpha: Floats, color: Floats) -> None:
        """Lay `color`, (3,) or (height, width, 3), over the picture; the labels stay.

        Args:
            alpha: (height, width), coverage in [0, 1].
            color: one color or one for each pixel.
        """
        left, top, width, height = cv2.boundingRect((alpha > 0).astype(np.uint8))
        part = np.s_[top : top + height, left : left + width]  # most strokes are small
        ink = color if color.ndim == 1 else color[part]
        self.pixels[part] += alpha[part][..., None] * (ink - self.pixels[part])

    def put(self, alpha: Floats, color: Floats, label: int) -> None:
        """Lay a new thing over the picture; it owns the pixels that it covers by half or more."""
        self.blend(alpha, color)
        self.count += 1
        inside = alpha >= 0.5
        self.labels[inside] = label
        self.things[inside] = self.count

    def coverage(self, contours: Sequence[Floats]) -> Floats:
        """How much of each pixel lies inside the contours, (height, width) in [0, 1]."""
        corners = np.concatenate(contours)
        size = [self.width, self.height]
        low = np.clip(np.floor(corners.min(0)) - 1, 0, size).astype(int)
        high = np.clip(np.ceil(corners.max(0)) + 1, low, size).astype(int)
        alpha = np.zeros((self.height, self.width), np.float32)
        width, height = (int(edge) for edge in high - low)
        if width and height:
            fine = np.zeros((height * _FINE, width * _FINE), np.uint8)
            points = [np.round(((c - low) * _FINE - 0.5) * 16).astype(np.int32) for c in contours]
            cv2.fillPoly(fine, points, 255, shift=4)
            mean = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
            alpha[low[1] : high[1], low[0] : high[0]] = mean.astype(np.float32) / 255
        return alpha

    def axes(self) -> tuple[Floats, Floats]:
        """Pixel centers: x and y, each (height, width)."""
        y, x = np.mgrid[: self.height, : self.width].astype(np.float32) + np.float32(0.5)
        return x, y


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
        center = _array([self.x, self.y])
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


# Silhouettes: contours inside the unit circle.


def _polar(angles: Floats, radii: Floats | float) -> Floats:
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], -1).astype(np.float32)


def circle(radius: float = 1.0) -> Floats:
    """Contour of a disc around the origin, (64, 2)."""
    return _polar(np.linspace(0, 2 * np.pi, 64, endpoint=False, dtype=np.float32), radius)


def box(left: float, top: float, right: float, bottom: float) -> Floats:
    """Contour of an upright rectangle, (4, 2)."""
    return _array([[left, top], [right, top], [right, bottom], [left, bottom]])


def _disc() -> Contours:
    return [circle(0.9)]


def _ring() -> Contours:
    return [circle(1.0), circle(0.5)]


def _star() -> Contours:
    return [_polar(np.arange(10) * np.pi / 5, np.where(np.arange(10) % 2, 0.45, 1.0))]


def _cross() -> Contours:
    corners = _array([[0.33, 0.33], [0.33, 1.0], [-0.33, 1.0]])  # one arm; the others turned
    quarter = np.array([[0, 1], [-1, 0]])
    arms = [corners @ np.linalg.matrix_power(quarter, turn) for turn in range(4)]
    return [np.concatenate(arms).astype(np.float32)]


def _triangle() -> Contours:
    return [_polar(np.arange(3) * 2 * np.pi / 3, 1.0)]


def _crescent() -> Contours:
    # the unit disc without the disc of radius 0.8 around (0.45, 0), which meets it at x = 0.625
    tip = np.arccos(0.625)
    outer = _polar(np.linspace(tip, 2 * np.pi - tip, 48), 1.0)
    bend = np.arctan2(np.sin(tip), 0.625 - 0.45)
    inner = _polar(np.linspace(2 * np.pi - bend, bend, 48), 0.8) + _array([0.45, 0])
    return [np.concatenate([outer, inner])]


def _horseshoe() -> Contours:
    arch = np.linspace(np.pi, 2 * np.pi, 32)
    outer, inner = _polar(arch, 0.8), _polar(arch[::-1], 0.38)
    legs = _array([[0.8, 0.85], [0.38, 0.85]]), _array([[-0.38, 0.85], [-0.8, 0.85]])
    return [np.concatenate([outer, legs[0], inner, legs[1]]) * 0.88]


def _gear() -> Contours:
    step = np.arange(32)
    teeth = _polar((step + 0.2 * (step % 2)) * 2 * np.pi / 32, np.where(step % 4 < 2, 1.0, 0.72))
    return [teeth, circle(0.25)]


def _leaf() -> Contours:
    along = np.linspace(-1, 1, 40)
    half = 0.62 * (1 - along**2) * (1 - 0.35 * along)  # fuller toward the stalk
    return [np.concatenate([np.stack([along, half], -1), np.stack([along, -half], -1)[::-1]])]


def _heart() -> Contours:
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -13 * np.cos(t) + 5 * np.cos(2 * t) + 2 * np.cos(3 * t) + np.cos(4 * t)
    return [(np.stack([x, y - 2], -1) / 17).astype(np.float32)]


# Textures: coordinates in periods -> which of two tones, in [0, 1].


def _edge(level: Floats, sharpness: float = 2.2) -> Floats:
    return np.clip(0.5 + sharpness * level, 0, 1).astype(np.float32)


def _fold(x: Floats) -> Floats:
    """Distance to the nearest whole number, in [0, 0.5]."""
    return np.abs(x - np.round(x))


def _stripes(u: Floats, v: Floats, rng: np.random.Generator) -> Floats:
    return _edge(np.sin(2 * np.pi * u))


def _checks(u: Floats, v: Floats, rng: np.random.Generator) -> Floats:
    return _edge(np.sin(np.pi * 1.3 * u) * np.sin(np.pi * 1.3 * v), 4.0)


def _dots(u: Floats, v: Floats, rng: np.random.Generator) -> Floats:
    row = np.round(v)
    return _edge(0.31 - np.hypot(_fold(u + 0.5 * (row % 2)), v - row), 7.0)


def _waves(u: Floats, v: Floats, rng: np.random.Generator) -> Floats:
    return _edge(np.sin(2 * np.pi * (v + 0.32 * np.sin(2 * np.pi * u / 2.2))))


def _bricks(u: Floats, v: Floats, rng: np.random.Generator) -> Floats:
    row = np.floor(v * 1.3)
    upright = _fold(u * 0.65 + 0.5 * (row % 2)) / 0.65
    return _edge(np.minimum(upright, _fold(v * 1.3) / 1.3) - 0.11, 7.0)


def _grid(u: Floats, v: Floats, rng: np.random.Generator) -> Floats:
    return _edge(np.minimum(_fold(u), _fold(v)) - 0.13, 7.0)


def _speckle(u: Floats, v: Floats, rng: np.random.Generator) -> Floats:
    # random waves of one wavelength: irregular spots of one size
    angles, phases = rng.uniform(0, 2 * np.pi, (2, 12))
    total = sum(
        np.cos(2 * np.pi * 0.9 * (u * np.cos(a) + v * np.sin(a)) + p)
        for a, p in zip(angles, phases, strict=True)
    )
    return _edge(total / np.sqrt(6), 2.0)


def _scales(u: Floats, v: Floats, rng: np.random.Generator) -> Floats:
    # each row of discs lies over the next, so only the lower rim of a disc shows
    tone = np.zeros_like(u)
    for step in (1, 0):
        row = np.floor(v * 1.6) + step
        distance = np.hypot(_fold(u + 0.5 * (row % 2)), (v * 1.6 - row) / 1.6)
        tone = np.where(distance < 0.56, 1 - distance / 0.56, tone)
    return _edge(tone - 0.42, 2.6)


def _zigzag(u: Floats, v: Floats, rng: np.random.Generator) -> Floats:
    return _edge(np.sin(2 * np.pi * (v + 1.3 * _fold(u / 1.9))))


def _rings(u: Floats, v: Floats, rng: np.random.Generator) -> Floats:
    return _edge(np.sin(2 * np.pi * np.hypot(u, v)))


@dataclass(frozen=True)
class Kind:
    """A class of objects: what its members share. Color, size and pose are free.

    Attributes:
        name: of the silhouette, one word.
        surface: name of the texture.
        silhouette: makes the contours, inside the unit circle.
        texture: coordinates in periods -> which of the two tones of the object.
        period: of the texture, as a share of the picture's short side.
    """

    name: str
    surface: str
    silhouette: Callable[[], Contours]
    texture: Texture
    period: float


KINDS = (
    Kind("disc", "stripes", _disc, _stripes, 0.09),
    Kind("ring", "checks", _ring, _checks, 0.2),
    Kind("star", "dots", _star, _dots, 0.14),
    Kind("cross", "waves", _cross, _waves, 0.24),
    Kind("triangle", "bricks", _triangle, _bricks, 0.12),
    Kind("crescent", "zigzag", _crescent, _zigzag, 0.07),
    Kind("horseshoe", "grid", _horseshoe, _grid, 0.17),
    Kind("gear", "rings", _gear, _rings, 0.22),
    Kind("leaf", "scales", _leaf, _scales, 0.08),
    Kind("heart", "speckle", _heart, _speckle, 0.28),
)


def two_tones(rng: np.random.Generator, gap: tuple[float, float] = (0.3, 0.6)) -> Floats:
    """Two random colors, (2, 3), whose lightness differs by `gap`; either may be the lighter."""
    difference = rng.uniform(*gap)
    dark = rng.uniform(0.06, 0.94 - difference)
    chroma = rng.uniform(-0.2, 0.2, (2, 3))
    chroma -= chroma.mean(1, keepdims=True)
    pair = np.clip(np.array([[dark], [dark + difference]]) + chroma, 0, 1)
    return pair[rng.permutation(2)].astype(np.float32)


def mix(tone: Floats, pair: Floats) -> Floats:
    """Where `tone`, (height, width), is 0 the first color, where it is 1 the second."""
    return pair[0] + tone[..., None] * (pair[1] - pair[0])


def noise(rng: np.random.Generator, height: int, width: int, grain: tuple[float, float]) -> Floats:
    """Smooth noise, (height, width), mean 0, deviation near 1; `grain` is (x, y) in pixels."""
    rows, columns = max(2, round(height / grain[1])), max(2, round(width / grain[0]))
    coarse = rng.standard_normal((rows + 1, columns + 1)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) * np.float32(1.3)


def draw_object(
    canvas: Canvas, rng: np.random.Generator, kind: Kind, pose: Pose, label: int
) -> None:
    """Put one textured object with its shadow; `label` goes into the labels."""
    alpha = canvas.coverage(pose.place(kind.silhouette()))
    short = min(canvas.height, canvas.width)
    u, v = pose.frame(canvas, period=short * kind.period * rng.uniform(0.85, 1.15))
    shift = rng.uniform(-0.5, 0.5, 2) if kind.texture is not _rings else (0, 0)
    tone = kind.texture(u + np.float32(shift[0]), v + np.float32(shift[1]), rng)
    # colors that change over the object, so that they tell one object no more than one class
    first, second = two_tones(rng), two_tones(rng)
    blend = _edge(noise(rng, canvas.height, canvas.width, (short / 3, short / 3)))[..., None]
    color = mix(tone, first) * (1 - blend) + mix(tone, second) * blend
    color += 0.06 * noise(rng, canvas.height, canvas.width, (short / 6, short / 6))[..., None]
    _cast_shadow(canvas, rng, alpha)
    canvas.put(alpha, color, label)


def _cast_shadow(canvas: Canvas, rng: np.random.Generator, alpha: Floats) -> None:
    reach = 0.03 * min(canvas.height, canvas.width)
    move = _array([[1, 0, rng.uniform(-2, 2) * reach], [0, 1, rng.uniform(-2, 2) * reach]])
    moved = cv2.warpAffine(alpha, move, (canvas.width, canvas.height))
    soft = cv2.GaussianBlur(moved, (0, 0), reach)
    canvas.pixels *= 1 - np.float32(rng.uniform(0, 0.5)) * soft[..., None]


def blob(rng: np.random.Generator, x: float, y: float, radius: float) -> Floats:
    """Contour of an irregular round patch, (48, 2)."""
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    radii = 1 + sum(
        rng.uniform(0, 0.25) * np.cos(k * angles + rng.uniform(0, 6.3)) for k in (2, 3, 5)
    )
    return _polar(angles, radius * radii) + _array([x, y])


def backdrop(rng: np.random.Generator, height: int, width: int) -> Canvas:
    """A cluttered background: gradient, soft noise, blobs, lines, fragments of textures."""
    axis = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    ramp = 0.5 + 0.35 * (x * np.float32(np.cos(axis)) + y * np.float32(np.sin(axis)))
    canvas = Canvas(mix(ramp, two_tones(rng, (0.05, 0.3))))
    short = min(height, width)
    # several hues in each picture: the color of a crop must not give away the rest
    for grain in (short / 2, short / 3, short / 4, short / 6):
        color = rng.uniform(-0.12, 0.12, 3).astype(np.float32)
        canvas.pixels += noise(rng, height, width, (grain, grain))[..., None] * color
    for _ in range(rng.integers(1, 5)):
        patch = blob(
            rng, rng.uniform(0, width), rng.uniform(0, height), short * rng.uniform(0.05, 0.3)
        )
        canvas.blend(
            canvas.coverage([patch]) * np.float32(rng.uniform(0.3, 0.9)), two_tones(rng)[0]
        )
    for _ in range(rng.integers(0, 2)):
        _draw_fragment(canvas, rng)
    for _ in range(rng.integers(0, 4)):
        _draw_line(canvas, rng)
    return canvas


def _draw_fragment(canvas: Canvas, rng: np.random.Generator) -> None:
    """A shapeless patch of some object's texture, finer or coarser than on the object."""
    short = min(canvas.height, canvas.width)
    x, y = rng.uniform(0, canvas.width), rng.uniform(0, canvas.height)
    pose = random_pose(rng, x, y, short * rng.uniform(0.1, 0.25))
    period = short * (rng.uniform(0.035, 0.055) if rng.random() < 0.5 else rng.uniform(0.2, 0.3))
    texture = KINDS[rng.integers(len(KINDS))].texture
    color = mix(texture(*pose.frame(canvas, period), rng), two_tones(rng, (0.1, 0.4)))
    canvas.blend(canvas.coverage([blob(rng, x, y, pose.radius)]), color)


def _draw_line(canvas: Canvas, rng: np.random.Generator) -> None:
    ends = rng.uniform(-0.1, 1.1, (2, 2)) * [canvas.width, canvas.height]
    across = (ends[1] - ends[0])[::-1] * [1, -1]
    across *= rng.uniform(0.5, 2.5) / (np.linalg.norm(across) + 1e-6)
    strip = _array([ends[0] - across, ends[0] + across, ends[1] + across, ends[1] - across])
    canvas.blend(canvas.coverage([strip]) * np.float32(0.8), two_tones(rng)[0])


def develop(canvas: Canvas, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Light and camera: (height, width, 3) in 0 ... 255, RGB."""
    axis = rng.uniform(0, 2 * np.pi)
    x, y = canvas.axes()
    across = (x / canvas.width - 0.5) * np.cos(axis) + (y / canvas.height - 0.5) * np.sin(axis)
    light = rng.uniform(0.8, 1.15) + rng.uniform(0, 0.5) * across
    pixels = (canvas.pixels - 0.5) * rng.uniform(0.75, 1.15) + 0.5
    pixels = np.clip(pixels * light[..., None], 0, 1) ** rng.uniform(0.8, 1.25)
    pixels = cv2.GaussianBlur(pixels.astype(np.float32), (0, 0), rng.uniform(0.3, 0.8))
    pixels += rng.standard_normal(pixels.shape, np.float32) * np.float32(rng.uniform(0.005, 0.03))
    return np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


# Scenes.


def portrait(rng: np.random.Generator, height: int, width: int, kind: int) -> Canvas:
    """One main object of class `kind`, and now and then a tiny one of another class."""
    canvas = backdrop(rng, height, width)
    short = min(height, width)
    if rng.random() < 0.25:
        other = KINDS[(kind + rng.integers(1, len(KINDS))) % len(KINDS)]
        _place(canvas, rng, other, short * rng.uniform(0.06, 0.09), 0)
    _place(canvas, rng, KINDS[kind], short * rng.uniform(0.42, 0.6), 1)
    return canvas


def still_life(canvas: Canvas, rng: np.random.Generator, labels: Sequence[int]) -> None:
    """Two to four objects that may hide parts of each other; `labels` are those of KINDS."""
    short = min(canvas.height, canvas.width)
    kinds = rng.choice(len(KINDS), rng.integers(2, 5))
    for kind in kinds:
        radius = short * rng.uniform(0.24, 0.44)
        _place(canvas, rng, KINDS[kind], radius, labels[kind])


def _place(canvas: Canvas, rng: np.random.Generator, kind: Kind, radius: float, label: int) -> None:
    """Draw an object where it hides as little as possible of the earlier ones."""
    margin = 0.8 * radius
    reach = np.array([canvas.width, canvas.height]) - 2 * margin
    spots = margin + rng.random((3, 2)) * reach
    side = 2 * int(radius) + 1
    taken = cv2.blur((canvas.things > 0).astype(np.float32), (side, side))
    x, y = min(spots, key=lambda spot: taken[int(spot[1]), int(spot[0])])
    draw_object(canvas, rng, kind, random_pose(rng, x, y, radius), label)


def room(
    rng: np.random.Generator, height: int, width: int, stuff: dict[str, int], things: Sequence[int]
) -> Canvas:
    """A place with a few objects: wall and floor, or sky over grass or water.

    Args:
        rng: makes every choice.
        height: in pixels.
        width: in pixels.
        stuff: labels of "wall", "floor", "sky", "grass" and "water".
        things: labels of KINDS. A shapeless region and the rims of the stuff keep label 0.
    """
    canvas = Canvas(np.zeros((height, width, 3), np.float32))
    above, below = (
        ("wall", "floor") if rng.random() < 0.5 else ("sky", str(rng.choice(["grass", "water"])))
    )
    horizon = height * rng.uniform(0.3, 0.65)
    everything = np.ones((height, width), np.float32)
    canvas.put(everything, _stuff_color(canvas, rng, above, horizon), stuff[above])
    swell = height * (0.03 if below == "grass" else 0.002)
    x = np.linspace(0, width, 24)
    wave = sum(swell * np.cos(x / width * k + rng.uniform(0, 6.3)) for k in (3, 7))
    tilt = rng.uniform(-0.06, 0.06) * (x - width / 2)
    rim = np.stack([x, horizon + wave + tilt], -1)
    ground = np.concatenate([rim, [[width, height + 9], [0, height + 9]]])
    color = _stuff_color(canvas, rng, below, horizon)
    canvas.put(canvas.coverage([ground]), color, stuff[below])
    patch = blob(
        rng, rng.uniform(0, width), rng.uniform(0, height), height * rng.uniform(0.1, 0.25)
    )
    canvas.put(canvas.coverage([patch]), two_tones(rng)[0], 0)
    still_life(canvas, rng, things)
    return canvas


def _stuff_color(canvas: Canvas, rng: np.random.Generator, name: str, horizon: float) -> Floats:
    """Texture of a region, (height, width, 3), in random colors."""
    height, width, short = canvas.height, canvas.width, min(canvas.height, canvas.width)
    x, y = canvas.axes()
    if name == "wall":  # upright ribs, each split by a fine dark joint
        tone = _edge(_fold(x / (short * 0.05)) - 0.1, 4) * np.float32(0.8)
        tone += 0.1 * noise(rng, height, width, (3, 3))
    elif name == "floor":  # planks that run toward a point on the horizon
        depth = np.maximum(y - horizon + 0.15 * height, 1) / height
        lane = (x - width * rng.uniform(0.3, 0.7)) / (width * 0.14 * (0.3 + depth))
        joint = np.log(depth) * 4 + 0.5 * (np.floor(lane) % 2)
        tone = 0.35 * _edge(np.minimum(_fold(lane), 2 * _fold(joint)) - 0.06, 8)
        tone += 0.3 * np.sin(np.floor(lane) * 2.4 + np.floor(joint) * 1.7) + 0.4
    elif name == "sky":  # wide soft clouds
        clouds = noise(rng, height, width, (short / 2, short / 5))
        tone = 0.3 * y / height + _edge(clouds + rng.uniform(-0.5, 0.5), 0.4) * np.float32(0.6)
    elif name == "grass":  # blades: upright streaks
        tone = 0.5 + 0.3 * noise(rng, height, width, (1.6, short * 0.05))
    else:  # water: lying streaks, longer toward the front
        tone = 0.5 + 0.3 * noise(rng, height, width, (short * 0.14, 2.5))
    return mix(tone.astype(np.float32), two_tones(rng, (0.15, 0.4)))


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
        color = _stuff_color(self.canvas, self.rng, "sky", self.horizon)
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
                panes = _edge(0.28 - np.maximum(_fold(u - 0.5), _fold(v - 0.5)), 9)
                self._put([box(left, top, right, base)], 11, mix(panes, two_tones(rng)))

    def _draw_tree(self, x: float, base: float, size: float) -> None:
        rng, canvas = self.rng, self.canvas
        trunk = size * 0.08
        self._put([box(x - trunk, base - size, x + trunk, base)], 21)
        crown = [blob(rng, x + rng.normal() * size / 3, base - size * 1.1, size / 2) for _ in "abc"]
        leaves = noise(rng, canvas.height, canvas.width, (3, 3))
        # one fill for each blob, since overlaps would cut holes
        alpha = np.max([canvas.coverage([part]) for part in crown], 0)
        canvas.put(alpha, mix(_edge(leaves, 0.5), two_tones(rng, (0.2, 0.4))), 21)

    def _draw_ground(self) -> None:
        """Sidewalks or lawn from edge to edge, the road as a trapezoid in their middle."""
        rng, canvas = self.rng, self.canvas
        x, y = canvas.axes()
        depth = np.maximum(y - self.horizon, 1) / canvas.height  # 0 at the horizon
        lane, row = (x - self.vanish) / (canvas.width * depth), 0.1 / depth
        height, width = canvas.height, canvas.width
        slabs = _edge(np.minimum(_fold(lane * 4), _fold(row * 4)) - 0.08, 7)
        slabs += np.exp(-depth * 12) * (0.7 - slabs)  # far slabs would alias
        pale = two_tones(rng, (0.15, 0.3))
        self._put([box(-9, self.horizon, width + 9, height + 9)], 8, mix(slabs, pale))
        for side in (-1, 1):
            if rng.random() < 0.35:
                lawn = mix(0.5 + 0.3 * noise(rng, height, width, (1.5, 5)), two_tones(rng))
                self._put([self._wedge(side * 1.4, side * 9)], 22, lawn)
            if rng.random() < 0.3:
                self._draw_barrier(side)
        dashes = _edge(0.02 - np.abs(lane), 60) * (np.sin(row * 20) > 0)
        gravel = np.clip(dashes + 0.08 * noise(rng, height, width, (1.5, 1.5)), -0.3, 1)
        edge = rng.uniform(0.7, 0.95)
        self._put([self._wedge(-edge, edge)], 7, mix(gravel, np.sort(two_tones(rng), 0)))

    def _wedge(self, left: float, right: float) -> Floats:
        """The ground between two lines through the vanishing point, (4, 2)."""
        low = self.canvas.height * 1.2
        reach = (low - self.horizon) * self.canvas.width / self.canvas.height
        top = _array([[self.vanish + right, self.horizon], [self.vanish + left, self.horizon]])
        foot = [[self.vanish + side * reach, low] for side in (left, right)]
        return np.concatenate([top, foot]).astype(np.float32)

    def _draw_barrier(self, side: int) -> None:
        """A wall (12) or a fence (13) of pickets along one side."""
        canvas, rng = self.canvas, self.rng
        start, end = self._at(side * 1.2, 0.12), self._at(side * 1.2, 0.9)
        tall = 0.35
        contour = _array(
            [start, end, [end[0], end[1] - tall * (end[1] - self.horizon)],
             [start[0], start[1] - tall * (start[1] - self.horizon)]]
        )  # fmt: skip
        x, _ = canvas.axes()
        pickets = _edge(_fold(x / 5) - 0.2, 6)
        if rng.random() < 0.5:
            self._put([contour], 13, mix(pickets, two_tones(rng)))
        else:
            self._put([contour], 12)

    def _at(self, lane: float, depth: float) -> Floats:
        """The point of the ground at a lane (-1 ... 1 is the road) and depth (1 is in front)."""
        down = depth * (self.canvas.height - self.horizon)
        across = lane * down * self.canvas.width / self.canvas.height
        return _array([self.vanish + across, self.horizon + down])

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
            choice = rng.integers(4)
            if choice == 0:
                self._put([circle(size * 0.07) + _array([x, head])], 20)
            elif choice == 1:
                sign = box(x - size * 0.1, head - size * 0.05, x + size * 0.1, head + size * 0.05)
                self._put([sign], 20)
            elif choice == 2:
                case = box(x - size * 0.04, head - size * 0.1, x + size * 0.04, head + size * 0.1)
                self._put([case], 19, _array([0.15, 0.15, 0.1]))
                lamp = self.canvas.coverage([circle(size * 0.03) + _array([x, head])])
                self.canvas.blend(lamp, _array([1, 0.5, 0.2]))
            else:
                self._put([box(x + 2, y - size * 0.16, x + 2 + size * 0.1, y)], 4)

    def _draw_traffic(self) -> None:
        """Vehicles on the road and people beside it, the nearest last."""
        rng = self.rng
        movers: list[tuple[float, Callable[..., None], float]] = []
        for _ in range(rng.integers(1, 5)):
            draw: Callable[..., None] = (
                self._draw_car if rng.random() < 0.8 else self._draw_long_car
            )
            movers.append((rng.uniform(0.15, 0.65), draw, rng.choice([-0.5, 0.5, -0.75, 0.75])))
        for _ in range(rng.integers(1, 5)):
            lane = rng.choice([-1, 1]) * rng.uniform(1.05, 1.5)
            movers.append((rng.uniform(0.2, 0.75), self._draw_person, lane))
        if rng.random() < 0.35:
            movers.append((rng.uniform(0.3, 0.6), self._draw_rider, rng.uniform(-0.8, 0.8)))
        for depth, draw, lane in sorted(movers, key=lambda mover: mover[0]):
            x, y = self._at(lane, depth)
            draw(float(x), float(y), depth * self.canvas.height)

    def _assemble(self, label: int, parts: Sequence[tuple[Floats, Floats]]) -> None:
        """Put one thing made of (contour, color) parts; each lies over those before it."""
        covers = [self.canvas.coverage([contour]) for contour, _ in parts]
        self.canvas.put(np.max(covers, 0), parts[0][1], label)
        for alpha, (_, color) in zip(covers[1:], parts[1:], strict=True):
            self.canvas.blend(alpha, color)

    def _draw_car(self, x: float, y: float, size: float) -> None:
        """Tires, cabin, body, window and lamps, seen from behind."""
        unit, paint = size * 0.26, two_tones(self.rng)[0]
        shape = [(box(s - 0.2, -0.4, s + 0.2, 0), _DARK) for s in (-0.75, 0.75)]
        cabin = _array([[-0.9, -0.9], [-0.65, -1.6], [0.65, -1.6], [0.9, -0.9]])
        shape += [(cabin, paint), (box(-1, -1, 1, -0.2), paint)]
        shape += [(cabin * 0.75 + _array([0, -0.31]), _DARK + np.float32(0.2))]
        shape += [(box(s - 0.13, -0.8, s + 0.13, -0.6), _LAMP) for s in (-0.8, 0.8)]
        place = _array([x, y])
        self._assemble(26, [(contour * unit + place, color) for contour, color in shape])

    def _draw_long_car(self, x: float, y: float, size: float) -> None:
        """A bus (28) with a band of windows, or a truck (27) with none."""
        unit, paint = size * 0.3, two_tones(self.rng)[0]
        shape = [(box(s - 0.2, -0.3, s + 0.2, 0), _DARK) for s in (-0.7, 0.7)]
        shape += [(box(-1, -2.3, 1, -0.2), paint)]
        label = 27
        if self.rng.random() < 0.5:
            label = 28
            shape += [(box(s - 0.25, -2.0, s + 0.25, -1.2), _DARK) for s in (-0.6, 0, 0.6)]
        shape += [(box(s - 0.13, -0.6, s + 0.13, -0.4), _LAMP) for s in (-0.8, 0.8)]
        place = _array([x, y])
        self._assemble(label, [(contour * unit + place, color) for contour, color in shape])

    def _draw_person(self, x: float, y: float, size: float, label: int = 24) -> None:
        unit, clothes = size * 0.38, two_tones(self.rng)
        skin = _array([0.85, 0.65, 0.5]) * np.float32(self.rng.uniform(0.35, 1.1))
        stride = self.rng.uniform(0.05, 0.18)
        legs = [
            _array([[-0.1, -0.5], [0.1, -0.5], [s + 0.06, 0], [s - 0.06, 0]])
            for s in (-stride, stride)
        ]
        torso = _array([[-0.16, -0.88], [0.16, -0.88], [0.11, -0.45], [-0.11, -0.45]])
        shape = [(leg, clothes[0]) for leg in legs] + [(torso, clothes[1])]
        shape += [(circle(0.09) + _array([0, -0.98]), skin)]
        place = _array([x, y])
        self._assemble(label, [(contour * unit + place, color) for contour, color in shape])

    def _draw_rider(self, x: float, y: float, size: float) -> None:
        """A bicycle (33) from the side and its rider (25)."""
        unit = size * 0.13
        wheels = [
            circle(r) * unit + _array([x + s * unit * 1.1, y - unit])
            for s in (-1, 1)
            for r in (1, 0.7)
        ]
        self._put([*wheels, box(x - unit, y - 1.3 * unit, x + unit, y - unit)], 33, _DARK)
        self._draw_person(x, y - unit * 0.7, size * 0.95, label=25)

    def _draw_border(self) -> None:
        """What is void in every image: the rim (3) and the hood of our own car (1)."""
        height, width = self.canvas.height, self.canvas.width
        hood = circle(1) * _array([width * 0.5, height * 0.09]) + _array([width / 2, height])
        self._put([hood], 1, _array([0.1, 0.1, 0.12]))
        self.canvas.labels[0] = self.canvas.labels[:, [0, -1]] = 3


_DARK = _array([0.08, 0.08, 0.1])
_LAMP = _array([0.9, 0.2, 0.1])
