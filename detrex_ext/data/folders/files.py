"""Texts, JSON and XML of strangers, read within limits; nothing in them is run, and nothing else is opened by them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element
from xml.parsers import expat

_DEEPEST, _CHUNK, _HEAD, _LONGEST = 50, 1 << 20, 1 << 16, 100_000
_LINE = re.compile(r"\r\n|\r|\n")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?", re.ASCII)
# No image is larger; what is beyond is a mistake, and would overflow what is computed of it.
_FARTHEST = 1e7


class Unreadable(Exception):
    """Why a file cannot be used, in words."""


def read_bytes(path: Path, most: int) -> bytes:
    """The contents of a file of at most so many bytes.

    Raises:
        Unreadable: it is larger, no file, or cannot be opened.
    """
    if not path.is_file():  # a device or a pipe may never end
        raise Unreadable("expected a file, found a folder, device, pipe or dead link")
    try:
        with open(path, "rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise Unreadable(f"it cannot be opened: {error.strerror}") from None
    if len(data) > most:
        raise Unreadable(f"it has more than {most:,} bytes")
    return data


def read_text(path: Path, most: int = _CHUNK) -> str:
    """The text of a file: UTF-8, with or without a byte order mark, or UTF-16 with one.

    Raises:
        Unreadable: as `read_bytes`, or it is in another coding.
    """
    data = read_bytes(path, most)
    try:
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        raise Unreadable("it is no UTF-8 text; save it in that coding") from None


def read_lines(path: Path, most: int = _CHUNK) -> list[str]:
    """The lines that are not blank, without blanks around them; of any machine's line ends."""
    return [line.strip() for line in _LINE.split(read_text(path, most)) if line.strip()]


def read_any_json(path: Path, most: int) -> Any:
    """What a JSON file holds.

    Raises:
        Unreadable: as `read_bytes`, or it is none.
    """
    try:
        return json.loads(read_text(path, most))
    except RecursionError:
        raise Unreadable("it is nested too deeply") from None
    except ValueError as error:
        raise Unreadable(f"it is no valid JSON: {error}") from None


def number(text: Any) -> float | None:
    """The number that a text is, with a decimal point in every locale; None where it is none, or lies on no image."""
    if isinstance(text, int | float) and not isinstance(text, bool):
        return float(text) if abs(text) <= _FARTHEST else None
    if not isinstance(text, str) or len(text) > 40 or not _NUMBER.fullmatch(text.strip()):
        return None
    value = float(text)
    return value if abs(value) <= _FARTHEST else None


def xml_root(path: Path) -> str:
    """The name of the outermost element; "" where the file is none, or no XML."""
    if not path.is_file():
        return ""
    found: list[str] = []
    parser = _parser()
    parser.StartElementHandler = lambda name, _: found.append(name)
    try:
        with open(path, "rb") as file:
            parser.Parse(file.read(_HEAD), False)
    except (OSError, Unreadable, expat.ExpatError, ValueError, LookupError):
        pass  # what was seen before counts
    return found[0] if found else ""


def xml_children(path: Path, most: int) -> Iterator[Element]:
    """The elements inside of the outermost one, each given when it is read, so that a large file needs no memory.

    Entities are refused where they are declared, so none is ever replaced; expat opens nothing by itself.

    Raises:
        Unreadable: no XML, too large, too deep, or with entities.
    """
    if not path.is_file():
        raise Unreadable("expected a file, found a folder, device, pipe or dead link")
    if path.stat().st_size > most:
        raise Unreadable(f"it has more than {most:,} bytes")
    tree = _Tree()
    parser = _parser()
    parser.StartElementHandler, parser.EndElementHandler = tree.start, tree.end
    parser.CharacterDataHandler, parser.buffer_text = tree.text, True
    try:
        with open(path, "rb") as file:
            while data := file.read(_CHUNK):
                parser.Parse(data, False)
                yield from tree.take()
        parser.Parse(b"", True)
        yield from tree.take()
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise Unreadable(f"it is no valid XML: {error}") from None
    except OSError as error:
        raise Unreadable(f"it cannot be opened: {error.strerror}") from None


def _parser() -> Any:
    def refuse(*_: object) -> None:
        raise Unreadable("it declares entities, which no label file needs")

    parser = expat.ParserCreate()
    parser.EntityDeclHandler = refuse
    return parser


class _Tree:
    """Elements as they are read; those inside of the outermost one are handed out whole."""

    def __init__(self) -> None:
        self._open: list[Element] = []
        self._done: list[Element] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._open) >= _DEEPEST:
            raise Unreadable(f"it is nested more than {_DEEPEST} deep")
        element = Element(name, attributes)
        if len(self._open) > 1:
            self._open[-1].append(element)
        self._open.append(element)

    def end(self, _: str) -> None:
        element = self._open.pop()
        if len(self._open) == 1:
            self._done.append(element)

    def text(self, data: str) -> None:
        if len(self._open) < 2 or len(self._open[-1]):
            return
        self._open[-1].text = text = (self._open[-1].text or "") + data
        if len(text) > _LONGEST:
            raise Unreadable(f"a text in it has more than {_LONGEST:,} letters")

    def take(self) -> list[Element]:
        done, self._done = self._done, []
        return done
