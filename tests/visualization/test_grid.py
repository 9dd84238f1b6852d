import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vitlab.visualization.grid import (
    HEIGHT,
    MARGIN,
    ColorBar,
    GridColumn,
    ImageGrid,
    displayed_size,
    text_width,
    wrap,
)


def image(height, width, seed=0):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def full(columns=2, rows=2):
    """A sheet that has everything."""
    return ImageGrid(
        [
            GridColumn(
                f"a title of column {number}",
                [image(20 + row, 30, number) for row in range(rows)],
                legend=[((0.1, 0.2, 0.3), "first"), ((1.0, 1.0, 1.0), "second")],
                smooth=number == 0,
                notes=["a note"] * rows,
                marks=[(0.5, 0.5)] * rows if number == 0 else (),
            )
            for number in range(columns)
        ],
        labels=[f"row {row} of several" for row in range(rows)],
        keys=[[ColorBar("magma", "0", "1"), ((0.0, 0.5, 0.5), "nothing")], []],
        caption="What is seen, " * 10,
    )


def test_an_image_of_the_height_of_a_row_is_shown_to_the_bit():
    exact = (image(HEIGHT, 150) * 255).round() / 255
    drawn = ImageGrid([GridColumn("", [exact])], height=HEIGHT).render()
    wanted = (exact * 255).to(torch.uint8)
    found = [
        drawn[:, MARGIN : MARGIN + HEIGHT, x : x + 150] for x in range(drawn.shape[2] - 150 + 1)
    ]
    assert any(torch.equal(each, wanted) for each in found)


def test_cells_of_a_map_stay_sharp():
    cells = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).expand(3, 2, 2)
    drawn = ImageGrid([GridColumn("", [cells])]).render()
    inside = drawn[:, MARGIN : MARGIN + HEIGHT, MARGIN : MARGIN + HEIGHT]
    assert set(inside.flatten().tolist()) == {0, 255}
    assert (inside == 0).float().mean() == 0.5


def test_a_scale_makes_the_same_sheet_of_more_pixels():
    one, two = full().render(1), full().render(2)
    assert tuple(two.shape[1:]) == (2 * one.shape[1], 2 * one.shape[2])


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf"])
def test_files_are_the_same_each_time_and_are_what_they_are_called(ending, tmp_path):
    starts = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    first = full().encode(ending)
    assert first.startswith(starts[ending])
    assert first == full().encode(ending)
    full().save(tmp_path / f"sheet{ending.upper()}")
    assert (tmp_path / f"sheet{ending.upper()}").read_bytes() == first


def test_a_png_holds_the_pixels(tmp_path):
    full().save(tmp_path / "sheet.png", scale=1)
    with Image.open(tmp_path / "sheet.png") as file:
        held = torch.from_numpy(np.array(file)).permute(2, 0, 1)
    assert torch.equal(held, full().render())


def test_words_of_matplotlibs_own_language_are_written_as_they_are():
    ImageGrid([GridColumn("$a_$ {b} \\c", [image(4, 4)])], caption="50 % of $x").render()


def test_all_images_of_a_row_are_shown_at_the_size_of_its_first():
    sheet = ImageGrid([GridColumn("", [image(100, 140)]), GridColumn("", [image(7, 10)])])
    same = ImageGrid([GridColumn("", [image(100, 140)]), GridColumn("", [image(100, 140)])])
    assert sheet.render().shape == same.render().shape


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_an_image_keeps_its_aspect_within_its_row(height, width):
    tall, wide = displayed_size(torch.empty(3, 1, 1).expand(3, height, width), HEIGHT)
    assert 1 <= tall <= HEIGHT
    assert 1 <= wide <= 2 * HEIGHT
    assert tall == HEIGHT or wide == 2 * HEIGHT
    assert abs(wide - max(1, width * tall / height)) <= max(1, width / height)


@settings(max_examples=30)
@given(st.text("ab \n", max_size=60), st.integers(1, 200))
def test_wrapped_text_loses_nothing_and_fits_where_its_words_do(text, width):
    lines = wrap(text, width)
    assert " ".join(lines).split() == text.split()
    assert all(text_width(line) <= width or " " not in line.strip() for line in lines)


def test_no_word_is_cut_off_at_the_border():
    """The outermost pixels of a sheet are paper, however long its words are."""
    long = "averylongnameofamodelthatisnotbroken"
    sheet = ImageGrid(
        [GridColumn(long, [image(300, 20)], legend=[((0.0, 0.0, 0.0), long * 2)], notes=[long])],
        labels=["a label that is broken into several lines since it is long"],
        keys=[[((0.0, 0.0, 0.0), f"{long} {number}") for number in range(9)]],
        caption="words " * 60,
    )
    drawn = sheet.render()
    for border in (drawn[:, :4], drawn[:, -4:], drawn[:, :, :4], drawn[:, :, -4:]):
        assert (border == 255).all()


def test_a_row_without_an_image_is_our_mistake():
    with pytest.raises(AssertionError, match="misses an image"):
        ImageGrid([GridColumn("a", [image(4, 4)] * 2), GridColumn("b", [image(4, 4)])]).render()
