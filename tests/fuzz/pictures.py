"""Pictures drawn from a seed, and what reading them makes of each.

As a program it prints counts: ``PYTHONPATH=. python tests/fuzz/pictures.py [COUNT [FIRST]]``.
"""

from __future__ import annotations

import io
import os
import random
import struct
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent))
from limits import answer, program  # noqa: E402

from detrex_ext.data.read import image_size, read_image  # noqa: E402

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
MODES = ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I", "F", "I;16", "YCbCr")


def _picture(rng: random.Random) -> bytes:
    pixels = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (rng.randint(1, 40), rng.randint(1, 40), 3))
    out, image = io.BytesIO(), Image.fromarray(pixels.astype(np.uint8))
    image.save(out, rng.choice(FORMATS))
    return out.getvalue()


def _mode(rng: random.Random) -> bytes:
    for _ in range(50):
        out = io.BytesIO()
        try:
            Image.new(rng.choice(MODES), (rng.randint(1, 30), rng.randint(1, 30))).save(out, rng.choice(FORMATS))
            return out.getvalue()
        except (OSError, ValueError, KeyError):
            continue
    return b""


def _changed(rng: random.Random) -> bytes:
    share = rng.choice((0.001, 0.01, 0.2))
    return bytes(byte if rng.random() > share else rng.randrange(256) for byte in _picture(rng))


def _cut(rng: random.Random) -> bytes:
    content = _picture(rng)
    return content[: rng.randrange(len(content))]


def _rotated(rng: random.Random) -> bytes:
    image, out = Image.new("RGB", (7, 5)), io.BytesIO()
    exif = image.getexif()
    exif[0x0112] = rng.choice((0, 1, 2, 3, 5, 6, 8, 9, 300))
    image.save(out, "JPEG", exif=exif)
    content = out.getvalue()
    at = rng.randrange(20, 40)
    return content if rng.random() < 0.5 else content[:at] + os.urandom(3) + content[at + 3 :]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _huge(rng: random.Random) -> bytes:
    """A few bytes that stand for gigabytes."""
    width, height = rng.choice(((12_000, 12_000), (2**31 - 1, 2**31 - 1), (10**6, 10**6), (100_001, 1001), (1, 2**30)))
    header = struct.pack(">IIBBBBB", width, height, 8, rng.choice((0, 2, 6)), 0, 0, 0)
    data = zlib.compress(bytes(10**6))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _text(rng: random.Random) -> bytes:
    """A text chunk that unpacks to 200 MB."""
    bomb = b"k\0\0" + zlib.compress(bytes(2 * 10**8), 1) if rng.random() < 0.1 else b"k\0\0" + zlib.compress(b"x" * 99)
    return _picture_png()[:33] + _chunk(b"zTXt", bomb) + _picture_png()[33:]


def _picture_png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4)).save(out, "PNG")
    return out.getvalue()


KINDS: dict[str, Callable[[random.Random], bytes]] = {
    "sound": _picture,
    "of any mode": _mode,
    "changed bytes": _changed,
    "cut": _cut,
    "turned": _rotated,
    "huge": _huge,
    "with a text": _text,
    "no picture": lambda rng: rng.choice((b"", b"\0" * 100, os.urandom(300), b"<svg/>", b"%PDF-1.4", b"%!PS-Adobe")),
}


def run(count: int, first: int = 0) -> tuple[Counter, list[str]]:
    """Counts by kind and answers, and what must not be, in words."""
    counts, wrong = Counter(), []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.png"
        for seed in range(first, first + count):
            kind = list(KINDS)[seed % len(KINDS)]
            path.write_bytes(KINDS[kind](random.Random(seed)))
            size, whole = answer(lambda: image_size(path)), answer(lambda: read_image(path))
            counts[kind, whole] += 1
            wanted = {"huge": "refused", "no picture": "refused", "sound": "taken"}.get(kind, whole)
            if {size, whole} - {"taken", "refused"} or whole != wanted:
                wrong.append(f"seed {seed}, {kind}: size {size}, whole {whole}")
    return counts, wrong


if __name__ == "__main__":
    program(run, 200)
