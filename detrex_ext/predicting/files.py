"""Which files are images, which are videos, and in which order a folder has them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".avif")
VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".m2ts", ".mts", ".3gp", ".ogv"
)  # fmt: skip


def is_video(path: Path) -> bool:
    """By its name."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def media(paths: Iterable[Path]) -> list[Path]:
    """The images among files, or where there is none the videos, as people count: ``2.png`` before ``10.png``."""
    # ._name: what macOS keeps beside a file on a disk of another system
    files = [path for path in paths if path.is_file() and not path.name.startswith("._")]
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    return sorted(images or filter(is_video, files), key=_counted)


def _counted(path: Path) -> tuple:
    """What is between numbers compared as text, and numbers as such; then by the letters."""
    text = str(path)
    parts = re.split(r"([0-9]+)", text)
    return [(part.casefold(), 0) if i % 2 == 0 else ("", int(part)) for i, part in enumerate(parts)], text
