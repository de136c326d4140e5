"""Reading images from disk, RGB, 8 bit, upright, and checking that they can be."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from detrex_ext.data.file_names import FileNames
from detrex_ext.data.report import Report
from detrex_ext.errors import UserError
from detrex_ext.runtime import machine

# EXIF orientations that exchange width and height.
_TURNED = {5, 6, 7, 8}
_ORIENTATION_TAG = 0x0112
_PROGRESS_EVERY = 2000
_NEARLY_BLACK = 16  # what 12 bits in a file of 16 stay below
MOST_PIXELS = "DETREX_EXT_MAX_MEGAPIXELS"
"""Environment variable: millions of pixels that an image may have. A file of kilobytes may stand for gigabytes."""
_MEGAPIXELS = 100.0


class UnreadableImage(UserError):
    """A image that cannot be used: missing, not decodable, or of another size than its JSON says."""

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = str(path), reason
        super().__init__(f"image cannot be used: {path}\n  {reason}")

    def __reduce__(self) -> tuple:
        return type(self), (self.path, self.reason)


def read_image(path: str | Path) -> np.ndarray:
    """Read an image as it is meant to be looked at.

    Args:
        path: any file Pillow can open. EXIF orientation is applied, alpha dropped, gray made RGB, 16 bit cut to 8;
            32-bit numbers have no known range and are refused.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UnreadableImage: the file is missing or cannot be decoded whole.
    """
    with _named(str(path), "decoded"), _open(path) as image:
        return _to_rgb(image)


def rgb_of(image: Image.Image) -> np.ndarray:
    """As `read_image`, of an image that is open already."""
    with _named(getattr(image, "filename", "") or f"a Pillow image of mode {image.mode}", "decoded"):
        return _to_rgb(image)


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of an image after EXIF orientation, from its header alone.

    Raises:
        UnreadableImage: the file is missing or no image.
    """
    with _named(str(path), "opened"), _open(path) as image:
        width, height = image.size
        return (width, height) if _orientation(image) in _TURNED else (height, width)


def check_files(entries: Sequence[dict], report: Report, decode: bool) -> None:
    """Add the image files that cannot be used to the report; progress goes to standard error.

    Args:
        entries: dicts of file_name, relative to `report.images`, height and width (None: not known).
        report: takes the faults.
        decode: decode every file whole; False: only open them (header and size).
    """

    def look(entry: dict) -> tuple[str, str] | None:
        path = str(Path(report.images) / entry["file_name"])
        if not os.path.isfile(path):
            return "missing_file", ""
        try:
            pixels = read_image(path) if decode else None
            height, width = image_size(path) if pixels is None else pixels.shape[:2]
        except UnreadableImage as error:
            return "unreadable_file", f"{path}: {error.reason}"
        wanted = entry["height"], entry["width"]
        if None not in wanted and wanted != (height, width):
            return "wrong_size", f"{path}: the file is {width} x {height}, the JSON says {wanted[1]} x {wanted[0]}"
        dark = pixels is not None and 0 < pixels.max() < _NEARLY_BLACK
        return ("nearly_black", f"{path}: at most {pixels.max()}") if dark else None

    missing: list[str] = []
    # Decoding releases the interpreter's lock, so threads are enough.
    with ThreadPoolExecutor(max_workers=min(16, machine.cores())) as pool:
        for number, fault in enumerate(pool.map(look, entries), start=1):
            if number % _PROGRESS_EVERY == 0:
                print(f"{number} of {len(entries)} images", file=sys.stderr)
            if fault and fault[0] == "missing_file":
                missing.append(entries[number - 1]["file_name"])
            elif fault:
                report.add(*fault)
    add_missing([entry["file_name"] for entry in entries], missing, report)


def add_missing(names: Sequence[str], missing: Sequence[str], report: Report) -> None:
    """Add the files that are missing to the report, and whether they are there under another name.

    Args:
        names: all that the annotation file names.
        missing: those that `report.images` does not hold.
        report: takes the faults.
    """
    absent = set(missing)
    files = FileNames(report.images, [name for name in names if name not in absent])
    found = {name: files.find(name) for name in absent}
    lost = [str(Path(report.images) / name) for name in missing if found[name] is None]
    for path in lost:
        report.add("missing_file", path, len(lost), len(names), report.images)
    for name in (n for n in missing if found[n] is not None):
        report.add("misnamed_file", f"{name!r} is {found[name]!r} in {report.images}")


@contextmanager
def _named(path: str, done: str) -> Iterator[None]:
    """Turns what goes wrong inside into an `UnreadableImage` of that name."""
    try:
        yield
    except (MemoryError, UserError):
        raise
    except FileNotFoundError:
        raise UnreadableImage(path, "the file does not exist") from None
    # Decoders raise almost anything on damaged bytes (OSError, SyntaxError, struct.error, zlib.error, ...).
    except Exception as error:
        raise UnreadableImage(path, f"it cannot be {done} ({type(error).__name__}: {error})") from None


def _open(path: str | Path) -> Image.Image:
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError("expected a file, found a folder, device or pipe")  # the latter two may never end
    most = most_pixels()
    try:
        image = Image.open(path)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{error}; {MOST_PIXELS}=N allows N millions of pixels") from None
    width, height = image.size
    if not width * height <= most:
        image.close()
        found = f"{width} x {height} pixels, more than {most / 1e6:g} millions"
        raise ValueError(f"{found}; {MOST_PIXELS}=N allows N millions")
    return image


def most_pixels() -> float:
    """How many an image may have; where somebody asks for more than Pillow's own limit, that is raised."""
    given = os.environ.get(MOST_PIXELS)
    try:
        most = float(given or _MEGAPIXELS) * 1e6
    except ValueError:
        raise UserError(f"{MOST_PIXELS}={given}: expected a number of millions") from None
    if given and Image.MAX_IMAGE_PIXELS is not None and Image.MAX_IMAGE_PIXELS < most:
        Image.MAX_IMAGE_PIXELS = int(min(most, 2**62))
    return most


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # broken EXIF must not lose a good image
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
    # Pillow holds 16 bit of these two formats as 32-bit integers.
    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if image.mode in ("I", "F") and not deep:
        raise ValueError("32 bit per pixel have no known range; save it with 8 or 16")
    image = _upright(image)
    if deep:
        gray = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))
