"""Which images and videos `predict` reads, and where it writes to."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable
from pathlib import Path

from detrex_ext.errors import UserError
from detrex_ext.predicting.files import SUFFIXES, VIDEO_SUFFIXES, media

from .outputs import in_run

_OF_FRAME = re.compile(r"_[0-9]{6,}$")


def output_of(given: str | None, model: str) -> Path:
    """The folder to write to; made when there is something to write.

    Raises:
        UserError: something else is there, a link, or none is named for a model from elsewhere.
    """
    if not given and "://" in model:
        raise UserError("--output DIR: name a folder for what is written")
    run = model if os.path.isdir(model) else os.path.dirname(model)
    output = Path(given) if given else in_run(run, "predictions")
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output}: expected a folder, found a file")
    return output


def find_images(inputs: list[str]) -> list[Path]:
    """The images and videos that files, folders (not below them) and globs name, each once, sorted within an input.

    A folder or glob with images and videos stands for the images.

    Raises:
        UserError: an input that names none.
    """
    found: dict[Path, None] = {}
    for given in inputs:
        path = Path(given)
        if path.is_file():
            files = [path]
        elif path.is_dir():
            files = media(path.iterdir())
        else:
            files = media(map(Path, glob.glob(given, recursive=True)))
        if not files:
            what = "the folder has none" if path.is_dir() else "no such file or folder, and nothing fits it as a glob"
            camera = f"\n  for a camera: --webcam {given}" if given.isdecimal() else ""
            ends = f"expected files ending with {' '.join(SUFFIXES)}, or videos with {' '.join(VIDEO_SUFFIXES)}"
            raise UserError(f"no images in {given}: {what}\n  {ends}{camera}")
        found |= dict.fromkeys(files)
    return list(found)


def names_of(images: Iterable[Path], moving: Iterable[Path] = ()) -> list[str]:
    """What is written of each file is called: its own name without the ending, numbered where two are named the same.

    Names that differ in case alone are the same: some disks say so. What has frames is not called so that what is
    written of one would be called as that of an image.
    """
    taken: set[str] = set()
    names = [_free(file, taken) for file in images]
    # crops of frame 12 of "a" are a_000012_1.png, as of an image a_000012; its labels lie in a folder named "a"
    taken |= {_OF_FRAME.sub("", name) for name in taken} | {f"{name}.txt" for name in taken}
    return names + [_free(file, taken) for file in moving]


def _free(file: Path, taken: set[str]) -> str:
    stem = file.stem if file.stem.strip(".") else "frames"
    name, number = stem, 1
    while name.lower() in taken:
        number += 1
        name = f"{stem}_{number}"
    taken.add(name.lower())
    return name


def check_targets(targets: Iterable[Path], files: Iterable[Path]) -> None:
    """Refuses to write over what is read, and where a folder is.

    Raises:
        UserError: naming the first such file.
    """
    sources = {path.resolve() for path in files}
    for target in targets:
        if target.resolve() in sources:
            raise UserError(f"{target} is an input and would be overwritten\n  choose another --output folder")
        if target.is_dir():
            raise UserError(f"{target} is to be a file, and a folder is there\n  choose another --output folder")
