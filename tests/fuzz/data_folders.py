"""Folders of images and labels drawn from a seed, and what `--data` makes of each.

As a program it prints counts: ``PYTHONPATH=. python tests/fuzz/data_folders.py [COUNT [FIRST]]``.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1] / "unit")]
from folders import MAKERS, make  # noqa: E402
from limits import answer, program  # noqa: E402
from values import ODD, put  # noqa: E402

from detrex_ext.data import CocoDataset, check_dataset  # noqa: E402
from detrex_ext.data.folders import prepare  # noqa: E402

_PICTURES = {".png", ".jpg"}
_WORDS = [
    *(b"nan", b"inf", b"-1", b"1e400", b"9" * 5000, b"0,5", b"", b"../../x", b"/etc/passwd", b"\xff\xfe", b"\0"),
    *(b"yes", b"&x;", b"<a>", b"*a", b"{", b"[" * 9999, "٣".encode(), b"99999999", b"0.5", b"!!python/name:os.system"),
]


def _changed(rng: random.Random, content: bytes) -> bytes:
    return bytes(byte if rng.random() > 0.02 else rng.randrange(256) for byte in content)


def _word(rng: random.Random, content: bytes) -> bytes:
    """One word or number is another."""
    found = list(re.finditer(rb"[\w.]+", content))
    if not found:
        return rng.choice(_WORDS)
    place = rng.choice(found)
    return content[: place.start()] + rng.choice(_WORDS) + content[place.end() :]


def _value(rng: random.Random, content: bytes) -> bytes:
    """Of JSON, any value is another."""
    try:
        data = json.loads(content)
    except ValueError:
        return _word(rng, content)
    for _ in range(rng.randint(1, 3)):
        put(rng, data, rng.choice(ODD))
    return json.dumps(data).encode("utf-8", "surrogatepass")


def _line(rng: random.Random, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True) or [b""]
    place = rng.randrange(len(lines))
    lines[place : place + 1] = rng.choice(([], [lines[place]] * 3, [rng.choice(_WORDS) + b"\n"], [b" ".join(lines)]))
    return b"".join(lines)


KINDS: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "changed bytes": _changed,
    "another word": _word,
    "another value": _value,
    "another line": _line,
    "cut": lambda rng, content: content[: rng.randrange(len(content) + 1)],
    "another coding": lambda rng, content: content.decode("utf-8", "replace").encode(
        rng.choice(("utf-16", "utf-32", "utf-8-sig", "latin-1")), "replace"),
    "entities": lambda rng, content: content.replace(b"?>", b'?><!DOCTYPE a [<!ENTITY x "xx">]>', 1),
    "nested deeply": lambda rng, content: rng.choice((b"[" * 10**5, b"<a>" * 10**5, b'{"images":' * 10**4)),
}  # fmt: skip


def mutant(seed: int, root: Path) -> str:
    """Makes a folder with one or more files changed, or one moved or gone; its kind."""
    rng = random.Random(seed)
    name = [*MAKERS][seed % len(MAKERS)]
    make(name, root)
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix.lower() not in _PICTURES)
    for path in rng.sample(files, min(len(files), rng.choice((1, 1, 2, len(files))))):
        how = rng.random()
        if how < 0.85:
            path.write_bytes(KINDS[rng.choice([*KINDS])](rng, path.read_bytes()))
        elif how < 0.9:
            path.unlink()
        elif how < 0.95:
            path.rename(path.with_name(f"{rng.choice(('train', 'val', 'x', 'data'))}{path.suffix}"))
        else:
            path.unlink()
            rng.choice((os.mkfifo, os.mkdir, lambda p: os.symlink("/dev/zero", p)))(path)
    return name


def use(root: Path) -> None:
    """All that is done with a folder before the first step."""
    found = prepare(root, root.parent / "out")
    for split, file in found.json.items():
        report = check_dataset(file, found.images[split])
        json.dumps(report.to_dict())
        dataset = CocoDataset(file, found.images[split])
        assert not report.errors or {f.kind for f in report.errors} <= {"no_boxes", "missing_file", "wrong_size"}
        inside = {os.path.realpath(root), os.path.realpath(root.parent / "images")}
        for record in dataset:
            path = os.path.realpath(record["file_name"])
            assert not os.path.exists(path) or any(path.startswith(folder) for folder in inside), path


def run(count: int, first: int = 0) -> tuple[Counter, list[str]]:
    """Counts by layout and answers, and what must not be, in words."""
    counts, wrong = Counter(), []
    with tempfile.TemporaryDirectory() as path:
        root = Path(path) / "set"
        for seed in range(first, first + count):
            shutil.rmtree(Path(path) / "images", ignore_errors=True)
            shutil.rmtree(Path(path) / "out", ignore_errors=True)
            name = mutant(seed, root)
            said = answer(lambda: use(root))
            counts[name, said] += 1
            if said not in ("taken", "refused"):
                wrong.append(f"seed {seed}, {name}: {said}")
                print(wrong[-1][:600], flush=True)
    return counts, wrong


if __name__ == "__main__":
    program(run, 2000)
