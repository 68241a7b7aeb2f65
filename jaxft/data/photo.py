"""One image: read its header first, decode it later, upright and in RGB."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
from PIL.Image import Transpose

from jaxft.errors import UserError

ImageData = Path | bytes | np.ndarray
"""A file, its encoded bytes, or pixels as uint8 `[H, W, 3]`."""

# One photo is the work of one thread, and the loader decodes many at once: OpenCV must not start threads of its own.
cv2.setNumThreads(0)

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {  # EXIF 2.32, section 4.6.4: what turns a picture that was stored with this orientation upright
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_JPEG_SHRINK = {
    8: cv2.IMREAD_REDUCED_COLOR_8,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    1: cv2.IMREAD_COLOR,
}


def content_word(image: ImageData) -> str:
    """A word that changes with an image: of a file its path, its size and when it was changed, nanoseconds.

    Raises:
        UserError: the file is not there.
    """
    if not isinstance(image, Path):
        return f"{zlib.crc32(image if isinstance(image, bytes) else np.ascontiguousarray(image).data):08x}"
    try:
        found = image.stat()
    except OSError as error:
        raise UserError(f"the photo {image} cannot be read ({error})") from error
    return f"{image.absolute()} {found.st_size} {found.st_mtime_ns}"


def file_of(image: ImageData) -> str:
    """The path of an image, from the root; empty where it is no file."""
    return str(image.resolve()) if isinstance(image, Path) else ""


class Photo:
    """An image whose header is read and whose pixels are not.

    Colors follow `PIL.Image.convert("RGB")`, as torchvision's `ImageFolder` does: gray is repeated, palettes are
    looked up, CMYK is converted, transparency is dropped. Two things are done better than there. The EXIF orientation
    is applied, so a photo taken with the phone on its side is seen upright. 16-bit gray is scaled to 8 bit, where
    `convert` would turn all above 255 white.

    Attributes:
        width: in pixels, after the orientation is applied.
        height: in pixels, after the orientation is applied.
    """

    def __init__(self, image: ImageData, *, upright: bool = True) -> None:
        """Read the header.

        Args:
            image: a file, its encoded bytes, or pixels as uint8 `[H, W, 3]`.
            upright: whether to apply the EXIF orientation.

        Raises:
            UserError: the file is missing, empty, not an image, or has more pixels than `PIL.Image.MAX_IMAGE_PIXELS`.
        """
        self.name = str(image) if isinstance(image, Path) else "the image"
        self._encoded = b""
        self._turn: Transpose | None = None
        if isinstance(image, np.ndarray):
            self._picture = PIL.Image.fromarray(image)
        else:
            with _explained(self.name):
                self._encoded = image.read_bytes() if isinstance(image, Path) else image
                if not self._encoded:
                    raise UserError(f"{self.name} is empty (0 bytes); replace or remove it.")
                self._picture = PIL.Image.open(BytesIO(self._encoded))
                self._turn = _UPRIGHT.get(_orientation(self._picture)) if upright else None
                _refuse_bomb(self._picture)
        self.width, self.height = self._picture.size
        if self._turn in (Transpose.TRANSPOSE, Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90):
            self.width, self.height = self.height, self.width

    def rgb(self) -> PIL.Image.Image:
        """Decode with Pillow.

        Returns:
            The whole picture, upright, mode RGB.

        Raises:
            UserError: the image is corrupt or truncated, or its pixels are floating-point numbers.
        """
        with _explained(self.name):
            self._picture.load()  # RGB needs no conversion, and without one Pillow would put the decoding off
            picture = _to_rgb(self._picture)
            return picture if self._turn is None else picture.transpose(self._turn)

    def pixels(self, max_shrink: float = 1) -> tuple[np.ndarray, int]:
        """Decode in the fastest way; the values are those of `rgb()` where `shrink` is 1.

        A JPEG can be decoded at a half, a quarter or an eighth of its size for a fraction of the time, because the
        inverse cosine transform gives the small picture straight away.

        Args:
            max_shrink: by how much the picture may be smaller than its full size.

        Returns:
            `(pixels, shrink)`: uint8 `[ceil(height / shrink), ceil(width / shrink), 3]`, and the largest of 1, 2, 4, 8
            that `max_shrink` allows (always 1 for formats other than JPEG).

        Raises:
            UserError: the image is corrupt or truncated, or its pixels are floating-point numbers.
        """
        if self._picture.format not in ("JPEG", "MPO"):
            return np.asarray(self.rgb()), 1
        shrink = next(factor for factor in _JPEG_SHRINK if factor <= max(max_shrink, 1))
        if self._picture.mode == "RGB" and self._turn is None:
            # OpenCV carries the same libjpeg-turbo with the same settings, and saves Pillow's copies.
            flags = _JPEG_SHRINK[shrink] | cv2.IMREAD_IGNORE_ORIENTATION
            decoded = cv2.imdecode(np.frombuffer(self._encoded, np.uint8), flags)
            if decoded is not None:
                return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB, dst=decoded), shrink
        if shrink > 1:
            self._picture.draft(self._picture.mode, (self._picture.width // shrink, self._picture.height // shrink))
        return np.asarray(self.rgb()), shrink


def _orientation(picture: PIL.Image.Image) -> int:
    try:
        return picture.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block raises whatever its parser trips over; the pixels may still be fine
        return 1


def _refuse_bomb(picture: PIL.Image.Image) -> None:
    limit = PIL.Image.MAX_IMAGE_PIXELS
    if limit is not None and picture.width * picture.height > limit:
        raise PIL.Image.DecompressionBombError(f"{picture.width} x {picture.height}")


def _to_rgb(picture: PIL.Image.Image) -> PIL.Image.Image:
    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers, and their range is not known")
    if picture.mode.startswith("I"):
        gray = np.asarray(picture).astype(np.int64)
        if gray.min() < 0 or gray.max() > 65535:
            raise ValueError("its gray values are wider than 16 bits")
        picture = PIL.Image.fromarray(((gray * 255 + 32767) // 65535).astype(np.uint8))
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")  # straight to RGB gives the same colors, but also a warning
    return picture if picture.mode == "RGB" else picture.convert("RGB")


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn whatever goes wrong while an image is read into a sentence that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{name} does not exist; was it moved or deleted?") from error
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        limit = PIL.Image.MAX_IMAGE_PIXELS
        raise UserError(f"{name} has more than {limit} pixels; make it smaller or remove it.") from error
    except PIL.UnidentifiedImageError as error:
        raise UserError(f"{name} is not an image in any format that Pillow reads; replace or remove it.") from error
    except UserError:
        raise
    except Exception as error:  # Pillow's parsers raise OSError, SyntaxError, ValueError, struct.error, EOFError, ...
        raise UserError(f"{name} cannot be read ({error}); replace or remove it.") from error
