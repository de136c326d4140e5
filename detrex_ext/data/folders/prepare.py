"""From a folder of any form to COCO files that a training reads."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from detrex_ext.data.folders.documents import Reading
from detrex_ext.data.folders.listing import DECISIONS
from detrex_ext.data.folders.recognise import read_folder
from detrex_ext.data.folders.splitting import split
from detrex_ext.errors import UserError

SPLITS = ("train", "val", "test")


@dataclass
class Prepared:
    """Where the COCO files of a folder are.

    Attributes:
        json: annotation file of each split that there is.
        images: image folder of each.
        decisions: what was decided, in words.
        folder: holds the files that were written, and the decisions.
    """

    decisions: str
    folder: Path
    json: dict[str, str] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)

    def of(self, name: str) -> tuple[str, str]:
        """(annotation file, image folder) of a split.

        Raises:
            UserError: there is none.
        """
        if name not in self.json:
            raise UserError(f"no images for {name}: the folder has {', '.join(self.json) or 'none'}\n  "
                            + self.decisions.replace("\n", "\n  "))  # fmt: skip
        return self.json[name], self.images[name]


def prepare(
    data: str | os.PathLike,
    out: str | os.PathLike,
    seed: int = 0,
    images: str | os.PathLike | None = None,
    named: bool = True,
) -> Prepared:
    """Reads a folder and writes a COCO file for each split, with what was decided.

    The folder written to is named by what is in it: equal data give the same one, and nothing is ever written over.

    Args:
        data: the folder, or the file in it that describes it: data.yaml, a COCO file.
        out: folder to write to.
        seed: of the choice of validation images, where the folder has none.
        images: folder of the images, where they are not below `data`.
        named: False: the files go to `out` itself, which must not hold others.

    Raises:
        UserError: the folder is not recognised or cannot be used, or nothing can be written.
    """
    root, only = _root(str(data))
    if images is not None and not Path(images).is_dir():
        raise UserError(f"--data-images {images}: expected a folder of images")
    reading = read_folder(root, None if images is None else Path(images), only)
    documents = split(reading.documents, seed, reading.notes)
    if not {"train", "val"} & set(documents):  # the one set of a folder is what is looked at
        documents = {"val": documents.popitem()[1]}
    files = {name: found for name, found in reading.files.items() if documents.get(name) is reading.documents[name]}
    for name in [name for name in SPLITS if name in documents]:
        count = len(documents[name]["images"])
        where = f", {files[name][0].relative_to(root).as_posix()} as it is" if name in files else ""
        reading.notes.say(f"{name}: {count} images{where}" + (", not trained with" if name == "test" else ""))
    return _write(reading, documents, files, Path(out), named, root)


def _root(data: str) -> tuple[Path, str]:
    """The folder, and the file in it that was named."""
    path = Path(os.path.abspath(os.path.expanduser(data)))
    if path.is_dir():
        return path, ""
    if "://" in data:
        raise UserError(f"--data {data}: an address; download and unpack it, and name the folder")
    if path.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".rar", ".7z"):
        raise UserError(f"--data {data}: unpack it, and name the folder")
    if path.is_file():
        return path.parent, path.name
    near = next(parent for parent in path.parents if parent.is_dir())
    held = sorted(entry.name for entry in near.iterdir())[:8] if os.access(near, os.R_OK) else []
    raise UserError(f"--data {data}: no such folder\n  {near} holds {', '.join(held) or 'nothing'}")


def _write(
    reading: Reading,
    documents: dict[str, dict],
    files: dict[str, tuple[Path, Path]],
    out: Path,
    named: bool,
    root: Path,
) -> Prepared:
    decisions = reading.notes.text().encode("utf-8", "backslashreplace").decode()
    texts = {name: json.dumps(d) + "\n" for name, d in documents.items() if name not in files}
    content = "\0".join([decisions, *(f"{name}\0{text}" for name, text in sorted(texts.items()))])
    folder = Path(os.path.abspath(out))
    if named:
        folder = folder / f"data-{hashlib.sha256(content.encode()).hexdigest()[:8]}"
    elif folder.is_dir() and any(folder.iterdir()) and not (folder / DECISIONS).is_file():
        raise UserError(f"--output {out}: the folder holds other files\n  name one that is empty or not there")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            _put(folder / f"{name}.json", text)
        _put(folder / DECISIONS, f"{root}\n{decisions}\n")  # last: what holds it is whole
    except OSError as error:
        raise UserError(f"{folder}: the data cannot be written there: {error.strerror}") from None
    found = Prepared(decisions, folder)
    for name in [name for name in SPLITS if name in documents]:
        file, images = files.get(name, (folder / f"{name}.json", reading.images))
        found.json[name], found.images[name] = str(file), os.path.abspath(images)
    return found


def _put(path: Path, text: str) -> None:
    """Writes a file whole, if it is not there as it should be: processes of one training do so at once."""
    data = text.encode("utf-8", "backslashreplace")
    if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
        return
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".saving-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
