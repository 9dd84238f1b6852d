import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitlab.visualization.colors import Key, categorical_colors
from vitlab.visualization.grid import HEIGHT, GridColumn, ImageGrid, displayed_size, png_pixels


def image(height, width, seed=0):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


FULL = ImageGrid(
    [
        GridColumn(
            "a $title_$ {of} \\c",  # words of matplotlib's own language are written as they are
            [image(20, 30), image(21, 30)],
            legend=[Key((0.1, 0.2, 0.3), "first"), Key((1.0, 1.0, 1.0), "second")],
            smooth=True,
            notes=["a note", "another"],
            marks=[(0.5, 0.5), None],
        ),
        GridColumn("maps", [image(4, 6), image(5, 5)]),
    ],
    labels=["row 0", "row 1"],
    keys=[Key("magma", "one", "zero"), Key((0.0, 0.5, 0.5), "nothing")],
    caption="50 % of $x",
)


def test_all_words_are_written_and_rows_have_the_size_of_their_first_image():
    axes = FULL.draw().axes[0]
    words = {"maps", "first", "second", "a note", "another", "row 0", "row 1", "one", "zero"}
    words |= {"a $title_$ {of} \\c", "nothing", "50 % of $x"}
    assert sorted(text.get_text() for text in axes.texts) == sorted(words)
    boxes = [np.reshape(each.get_extent(), (2, 2)) for each in axes.images]
    assert np.allclose(np.diff(boxes[:2]), np.diff(boxes[-4:-2]))


@pytest.mark.parametrize(
    ("ending", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")]
)
def test_files_are_the_same_each_time_and_are_what_they_are_called(ending, start, tmp_path):
    FULL.save(tmp_path / f"grid{ending.upper()}")
    first = (tmp_path / f"grid{ending.upper()}").read_bytes()
    assert first.startswith(start)
    assert first == FULL.encode(ending)


@pytest.mark.parametrize("scale", [1, 2])
def test_cells_are_sharp_and_upright(scale):
    cells = torch.tensor([[0.0, 1.0], [0.5, 0.0]]).expand(3, 2, 2)
    found = png_pixels(ImageGrid([GridColumn("", [cells])]).encode(scale=scale))[0]
    assert set(found.flatten().tolist()) == {0, 128, 255}
    gray = (found == 128).nonzero()
    assert len(gray) == (scale * HEIGHT // 2) ** 2
    assert gray[:, 0].min() > 0.45 * found.shape[0]
    assert gray[:, 1].max() < 0.55 * found.shape[1]


def test_rings_are_at_their_places():
    column = GridColumn("", [image(2, 4)] * 2, marks=[None, (0.25, 0.75)])
    axes = ImageGrid([column]).draw().axes[0]
    left, right, bottom, top = axes.images[1].get_extent()
    place = (left + 0.25 * (right - left), top + 0.75 * (bottom - top))
    assert np.allclose([line.get_xydata()[0] for line in axes.lines], [place] * 2)


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_an_image_keeps_its_aspect_within_its_row(height, width):
    tall, wide = displayed_size(torch.empty(3, 1, 1).expand(3, height, width), HEIGHT)
    assert 1 <= tall <= HEIGHT
    assert 1 <= wide <= 2 * HEIGHT
    assert tall == HEIGHT or wide == 2 * HEIGHT
    assert abs(wide - max(1, width * tall / height)) <= max(1, width / height)


def test_categories_all_differ():
    for count in (2, 8, 20):
        assert len(set(categorical_colors(count))) == count
