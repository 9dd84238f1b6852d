"""Image and mask files to arrays: PIL's pixels; damage is an error, never a gray picture."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps
from refusals import refused
from scipy.io import savemat

from vitlab.data import DataError, UnreadableImage, read_image, read_mask
from vitlab.data.decode import decode_image, decode_mask


def encoded(size=(200, 150), mode="RGB", **options):
    """A photograph-like JPEG of (width, height): smooth, with some noise on it."""
    rng = np.random.default_rng(0)
    rough = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(size, 3)
    noise = rng.integers(-8, 9, (size[1], size[0], 3))
    picture = Image.fromarray((np.array(rough) + noise).clip(0, 255).astype(np.uint8))
    file = io.BytesIO()
    picture.convert(mode).save(file, "jpeg", **({"quality": 90} | options))
    return file.getvalue()


def by_pil(data):
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize(
    "options",
    [
        *({"subsampling": "4:2:0"}, {"progressive": True}, {"mode": "L"}),
        *({"restart_marker_rows": 1}, {"keep_rgb": True}),
    ],
    ids=str,
)
def test_a_jpeg_has_the_bits_that_pil_has(options):
    data = encoded(**options)
    image = decode_image(data, "a.jpg")
    assert image.dtype == np.uint8
    # the decoder is the same, but the one in PIL may be of another version
    assert abs(image.astype(int) - by_pil(data)).max() <= 1


def test_any_mode_of_png_becomes_rgb_and_16_bits_are_scaled(tmp_path, draw):
    path = tmp_path / "a.png"
    for mode in ("L", "P", "1", "RGBA", "LA"):
        Image.open(draw(tmp_path / "b.png")).convert(mode).save(path)
        assert abs(read_image(path).astype(int) - by_pil(path.read_bytes())).max() <= 1
    for name in ("c.png", "c.tif"):
        Image.fromarray(np.full((8, 8), 0x8000, dtype=np.uint16)).save(tmp_path / name)
        assert (read_image(tmp_path / name) == 128).all()


@pytest.mark.parametrize("adobe", [True, False])
def test_a_cmyk_jpeg_becomes_rgb(adobe):
    file = io.BytesIO()
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(file, "jpeg", quality=100)
    data = file.getvalue()
    if not adobe:  # without its marker PIL takes the values for inverted all the same
        start = data.index(b"\xff\xee")
        data = data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]
    red = decode_image(data, "a.jpg")
    assert red[8, 8, 0] > 200
    assert red[8, 8, 1:].max() < 60
    assert abs(red.astype(int) - by_pil(data)).max() <= 3


def with_orientation(flag, ending="jpeg", size=(40, 30)):
    exif = Image.Exif()
    exif[0x0112] = flag
    file = io.BytesIO()
    Image.open(io.BytesIO(encoded(size))).save(file, ending, exif=exif)
    return file.getvalue()


def test_the_orientation_flag_turns_the_picture_as_pil_does_in_either_byte_order():
    for flag in range(10):
        data = with_orientation(flag)
        expected = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
        image = decode_image(data, "a.jpg", upright=True)
        assert image.shape == expected.shape
        assert image.flags["C_CONTIGUOUS"]
        assert abs(image.astype(int) - expected).max() <= 1
        stored = decode_image(data, "a.jpg")  # as PIL, torchvision and timm open it
        assert abs(stored.astype(int) - np.array(Image.open(io.BytesIO(data)))).max() <= 1
    for ending in ("webp", "png"):
        turned = with_orientation(6, ending)
        assert decode_image(turned, "a", upright=True).shape == (40, 30, 3)
        assert decode_image(turned, "a").shape == (30, 40, 3)
    data = with_orientation(6)
    start = data.index(b"Exif\0\0") + 6
    assert data[start : start + 2] == b"MM"
    # one entry in little-endian order: orientation, short, one value, 6
    little = bytes.fromhex("49492a00 08000000 0100 1201 0300 01000000 0600 0000 00000000")
    data = data[:start] + little + data[start + len(little) :]
    assert decode_image(data, "a.jpg", upright=True).shape == (40, 30, 3)
    start, length = data.index(b"Exif\0\0") + 6, data.index(b"\xff\xdb") - start
    for kept in (0, 2, 7, 12, 20):  # broken metadata leave the picture as it is
        broken = data[: start + kept] + b"\xfe" * (length - kept) + data[start + length :]
        assert decode_image(broken, "a.jpg", (0, 0), True).shape in {(30, 40, 3), (40, 30, 3)}


@pytest.mark.parametrize(
    ("min_size", "expected"),
    [
        ((0, 0), (601, 800)),  # 301 x 400, 151 x 200 and 76 x 100 are the fractions
        ((1, 1), (76, 100)),
        ((76, 100), (76, 100)),
        ((76, 101), (151, 200)),
        ((152, 100), (301, 400)),
        ((301, 401), (601, 800)),
        ((5000, 5000), (601, 800)),
    ],
)
def test_a_large_jpeg_is_reduced_to_the_smallest_fraction_that_suffices(min_size, expected):
    data = encoded((800, 601))
    image = decode_image(data, "a.jpg", min_size)
    assert image.shape[:2] == expected
    if min_size > (0, 0):
        small = Image.open(io.BytesIO(data)).resize(expected[::-1], Image.Resampling.BOX)
        assert abs(image.astype(float) - np.array(small)).mean() < 3
    turned = with_orientation(6, size=(800, 601))  # the size of the upright picture counts
    assert decode_image(turned, "a.jpg", min_size[::-1], True).shape[:2] == expected[::-1]


@pytest.mark.parametrize("ending", ["jpg", "progressive", "png", "bmp", "webp"])
def test_a_cut_file_is_unreadable_never_gray(tmp_path, draw, ending):
    if ending == "progressive":
        whole = encoded((64, 48), progressive=True)
    else:
        whole = draw(tmp_path / f"a.{ending}", size=(200, 150)).read_bytes()
    for length in range(1, len(whole) - (1 if ending == "bmp" else 20), max(7, len(whole) // 50)):
        with pytest.raises(UnreadableImage, match="cut"):
            decode_image(whole[:length], "cut")


def test_damaged_giant_and_unknown_images_are_unreadable():
    data = encoded(subsampling="4:4:4")
    frame, middle = data.index(b"\xff\xc0"), len(data) * 3 // 4
    cases = [
        (frame + 5, b"\xff\x00\xff\x00", "exceeds limit"),
        (frame + 4, bytes([12]), "precision 12"),  # bits
    ]
    for damage in (bytes(2048), b"\xff\xd9" + bytes(2046), b"\xff\xd3" + bytes(2046)):
        # in the middle: PIL notices nothing, though a part of its picture is gray
        cases.append((middle, damage, "premature end of data segment"))
    for at, damage, reason in cases:
        with pytest.raises(UnreadableImage, match=reason):
            decode_image(data[:at] + damage + data[at + len(damage) :], "a.jpg")
    with pytest.raises(UnreadableImage, match="premature end of data segment"):
        decode_image(data[:middle] + data[middle + 2048 :], "a.jpg")
    for edge in (20_000, 60_000):  # OpenCV would take all memory, or fail itself
        header = struct.pack(">IIBBBBB", edge, edge, 1, 0, 0, 0, 0)
        chunks = (b"IHDR" + header, b"IDAT" + zlib.compress(bytes(9)), b"IEND")
        for decode in (decode_image, decode_mask):
            with pytest.raises(UnreadableImage, match="exceeds limit"):
                decode(png(chunks), "a.png")
    header = struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 0)
    whole = png((b"IHDR" + header, b"IDAT" + zlib.compress(bytes(6)), b"IEND"))
    for decode in (decode_image, decode_mask):
        decode(whole, "a.png")
        with pytest.raises(UnreadableImage, match="broken PNG"):  # a wrong checksum
            decode(whole[:-14] + b"\x01" + whole[-13:], "a.png")


def png(chunks):
    data = b"\x89PNG\r\n\x1a\n"
    for chunk in chunks:
        data += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return data


@pytest.mark.parametrize("place", ["tables", "scan", "end"])
def test_stray_bytes_that_harm_no_pixel_do_not_make_a_jpeg_unreadable(place):
    data = encoded()
    at = {"tables": data.index(b"\xff\xdb"), "scan": data.index(b"\xff\xda"), "end": len(data) - 2}
    assert (decode_image(data + b"\0\0more", "a.jpg") == decode_image(data, "a.jpg")).all()
    stray = data[: at[place]] + b"\x01\x02" * 20 + data[at[place] :]
    assert abs(decode_image(stray, "a.jpg").astype(int) - by_pil(data)).max() <= 1
    assert (
        decode_image(stray, "a.jpg", (70, 70)).shape
        == ((75, 100, 3), (150, 200, 3))[place != "end"]
    )


def test_empty_missing_and_foreign_files_say_why(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("<html>404</html>")
    reasons = {"empty": "empty", "text": "cannot identify image file", "none": "No such file"}
    for read in (read_image, read_mask):
        for name, reason in reasons.items():
            with pytest.raises(UnreadableImage) as caught:
                read(tmp_path / f"{name}.jpg")
            assert caught.value.path == str(tmp_path / f"{name}.jpg")
            assert reason in caught.value.reason
            assert "BytesIO" not in str(caught.value)


def matlab(compressed=True, kind="GTcls", **fields):
    file = io.BytesIO()
    savemat(file, {kind: fields}, do_compression=compressed)
    return file.getvalue()


@pytest.mark.parametrize(("shape", "compressed"), [((5, 7), True), ((1, 7), False), ((1, 1), True)])
def test_masks_are_the_indices_of_their_files(tmp_path, stripe, shape, compressed):
    mask = read_mask(stripe(tmp_path / "a.png", [0, 15, 255], mode="P"))
    assert mask.dtype == np.uint8
    assert (mask == np.resize([0, 15, 255], 40)).all()
    # and of a file of the Semantic Boundaries Dataset
    classes = np.random.default_rng(0).integers(0, 21, shape, dtype=np.uint8)
    boundaries = np.empty((20, 1), dtype=object)
    boundaries[:] = [[np.zeros(shape, bool)]] * 20
    data = matlab(compressed, Boundaries=boundaries, Segmentation=classes, CategoriesPresent=[1])
    mask = decode_mask(data, "a.mat")
    assert mask.dtype == np.uint8
    assert (mask == classes).all()
    data = matlab(compressed, Segmentation=np.arange(200, dtype=np.uint8).reshape(10, 20))
    for length in range(140, len(data) - 8, 5):
        with pytest.raises(UnreadableImage, match=r"a\.mat: broken MATLAB file"):
            decode_mask(data[:length], "a.mat")


def test_masks_of_colors_or_sixteen_bits_and_other_matlab_files_are_refused(tmp_path, draw):
    draw(tmp_path / "a.png")
    for name in ("deep.png", "deep.tif"):
        Image.fromarray(np.full((8, 8), 300, np.uint16)).save(tmp_path / name)
    (tmp_path / "a.mat").write_bytes(matlab(kind="GTinst", Segmentation=np.zeros((4, 4), np.uint8)))
    (tmp_path / "b.mat").write_bytes(matlab(Boundaries=1))
    (tmp_path / "c.mat").write_bytes(matlab(Segmentation=np.zeros((4, 4))))
    for name in ("a.png", "deep.png", "deep.tif", "a.mat", "b.mat", "c.mat"):
        with refused("data.root", DataError):
            read_mask(tmp_path / name)
