import numpy as np
import pytest
from PIL import Image

from vitlab.data import DataError, UnreadableImage, read_image, read_mask


def test_a_jpeg_is_read_as_rgb_like_pil_reads_it(tmp_path, draw):
    path = draw(tmp_path / "a.jpg")
    difference = read_image(path).astype(int) - np.array(Image.open(path))
    assert abs(difference).max() <= 2  # the decoders' inverse transforms round differently
    assert read_image(path).dtype == np.uint8


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "LA"])
def test_any_mode_of_png_becomes_rgb(tmp_path, draw, mode):
    path = tmp_path / "a.png"
    Image.open(draw(tmp_path / "b.png")).convert(mode).save(path)
    expected = np.array(Image.open(path).convert("RGB"))
    assert abs(read_image(path).astype(int) - expected).max() <= 1


def test_a_cmyk_jpeg_becomes_rgb(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    red = read_image(tmp_path / "a.jpg")[8, 8]
    assert red[0] > 200
    assert red[1:].max() < 60


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    Image.fromarray(np.full((8, 8), 0x8000, dtype=np.uint16)).save(tmp_path / "a.png")
    Image.fromarray(np.full((8, 8), 0x8000, dtype=np.uint16)).save(tmp_path / "a.tif")
    assert (read_image(tmp_path / "a.png") == 128).all()
    assert (read_image(tmp_path / "a.tif") == 128).all()


def test_a_png_named_jpeg_is_read(tmp_path, draw):
    path = draw(tmp_path / "a.png").rename(tmp_path / "a.JPEG")
    assert read_image(path).shape == (30, 40, 3)


@pytest.mark.parametrize("ending", ["jpg", "webp"])
def test_the_orientation_flag_turns_the_picture(tmp_path, draw, ending):
    image = Image.open(draw(tmp_path / "b.png"))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    image.save(tmp_path / f"a.{ending}", exif=exif)
    assert read_image(tmp_path / f"a.{ending}").shape == (40, 30, 3)


@pytest.mark.parametrize("ending", ["jpg", "png", "bmp", "webp"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_a_cut_file_is_unreadable_never_grey(tmp_path, draw, ending, share):
    path = draw(tmp_path / f"a.{ending}", size=(200, 150))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UnreadableImage, match=rf"a\.{ending}"):
        read_image(path)


def test_bytes_after_the_end_do_no_harm(tmp_path, draw):
    path = draw(tmp_path / "a.jpg")
    expected = read_image(path)
    path.write_bytes(path.read_bytes() + b"\0\0")
    assert abs(read_image(path).astype(int) - expected).max() <= 2


def test_empty_missing_and_foreign_files_say_why(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("<html>404</html>")
    for name, reason in [
        ("empty.jpg", "empty"),
        ("text.jpg", "cannot identify"),
        ("none.jpg", "No such file"),
    ]:
        with pytest.raises(UnreadableImage, match=reason) as caught:
            read_image(tmp_path / name)
        assert caught.value.path == str(tmp_path / name)
        assert reason in caught.value.reason


def test_a_palette_mask_is_read_as_indices(tmp_path, stripe):
    mask = read_mask(stripe(tmp_path / "a.png", [0, 15, 255], mode="P"))
    assert set(np.unique(mask)) == {0, 15, 255}
    assert mask.dtype == np.uint8
    assert mask.shape == (30, 40)


def test_a_colored_mask_is_refused(tmp_path, draw):
    with pytest.raises(DataError, match=r"a\.png is an image of mode RGB.*index per pixel.*use"):
        read_mask(draw(tmp_path / "a.png"))


def test_a_cut_mask_is_unreadable(tmp_path, stripe):
    path = stripe(tmp_path / "a.png", list(range(40)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnreadableImage, match=r"a\.png"):
        read_mask(path)
