"""Annotation files drawn from a seed, and what ``check`` and a training make of each.

As a program it prints counts: ``PYTHONPATH=. python tests/fuzz/jsons.py [COUNT [FIRST]]``.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent))
from limits import answer, program  # noqa: E402
from values import ODD, put  # noqa: E402

from detrex_ext.data import CocoDataset, DetrMapper, check_before_training, check_dataset  # noqa: E402
from detrex_ext.errors import UserError  # noqa: E402
from detrex_ext.evaluation import CocoEvaluator  # noqa: E402
from detrex_ext.runtime import Boxes, Instances  # noqa: E402

SIZE = 24


def sound() -> dict[str, Any]:
    """An annotation file of three images."""
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": SIZE, "height": SIZE} for i in range(3)],
        "annotations": [
            {"id": i, "image_id": i % 3, "category_id": 1 + i % 2, "bbox": [2.0, 3.0, 9.0, 8.0 + i],
             "area": 72.0 + 9 * i, "iscrowd": 0} for i in range(5)
        ],
        "categories": [{"id": 1, "name": "bolt"}, {"id": 2, "name": "nut"}],
    }  # fmt: skip


def _any(rng: random.Random, data: dict) -> None:
    for _ in range(rng.randint(1, 3)):
        put(rng, data, copy.deepcopy(rng.choice(ODD)))


def _entry(key: str, field: str, *values: Any) -> Callable[[random.Random, dict], None]:
    def change(rng: random.Random, data: dict) -> None:
        entry = rng.choice(data[key])
        value = rng.choice(values) if values else None
        entry.pop(field) if not values else entry.update({field: value})

    return change


def _id_of_all(rng: random.Random, data: dict) -> None:
    """An id beyond what any counter has, in both places."""
    huge = rng.choice((2**63, 2**64, 10**30, -(2**63) - 1, 10**400))
    data["images"][0]["id"] = huge
    for ann in data["annotations"]:
        ann["image_id"] = huge if ann["image_id"] == 0 else ann["image_id"]


def _category_of_all(rng: random.Random, data: dict) -> None:
    huge = rng.choice((2**63, 2**64, 10**30, -1, 10**400))
    data["categories"][0]["id"] = huge
    for ann in data["annotations"]:
        ann["category_id"] = huge if ann["category_id"] == 1 else ann["category_id"]


KINDS: dict[str, Callable[[random.Random, dict], None]] = {
    "any value": _any,
    "no image_id": _entry("annotations", "image_id"),
    "a huge number": _entry("annotations", "image_id", 2**63, 10**30),
    "a huge id of an image": _id_of_all,
    "a huge id of a class": _category_of_all,
    "a huge box": _entry("annotations", "bbox", [0, 0, 10**30, 1], [2**63, 0, 1, 1], [1e308] * 4, [0, 0, 1e-300, 1]),
    "a name that leads out": _entry(
        *("images", "file_name", "/dev/zero", "/dev/stdin", "/etc/passwd"),
        *("../outside.png", "a/../../outside.png", "OUTSIDE"),
    ),
    "a pipe": _entry("images", "file_name", "pipe.png", "./pipe.png"),
    "a huge image": _entry("images", "file_name", "huge.png"),
    "a folder": _entry("images", "file_name", ".", "", "folder", "\0", "0.png\0", "y" * 5000),
}
TEXTS: dict[str, Callable[[random.Random, str], bytes]] = {
    "5,000 digits": lambda rng, text: text.replace("24", "1" + "0" * 5000, 1).encode(),
    "nested deeply": lambda rng, text: text.replace("72.0", "[" * 10**5 + "]" * 10**5, 1).encode(),
    "cut": lambda rng, text: text.encode()[: rng.randrange(len(text))],
    "changed bytes": lambda rng, text: bytes(b if rng.random() > 0.01 else rng.randrange(256) for b in text.encode()),
    "another coding": lambda rng, text: text.encode(rng.choice(("utf-16", "utf-32", "utf-8-sig"))),
    "another type": lambda rng, text: rng.choice((b"", b"[]", b"null", b"3", b'"x"', b"{}", b'{"images": {}}', b"NaN")),
}


def mutant(seed: int) -> tuple[str, bytes]:
    """(kind, contents) of an annotation file."""
    rng, data = random.Random(seed), sound()
    kind = [*KINDS, *TEXTS][seed % (len(KINDS) + len(TEXTS))]
    if kind in KINDS:
        KINDS[kind](rng, data)
        return kind, json.dumps(data).encode("utf-8", "surrogatepass")
    return kind, TEXTS[kind](rng, json.dumps(data))


class Folder:
    """Pictures that the files name, and where a file is put."""

    def __init__(self, path: Path) -> None:
        self.images = path / "images"
        (self.images / "folder").mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.full((SIZE, SIZE, 3), 40 * i, np.uint8)).save(self.images / f"{i}.png")
        self.outside = path / "outside.png"
        Image.new("RGB", (SIZE, SIZE)).save(self.outside)
        Image.new("1", (12_000, 12_000)).save(self.images / "huge.png")
        os.mkfifo(self.images / "pipe.png")
        self.json = path / "a.json"

    def __call__(self, content: bytes) -> tuple[str, str]:
        """(what ``check`` says, what a training says), each "taken", "refused", or what must not be."""
        self.json.write_bytes(content.replace(b"OUTSIDE", os.fsencode(self.outside)))
        return answer(self.check), answer(self.train)

    def check(self) -> None:
        report = check_dataset(self.json, self.images)
        json.dumps(report.to_dict())
        if report.errors:
            raise UserError(report.text()[:10_000])

    def train(self) -> None:
        """What a training reads before its first step, every picture, and an evaluation."""
        dataset = CocoDataset(self.json, self.images)
        check_before_training(dataset)
        mapper, evaluator = DetrMapper([], is_train=True), CocoEvaluator(self.json)
        for i in range(len(dataset)):
            sample = mapper(dataset[i], np.random.default_rng(0))
            found = Instances((SIZE, SIZE), pred_boxes=Boxes(torch.tensor([[2.0, 3, 11, 11]])))
            found.scores, found.pred_classes = torch.ones(1), torch.zeros(1, dtype=torch.int64)
            evaluator.process([sample], [{"instances": found}])
        with contextlib.redirect_stdout(io.StringIO()):
            evaluator.evaluate()


def run(count: int, first: int = 0) -> tuple[Counter, list[str]]:
    """Counts by kind and answers, and what must not be, in words."""
    counts, wrong = Counter(), []
    with tempfile.TemporaryDirectory() as path:
        folder = Folder(Path(path))
        assert folder(json.dumps(sound()).encode()) == ("taken", "taken")
        for seed in range(first, first + count):
            kind, content = mutant(seed)
            checked, trained = folder(content)
            counts[kind, checked] += 1
            if checked != trained or checked not in ("taken", "refused"):
                wrong.append(f"seed {seed}, {kind}: check {checked}, train {trained}: {content[:300]!r}")
                print(wrong[-1][:600], flush=True)
    return counts, wrong


if __name__ == "__main__":
    program(run, 2000)
