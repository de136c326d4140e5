"""Data of benchmarks/value.py: a selection split that is cut from the training part, and the reported split."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from detrex_ext.data import shapes

SHARE, SEED = 0.2, 0
GENERATED = {"shapes": False, "hard": True}


@dataclass(frozen=True)
class Data:
    """A data set in three parts: what is trained on, what decides, and what is reported.

    Attributes:
        name: of the tables.
        config: that suits it.
        overrides: of that config, for any training.
        images: folder.
        train, select, report: COCO files.
    """

    name: str
    config: str
    overrides: tuple[str, ...]
    images: Path
    train: Path
    select: Path
    report: Path

    def paths(self, evaluated: Path) -> list[str]:
        """Overrides for training, and evaluation on one of the parts."""
        return [f"dataset.train_json={self.train}", f"dataset.train_images={self.images}",
                f"dataset.val_json={evaluated}", f"dataset.val_images={self.images}"]  # fmt: skip


def cut(source: Path, folder: Path, share: float = SHARE, seed: int = SEED) -> tuple[Path, Path]:
    """Cuts a selection split from a training set: the same images whenever the file holds the same.

    Args:
        source: COCO file.
        folder: where ``train.json`` and ``select.json`` go.
        share: of the images that the selection split gets, at least one; and one stays.
        seed: of the choice.

    Raises:
        SystemExit: fewer than two images.
    """
    whole = json.loads(source.read_text(encoding="utf-8"))
    images = sorted(image["id"] for image in whole["images"])
    if len(images) < 2:
        raise SystemExit(f"{source}: {len(images)} images, of which no selection split can be cut")
    random.Random(seed).shuffle(images)
    chosen = set(images[: min(max(round(share * len(images)), 1), len(images) - 1)])
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / "train.json", folder / "select.json"
    for file, selected in zip(files, (False, True), strict=True):
        part = {**whole, "images": [x for x in whole["images"] if (x["id"] in chosen) == selected],
                "annotations": [x for x in whole["annotations"] if (x["image_id"] in chosen) == selected]}  # fmt: skip
        file.write_text(json.dumps(part) + "\n", encoding="utf-8")
    return files


def prepare(text: str, output: Path, images: int) -> Data:
    """The data set that a word of the command line means.

    Args:
        text: ``shapes``, ``hard``, or ``NAME=FOLDER`` with ``train.json``, ``val.json`` and ``images``.
        output: where generated sets and cut files go.
        images: of the training part of a generated set; a quarter as many are reported on.

    Raises:
        SystemExit: no such set, or files are missing.
    """
    name, _, folder = text.partition("=")
    own = output / "data" / name
    if not folder and name not in GENERATED:
        raise SystemExit(f"--data {text}: expected {', '.join(GENERATED)} or NAME=FOLDER")
    if folder:
        root, config, more = Path(folder).resolve(), "photos.py", ("train.minutes=null",)
    else:
        root = shapes.write(own / "set", images, max(images // 4, 1), hard=GENERATED[name]).resolve()
        config, more = "quickstart.py", ()
    files = [next((f for f in (root / n, root / f"instances_{n}") if f.is_file()), root / n)
             for n in ("train.json", "val.json")]  # fmt: skip
    if missing := [str(f) for f in (*files, root / "images") if not f.exists()]:
        raise SystemExit(f"--data {text}: {', '.join(missing)} not found")
    train, select = cut(files[0], own.resolve())
    return Data(name, f"configs/{config}", more, root / "images", train, select, files[1])
