import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from refusals import refused

from vitlab.visualization.photographs import MAX_PHOTOGRAPHS, Photograph, read_photographs

EDGE = st.integers(1, 500)


def photograph(height, width):
    return Photograph("photo", torch.zeros(1, dtype=torch.uint8).expand(3, height, width))


def colored(height=6, width=10):
    """Red at the upper left corner, blue below."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 2] = 200
    pixels[: height // 2, : width // 2] = (250, 0, 0)
    return Image.fromarray(pixels)


@given(EDGE, EDGE, st.sampled_from([8, 14, 16]), st.integers(0, 640), st.data())
def test_edges_are_the_nearest_multiples_of_the_patch_and_places_lie_in_theirs(
    height, width, patch, size, data
):
    photo = photograph(height, width)
    grid, factor = photo.grid(size, patch), size / max(height, width) if size else 1
    for cells, edge in zip(grid, (height, width), strict=True):
        assert cells >= 1
        assert abs(cells * patch - edge * factor) <= patch / 2 + 1e-6 or cells == 1
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    row, column = divmod(photo.patch_at((x, y), grid), grid[1])
    across, down = photo.share((x, y))
    assert (across, down) == ((x + 0.5) / width, (y + 0.5) / height)
    assert row / grid[0] <= down <= (row + 1) / grid[0]
    assert column / grid[1] <= across <= (column + 1) / grid[1]


def test_a_photograph_becomes_whole_patches_and_is_left_as_it_is_where_it_has_them():
    pixels = torch.randint(256, (3, 32, 48)).to(torch.uint8)
    assert torch.equal(Photograph("a", pixels).fitted(0, 16)[0], pixels)
    assert Photograph("a", pixels).fitted(96, 16).shape == (1, 3, 64, 96)
    told = photograph(187, 250).summary(448, 16)
    assert told == "photo: 250 x 187 -> 448 x 336 pixels, 28 x 21 patches of 16"
    assert photograph(105, 250).summary(448, 16).endswith("aspect -2.0%")


@pytest.mark.parametrize("place", [(-1, 0), (10, 0), (0, 6)])
def test_a_place_outside_is_refused(place):
    with refused("--at"):
        photograph(6, 10).patch_at(place, (2, 2))


def test_every_kind_of_picture_is_read_upright_and_in_color(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned to the right
    best = {"quality": 100, "subsampling": 0}
    colored().rotate(90, expand=True).save(tmp_path / "turned.jpg", exif=exif, **best)
    colored().convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    modes = {"a.PNG": "RGB", "d.png": "RGBA", "e.png": "P", "h.gif": "P", "g.bmp": "RGB"}
    for name, mode in {**modes, "b.jpg": "RGB", "f.webp": "RGB", "g.tif": "RGB"}.items():
        more = {".jpg": best, ".webp": {"lossless": True}}.get(name[1:], {})
        colored().convert(mode).save(tmp_path / name, **more)
    (tmp_path / "notes.txt").write_text("no picture")
    found = read_photographs([tmp_path])
    names = [photo.name for photo in found]
    assert names == sorted({path.name for path in tmp_path.iterdir()} - {"notes.txt"})
    for photo in found:
        assert photo.size == (6, 10), photo.name
        assert photo.pixels[0, 0, 0] > 200 > 60 > photo.pixels[2, 0, 0], photo.name
        assert photo.pixels[2, -1, -1] > 150 > 60 > photo.pixels[0, -1, -1], photo.name
    gray = np.array(colored().convert("L"))
    for name, depth in {"gray.png": 1, "deep.png": 257, "deep.tif": 257}.items():
        values = gray if depth == 1 else gray.astype(np.uint16) * depth
        Image.fromarray(values).save(tmp_path / name)
        (photo,) = read_photographs([tmp_path / name])
        assert torch.equal(photo.pixels, torch.from_numpy(gray).expand(3, 6, 10)), name


@pytest.mark.parametrize("name", ["cut.jpg", "words.png", "missing.png", "float.tif"])
def test_what_is_no_picture_is_named(tmp_path, name):
    colored(64, 64).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "words.png").write_text("words")
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises((OSError, ValueError), match=name):
        read_photographs([tmp_path / name])


def test_too_many_and_no_pictures_are_refused(tmp_path):
    colored().save(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    for paths in ([tmp_path / "empty"], [tmp_path / "a.png"] * (MAX_PHOTOGRAPHS + 1)):
        with refused("images", wording=False):
            read_photographs(paths)
