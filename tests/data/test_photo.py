import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxft.data.photo import Photo
from jaxft.errors import UserError
from tests.data.images import photo


def test_jpeg_pixels_equal_pillow(tmp_path: Path) -> None:
    for subsampling in (0, 1, 2):
        photo(67, 45).save(tmp_path / "a.jpg", subsampling=subsampling)
        pixels, shrink = Photo(tmp_path / "a.jpg").pixels()
        assert shrink == 1
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(tmp_path / "a.jpg")))


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "RGBA", "LA", "P", "YCbCr", "HSV"])
def test_modes_convert_as_in_pillow(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.tif" if mode in ("YCbCr", "HSV") else "a.png")
    original = photo(20, 14)
    if mode == "HSV":  # no format stores it; the gray file stands for "anything else"
        mode = "L"
    if mode in ("RGBA", "LA"):
        original.putalpha(Image.linear_gradient("L").resize((20, 14)))
    original.convert(mode).save(path)
    picture = Image.open(path)
    assert picture.mode == mode
    np.testing.assert_array_equal(np.asarray(Photo(path).rgb()), np.asarray(picture.convert("RGB")))
    np.testing.assert_array_equal(Photo(path).pixels()[0], np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("transparency", [3, bytes(range(0, 240, 10))])
def test_transparent_palette_keeps_its_colors_without_a_warning(transparency: int | bytes) -> None:
    file = BytesIO()
    photo(20, 14).quantize(24).save(file, "PNG", transparency=transparency)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = np.asarray(Image.open(file).convert("RGB"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(np.asarray(Photo(file.getvalue()).rgb()), expected)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bit_grey_is_scaled(tmp_path: Path, suffix: str) -> None:
    gray = np.array([[0, 128, 129, 257], [1000, 32768, 65000, 65535]], np.uint16)
    path = tmp_path / f"a.{suffix}"
    if suffix == "pgm":  # binary PGM is big-endian
        path.write_bytes(b"P5 4 2 65535\n" + gray.astype(">u2").tobytes())
    else:
        Image.fromarray(gray).save(path)
    expected = np.round(gray / 257.0).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(Photo(path).rgb()), np.repeat(expected[..., None], 3, -1))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo(48, 32).save(tmp_path / f"a.{suffix}", exif=exif)
    upright = Photo(tmp_path / f"a.{suffix}")
    stored = np.asarray(Image.open(tmp_path / f"a.{suffix}"))
    turned = {  # rows and columns of the stored picture, as EXIF 2.32 names them
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: np.rot90(stored, -1),
        7: np.rot90(stored, 2).swapaxes(0, 1),
        8: np.rot90(stored),
    }[orientation]
    assert (upright.height, upright.width) == turned.shape[:2]
    np.testing.assert_array_equal(np.asarray(upright.rgb()), turned)
    np.testing.assert_array_equal(upright.pixels()[0], turned)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("block", [b"II*\0\xff\xff\xff\x7f garbage", b"garbage"])
def test_damaged_exif_does_not_matter(block: bytes) -> None:
    file = BytesIO()
    photo(20, 14).save(file, "JPEG", exif=b"Exif\0\0" + block)
    assert Photo(file.getvalue()).rgb().size == (20, 14)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(("max_shrink", "expected"), [(0.3, 1), (1.9, 1), (2, 2), (3.9, 2), (5, 4), (100, 8)])
def test_a_jpeg_is_decoded_smaller(tmp_path: Path, orientation: int, max_shrink: float, expected: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo(163, 101).save(tmp_path / "a.jpg", quality=95, exif=exif)
    upright = Photo(tmp_path / "a.jpg")
    pixels, shrink = upright.pixels(max_shrink)
    assert shrink == expected
    assert pixels.shape[:2] == (-(-upright.height // shrink), -(-upright.width // shrink))


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("shrink", [2, 4, 8])
def test_a_smaller_jpeg_shows_the_same(tmp_path: Path, orientation: int, shrink: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo(320, 240).save(tmp_path / "a.jpg", quality=95, subsampling=0, exif=exif)
    pixels, _ = Photo(tmp_path / "a.jpg").pixels(shrink)
    averaged = np.asarray(Photo(tmp_path / "a.jpg").rgb().reduce(shrink))
    np.testing.assert_allclose(pixels.astype(float), averaged, rtol=0, atol=4)


def test_other_formats_are_not_shrunk(tmp_path: Path) -> None:
    photo(163, 101).save(tmp_path / "a.png")
    pixels, shrink = Photo(tmp_path / "a.png").pixels(4)
    assert (shrink, pixels.shape) == (1, (101, 163, 3))


def test_arrays_and_bytes_are_images_too() -> None:
    pixels = np.asarray(photo(5, 3))
    np.testing.assert_array_equal(np.asarray(Photo(pixels).rgb()), pixels)
    file = BytesIO()
    photo(5, 3).save(file, "PNG")
    np.testing.assert_array_equal(Photo(file.getvalue()).pixels()[0], pixels)


def _huge_png() -> bytes:
    """A PNG of 30,000 x 30,000 black pixels in a few bytes of header; its pixels would take 2.7 GB."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def _truncated(format: str) -> bytes:
    file = BytesIO()
    photo(200, 150).save(file, format)
    return file.getvalue()[: len(file.getvalue()) // 2]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "not an image"),
        (_truncated("JPEG"), "cannot be read"),
        (_truncated("PNG"), "cannot be read"),
        (_huge_png(), "pixels"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"bad\.jpg .*{reason}"):
        Photo(path).rgb()
    with pytest.raises(UserError, match=rf"bad\.jpg .*{reason}"):
        Photo(path).pixels()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.jpg does not exist"):
        Photo(tmp_path / "gone.jpg")


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((3, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match="floating-point"):
        Photo(tmp_path / "a.tif").rgb()
