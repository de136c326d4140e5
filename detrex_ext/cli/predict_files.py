"""Which images `predict` reads, and where it writes to."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from detrex_ext.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".avif")


def output_of(given: str | None, model: str) -> Path:
    """The folder to write to; made when there is something to write.

    Raises:
        UserError: something else is there, or none is named for a model from elsewhere.
    """
    if not given and "://" in model:
        raise UserError("--output DIR: name a folder for what is written")
    run = model if os.path.isdir(model) else os.path.dirname(model)
    output = Path(given or os.path.join(run, "predictions"))
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output}: expected a folder, found a file")
    return output


def find_images(inputs: list[str]) -> list[Path]:
    """The images that files, folders (not below them) and globs name, each once, sorted within an input.

    Raises:
        UserError: an input that names none.
    """
    found: dict[Path, None] = {}
    for given in inputs:
        path = Path(given)
        if path.is_file():
            files = [path]
        elif path.is_dir():
            files = _images(path.iterdir())
        else:
            files = _images(map(Path, glob.glob(given, recursive=True)))
        if not files:
            what = "the folder has none" if path.is_dir() else "no such file or folder, and nothing fits it as a glob"
            raise UserError(f"no images in {given}: {what}\n  expected files ending with {' '.join(SUFFIXES)}")
        found |= dict.fromkeys(files)
    return list(found)


def _images(paths: Iterable[Path]) -> list[Path]:
    # ._name: what macOS keeps beside a file on a disk of another system
    named = (p for p in paths if p.suffix.lower() in SUFFIXES and not p.name.startswith("._"))
    return sorted(p for p in named if p.is_file())


def targets_of(files: list[Path], output: Path) -> list[Path]:
    """Where each drawn image goes: the file's name as PNG, numbered where two are named the same.

    Raises:
        UserError: one would replace an input.
    """
    sources = {p.resolve() for p in files}
    taken: set[str] = set()
    targets = []
    for file in files:
        name, number = file.stem, 1
        while name.lower() in taken:
            number += 1
            name = f"{file.stem}_{number}"
        taken.add(name.lower())
        target = output / f"{name}.png"
        if target.resolve() in sources:
            raise UserError(f"{target} is an input and would be overwritten\n  choose another --output folder")
        targets.append(target)
    return targets
