"""Scenes: a portrait of one object, a still life of several, a room or a field with some."""

from collections.abc import Sequence

import cv2
import numpy as np

from vitlab.data.synthetic.drawing.canvas import Canvas, array
from vitlab.data.synthetic.drawing.objects import KINDS, Kind, draw_object, random_pose
from vitlab.data.synthetic.drawing.silhouettes import blob
from vitlab.data.synthetic.drawing.textures import TEXTURES, stuff_color
from vitlab.data.synthetic.drawing.tones import balanced_tones, mix, two_tones


def portrait(rng: np.random.Generator, height: int, width: int, kind: int) -> Canvas:
    """Three to five objects of class `kind`, and now and then a tiny one of another class."""
    canvas = backdrop(rng, height, width)
    short = canvas.short
    if rng.random() < 0.25:
        other = KINDS[(kind + rng.integers(1, len(KINDS))) % len(KINDS)]
        _place(canvas, rng, other, short * rng.uniform(0.06, 0.09), 0)
    for _ in range(rng.integers(3, 6)):
        _place(canvas, rng, KINDS[kind], short * rng.uniform(0.28, 0.42), 1)
    return canvas


def still_life(canvas: Canvas, rng: np.random.Generator, labels: Sequence[int]) -> None:
    """Two to four objects that may hide parts of each other; `labels` are those of KINDS."""
    for kind in rng.choice(len(KINDS), rng.integers(2, 5)):
        _place(canvas, rng, KINDS[kind], canvas.short * rng.uniform(0.24, 0.44), labels[kind])


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

    `stuff` are the labels of "wall", "floor", "sky", "grass" and "water", `things` those of KINDS.
    A shapeless region and the rims of the stuff keep label 0.
    """
    canvas = Canvas(np.zeros((height, width, 3), np.float32))
    above, below = (
        ("wall", "floor") if rng.random() < 0.5 else ("sky", str(rng.choice(["grass", "water"])))
    )
    horizon = height * rng.uniform(0.3, 0.65)
    everything = np.ones((height, width), np.float32)
    canvas.put(everything, stuff_color(canvas, rng, above, horizon), stuff[above])
    swell = height * (0.03 if below == "grass" else 0.002)
    x = np.linspace(0, width, 24)
    wave = sum(swell * np.cos(x / width * k + rng.uniform(0, 6.3)) for k in (3, 7))
    tilt = rng.uniform(-0.06, 0.06) * (x - width / 2)
    rim = np.stack([x, horizon + wave + tilt], -1)
    ground = np.concatenate([rim, [[width, height + 9], [0, height + 9]]])
    color = stuff_color(canvas, rng, below, horizon)
    canvas.put(canvas.coverage([ground]), color, stuff[below])
    patch = blob(
        rng, rng.uniform(0, width), rng.uniform(0, height), height * rng.uniform(0.1, 0.25)
    )
    canvas.put(canvas.coverage([patch]), two_tones(rng)[0], 0)
    still_life(canvas, rng, things)
    return canvas


def backdrop(rng: np.random.Generator, height: int, width: int) -> Canvas:
    """A cluttered background: blobs, lines, fragments of textures."""
    canvas = Canvas(np.full((height, width, 3), 0.5, np.float32))
    # many hues in each picture, the same in all: colors must not give away which picture it is
    for _ in range(round(height * width / 120)):
        patch = blob(rng, rng.uniform(0, width), rng.uniform(0, height), 3.5 * 6 ** rng.random())
        alpha = canvas.coverage([patch]) * np.float32(rng.uniform(0.6, 1))
        canvas.blend(alpha, balanced_tones(rng)[0])
    for _ in range(rng.integers(0, 2)):
        _draw_fragment(canvas, rng)
    for _ in range(rng.integers(0, 4)):
        _draw_line(canvas, rng)
    return canvas


def _draw_fragment(canvas: Canvas, rng: np.random.Generator) -> None:
    """A shapeless patch of some object's texture, finer or coarser than on the object."""
    short = canvas.short
    x, y = rng.uniform(0, canvas.width), rng.uniform(0, canvas.height)
    pose = random_pose(rng, x, y, short * rng.uniform(0.1, 0.25))
    period = rng.uniform(4, 6) if rng.random() < 0.5 else rng.uniform(25, 35)
    texture = TEXTURES[KINDS[rng.integers(len(KINDS))].texture]
    color = mix(texture(*pose.coordinates(canvas, period), rng), balanced_tones(rng))
    canvas.blend(canvas.coverage([blob(rng, x, y, pose.radius)]), color)


def _draw_line(canvas: Canvas, rng: np.random.Generator) -> None:
    ends = rng.uniform(-0.1, 1.1, (2, 2)) * [canvas.width, canvas.height]
    across = (ends[1] - ends[0])[::-1] * [1, -1]
    across *= rng.uniform(0.5, 2.5) / (np.linalg.norm(across) + 1e-6)
    strip = array([ends[0] - across, ends[0] + across, ends[1] + across, ends[1] - across])
    canvas.blend(canvas.coverage([strip]) * np.float32(0.8), two_tones(rng)[0])
