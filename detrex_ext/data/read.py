"""Reading pictures from disk: RGB, 8 bit, upright."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from detrex_ext.errors import UserError

# EXIF orientations that exchange width and height.
_TURNED = {5, 6, 7, 8}
_ORIENTATION_TAG = 0x0112


class UnreadableImage(UserError):
    """A picture that cannot be used: missing, not decodable, or of another size than its JSON says."""

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = str(path), reason
        super().__init__(f"image cannot be used: {path}\n  {reason}")

    def __reduce__(self) -> tuple:
        return type(self), (self.path, self.reason)


def read_image(path: str | Path) -> np.ndarray:
    """Read a picture as it is meant to be looked at.

    Args:
        path: any file Pillow can open. EXIF orientation is applied, alpha dropped, grey made RGB, 16 bit cut to 8.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UnreadableImage: the file is missing or cannot be decoded whole.
    """
    try:
        with Image.open(path) as image:
            return _to_rgb(_upright(image))
    except MemoryError:
        raise
    except FileNotFoundError:
        raise UnreadableImage(str(path), "the file does not exist") from None
    # Decoders raise almost anything on damaged bytes (OSError, SyntaxError, struct.error, zlib.error, ...).
    except Exception as error:
        raise UnreadableImage(str(path), f"it cannot be decoded ({type(error).__name__}: {error})") from None


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of a picture after EXIF orientation, from its header alone.

    Raises:
        UnreadableImage: the file is missing or no picture.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = _orientation(image) in _TURNED
    except FileNotFoundError:
        raise UnreadableImage(str(path), "the file does not exist") from None
    except Exception as error:
        raise UnreadableImage(str(path), f"it cannot be opened ({type(error).__name__}: {error})") from None
    return (width, height) if turned else (height, width)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # broken EXIF must not lose a good picture
        return 1


def _upright(image: Image.Image) -> Image.Image:
    if _orientation(image) == 1:
        return image
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        image.load()  # a damaged EXIF block is ignored, damaged pixels are not
        return image


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))
