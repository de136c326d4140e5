"""How `predict` writes what it found: JSON, COCO, YOLO, CSV; all of what a run finds, as it comes."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import yaml

from .predict_options import FORMATS

if TYPE_CHECKING:
    from detrex_ext.predicting.found import Found

COLUMNS = ("file", "frame", "time", "width", "height", "class", "score", "x1", "y1", "x2", "y2")
# With these a spreadsheet begins a formula; an apostrophe makes it text, and itself too, so that it can be taken off.
_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠']")


class Row(NamedTuple):
    """What is told of an image, or of a frame.

    Attributes:
        file: of the image, the video or its frames.
        name: what is written of it is called.
        about: ``file``, of a frame ``frame`` and ``time``, ``width``, ``height``, ``boxes`` (XYXY in pixels),
            ``scores`` and ``classes`` (names); rounded.
        classes: indices.
    """

    file: Path
    name: str
    about: dict[str, Any]
    classes: list[int]

    @property
    def objects(self) -> list[tuple[list[float], float, str, int]]:
        """(box, score, class, its index) of each."""
        about = self.about
        return list(zip(about["boxes"], about["scores"], about["classes"], self.classes, strict=True))


def row_of(file: Path, name: str, found: Found) -> Row:
    """What is told of an answer."""
    height, width = found.image_size
    of_frame = {} if found.frame is None else {"frame": found.frame, "time": round(found.time, 4)}
    about = {
        "file": os.fspath(file),
        **of_frame,
        "width": width,
        "height": height,
        "boxes": [[round(v, 2) for v in box] for box in found.pred_boxes.tensor.tolist()],
        "scores": [round(v, 4) for v in found.scores.tolist()],
        "classes": found.names,
    }
    return Row(file, name, about, found.pred_classes.tolist())


class JsonFormat:
    """`predictions.json`, a list of images; of a video a line for each frame, `NAME.jsonl`, there when it was found."""

    def __init__(self, folder: Path, class_names: Sequence[str], category_ids: Sequence[int]) -> None:
        self.folder = folder
        self._images: list[dict] = []
        self._lines: dict[str, TextIO] = {}

    def add(self, row: Row) -> None:
        """Takes a row; one of a frame is written at once."""
        if "frame" not in row.about:
            self._images.append(row.about)
            return
        if row.name not in self._lines:
            self._lines[row.name] = open(self.folder / f"{row.name}.jsonl", "w", encoding="utf-8")
        print(json.dumps(row.about), file=self._lines[row.name], flush=True)

    def close(self) -> list[Path]:
        """Writes what is left; the files."""
        from detrex_ext.checkpoint.files import write_json

        for file in self._lines.values():
            file.close()
        written = [Path(file.name) for file in self._lines.values()]
        if self._images:
            written.insert(0, self.folder / FORMATS["json"])
            write_json(self._images, written[0])
        return written


class CocoFormat:
    """`coco.json`: images, categories, and annotations with a score, as COCO's own files have them."""

    def __init__(
        self,
        folder: Path,
        class_names: Sequence[str],
        category_ids: Sequence[int],
        id_of: Callable[[Path], int | str | None] = lambda _: None,
        next_id: int = 1,
    ) -> None:
        self.path = folder / FORMATS["coco"]
        self.ids = list(category_ids) or list(range(1, len(class_names) + 1))
        self.names, self._id_of, self._next = class_names, id_of, next_id
        self._images: list[dict] = []
        self._objects: list[dict] = []

    def add(self, row: Row) -> None:
        """Takes a row; a frame is an image named as if it were written beside the labels of the YOLO format."""
        about = row.about
        own = None if "frame" in about else self._id_of(row.file)
        if own is None:
            own, self._next = self._next, self._next + 1
        image = {"id": own, "file_name": about["file"], "width": about["width"], "height": about["height"]}
        if "frame" in about:
            image |= {"file_name": f"{row.name}/{frame_name(about['frame'])}.png", "video": about["file"]}
            image |= {"frame": about["frame"], "time": about["time"]}
        self._images.append(image)
        for (x1, y1, x2, y2), score, _, k in row.objects:
            wide, high = round(x2 - x1, 2), round(y2 - y1, 2)
            found = {"id": len(self._objects) + 1, "image_id": own, "category_id": self.ids[k], "score": score}
            self._objects.append({**found, "bbox": [x1, y1, wide, high], "area": round(wide * high, 2), "iscrowd": 0})

    def close(self) -> list[Path]:
        """Writes the file."""
        from detrex_ext.checkpoint.files import write_json

        categories = [{"id": k, "name": name} for k, name in zip(self.ids, self.names, strict=True)]
        content = {"images": self._images, "categories": categories, "annotations": self._objects}
        write_json(content, self.path, indent=None)
        return [self.path]


class YoloFormat:
    """`labels/NAME.txt`, of frames `labels/NAME/000012.txt`: class, middle, size in fractions, score; `data.yaml`."""

    def __init__(self, folder: Path, class_names: Sequence[str], category_ids: Sequence[int]) -> None:
        self.folder, self.names = folder, class_names

    def add(self, row: Row) -> None:
        """Writes a row's file."""
        about = row.about
        name = f"{row.name}/{frame_name(about['frame'])}" if "frame" in about else row.name
        path = self.folder / "labels" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = []
        for (x1, y1, x2, y2), score, _, k in row.objects:
            x, y = (x1 + x2) / 2 / about["width"], (y1 + y2) / 2 / about["height"]
            wide, high = (x2 - x1) / about["width"], (y2 - y1) / about["height"]
            lines.append(f"{k} {x:.8f} {y:.8f} {wide:.8f} {high:.8f} {score:.4f}\n")
        path.write_text("".join(lines), encoding="utf-8")

    def close(self) -> list[Path]:
        """Writes the names of the classes."""
        path = self.folder / FORMATS["yolo"]
        about = {"nc": len(self.names), "names": dict(enumerate(self.names))}
        path.write_text(yaml.safe_dump(about, allow_unicode=True, sort_keys=False), encoding="utf-8")
        return [self.folder / "labels", path]


class CsvFormat:
    """`predictions.csv`: a line for each object; texts that a spreadsheet would compute begin with an apostrophe."""

    def __init__(self, folder: Path, class_names: Sequence[str], category_ids: Sequence[int]) -> None:
        self.path = folder / FORMATS["csv"]
        # a name that is no text of Unicode, as disks may hold, must not end a run
        self._file = open(self.path, "w", encoding="utf-8", errors="backslashreplace", newline="")
        self._csv = csv.writer(self._file, quoting=csv.QUOTE_NONNUMERIC)
        self._csv.writerow(COLUMNS)

    def add(self, row: Row) -> None:
        """Writes a line for each object."""
        about = row.about
        frame = [about.get("frame", ""), about.get("time", "")]
        for box, score, name, _ in row.objects:
            image = [as_text(about["file"]), *frame, about["width"], about["height"]]
            self._csv.writerow([*image, as_text(name), score, *box])

    def close(self) -> list[Path]:
        """Ends the file."""
        self._file.close()
        return [self.path]


BY_NAME = dict(zip(FORMATS, (JsonFormat, CocoFormat, YoloFormat, CsvFormat), strict=True))


def as_text(value: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{value}" if _FORMULA.match(value) else value


def frame_name(number: int) -> str:
    """Of a frame's file."""
    return f"{number:06d}"
