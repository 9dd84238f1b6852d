import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from refusals import refused

from vitlab.visualization.attention import patch_similarity
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
def test_a_place_lies_in_the_patch_that_covers_it(height, width, patch, size, data):
    photo = photograph(height, width)
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    grid = photo.grid(size, patch)
    row, column = divmod(photo.patch_at((x, y), grid), grid[1])
    assert row / grid[0] <= (y + 0.5) / height <= (row + 1) / grid[0]
    assert column / grid[1] <= (x + 0.5) / width <= (column + 1) / grid[1]
    index = row * grid[1] + column
    p = grid[0] * grid[1]
    features = torch.zeros(p, 3).index_fill(0, torch.tensor(index), 1.0) + 0.1
    found = patch_similarity(features, index)
    assert found[index] == pytest.approx(1, abs=1e-6)
    assert found.argmax() == index or (found > 1 - 1e-6).all()


@given(EDGE, EDGE, st.sampled_from([8, 14, 16]), st.integers(0, 640))
def test_edges_become_the_nearest_multiples_of_the_patch(height, width, patch, size):
    photo = photograph(height, width)
    factor = size / max(height, width) if size else 1
    for cells, edge in zip(photo.grid(size, patch), (height, width), strict=True):
        assert cells >= 1
        assert abs(cells * patch - edge * factor) <= patch / 2 + 1e-6 or cells == 1


def test_a_photograph_that_patches_tile_is_left_as_it_is():
    pixels = torch.randint(256, (3, 32, 48)).to(torch.uint8)
    assert torch.equal(Photograph("a", pixels).fitted(0, 16)[0], pixels)
    assert Photograph("a", pixels).fitted(96, 16).shape == (1, 3, 64, 96)


def test_what_becomes_of_a_photograph_is_told():
    told = photograph(187, 250).summary(448, 16)
    assert told == "photo: 250 x 187 -> 448 x 336 pixels, 28 x 21 patches of 16"
    assert "wider by" in photograph(300, 1).summary(448, 16)
    assert "narrower by" in photograph(105, 250).summary(448, 16)


def test_a_place_outside_is_refused():
    for place in ((-1, 0), (10, 0), (0, 6)):
        with refused("--at"):
            photograph(6, 10).patch_at(place, (2, 2))


def save(image, path, **options):
    image.save(path, **options)
    return path


def turned(path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned to the right
    return save(colored().rotate(90, expand=True), path, exif=exif, quality=100, subsampling=0)


def test_every_kind_of_picture_is_read_upright_and_in_color(tmp_path):
    wide = Image.fromarray((np.array(colored().convert("L")).astype(np.uint16)) * 257)
    files = [
        save(colored(), tmp_path / "a.png"),
        save(colored(), tmp_path / "b.jpg", quality=100, subsampling=0),
        turned(tmp_path / "c.jpg"),
        save(colored().convert("RGBA"), tmp_path / "d.png"),
        save(colored().convert("P"), tmp_path / "e.png"),
        save(colored(), tmp_path / "f.webp", lossless=True),
        save(colored(), tmp_path / "g.bmp"),
        save(colored(), tmp_path / "g.tif"),
        save(colored().convert("P"), tmp_path / "h.gif"),
        save(colored().convert("CMYK"), tmp_path / "i.jpg", quality=100),
    ]
    gray = [save(colored().convert("L"), tmp_path / "gray.png"), save(wide, tmp_path / "wide.png")]
    gray += [save(wide, tmp_path / "wide.tif")]
    for photo in read_photographs(files):
        assert photo.size == (6, 10), photo.name
        assert photo.pixels[0, 0, 0] > 200 > 60 > photo.pixels[2, 0, 0], photo.name
        assert photo.pixels[2, -1, -1] > 150 > 60 > photo.pixels[0, -1, -1], photo.name
    for photo in read_photographs(gray):
        assert (photo.pixels == photo.pixels[:1]).all(), photo.name
        assert abs(int(photo.pixels[0, 0, 0]) - int(np.array(colored().convert("L"))[0, 0])) <= 1


def test_a_folder_is_all_pictures_in_it_by_name(tmp_path):
    for name in ("b.PNG", "a.jpg", "notes.txt"):
        (tmp_path / name).write_text("no picture") if name == "notes.txt" else colored().save(
            tmp_path / name
        )
    assert [photo.name for photo in read_photographs([tmp_path])] == ["a.jpg", "b.PNG"]


def test_what_is_no_picture_is_named(tmp_path):
    whole = save(colored(64, 64), tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "words.png").write_text("words")
    save(Image.fromarray(np.ones((4, 4), np.float32)), tmp_path / "float.tif")
    for name, message in {
        "cut.jpg": "cut.jpg",
        "words.png": "words.png",
        "missing.png": "missing.png",
        "float.tif": "floating-point values",
    }.items():
        with pytest.raises((OSError, ValueError), match=message):
            read_photographs([tmp_path / name])


def test_too_many_and_no_pictures_are_refused(tmp_path):
    for paths in ([save(colored(), tmp_path / "a.png")] * (MAX_PHOTOGRAPHS + 1), [tmp_path / "b"]):
        (tmp_path / "b").mkdir(exist_ok=True)
        with refused("images"):
            read_photographs(paths)
