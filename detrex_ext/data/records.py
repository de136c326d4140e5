"""Data sets as sequences of detectron2's dicts, and the classes that they are of.

Shape legend: N records, G objects of one.
"""

from __future__ import annotations

import math
import pickle
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from detrex_ext.data.read import UnreadableImage, image_size
from detrex_ext.errors import UserError
from detrex_ext.runtime import BoxMode, DatasetCatalog, MetadataCatalog


class Classes(NamedTuple):
    """The classes of a data set, by class index: names, and category ids where they are known."""

    names: list[str]
    ids: list[int]

    @staticmethod
    def of(source: Any) -> Classes:
        """Those of a data set or an evaluator.

        Raises:
            UserError: it does not name them.
        """
        names = getattr(source, "class_names", None)
        if names is None:
            raise UserError(f"a data set of type {type(source).__name__} names no classes: expected class_names, by "
                            "index\n  detrex_ext.data.RecordDataset(records, class_names=[...]) has them")  # fmt: skip
        return Classes(list(names), list(getattr(source, "category_ids", ())))


class Records(Sequence):
    """A read-only list that makes each record when it is asked for, so a caller may change it."""

    @abstractmethod
    def read(self, index: int) -> Any:
        """Record of 0 <= index < len(self)."""

    def __getitem__(self, index):  # noqa: ANN001, ANN204 - int -> record, slice -> list of records
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        return self.read(int(index) % len(self))


class PackedRecords(Records):
    """Each record pickled into one byte array.

    A list of many small Python objects is copied page by page in every forked worker, as reading an object changes
    its reference count; one array is not.
    """

    def __init__(self, records: Iterable[Any]) -> None:
        packed = [pickle.dumps(record, protocol=pickle.HIGHEST_PROTOCOL) for record in records]
        self._ends = np.cumsum([0, *map(len, packed)], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(packed), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def read(self, index: int) -> Any:
        """A fresh copy of the record."""
        return pickle.loads(memoryview(self._bytes)[self._ends[index] : self._ends[index + 1]])


class RecordDataset(PackedRecords):
    """Detectron2's dicts as a data set to train or evaluate on; each is checked here, once.

    Args:
        records: a list of dicts, a function that returns one, or the name of one in detectron2's `DatasetCatalog`.
            Read of each: file_name, height and width (of the file, where absent), image_id, and annotations with
            bbox, bbox_mode (XYXY_ABS or XYWH_ABS), category_id = class index, iscrowd (0 where absent); the rest,
            such as masks, is left alone.
        class_names: by class index; None: `thing_classes` of the catalog's metadata.

    Raises:
        UserError: no such name, or a record that cannot be used.
    """

    def __init__(
        self, records: str | Sequence[dict] | Callable[[], list[dict]], class_names: Sequence[str] | None = None
    ) -> None:
        self.json = records if isinstance(records, str) else getattr(records, "__name__", "a list of records")
        if isinstance(records, str):
            if records not in DatasetCatalog.list():
                raise UserError(f"no data set '{records}' is registered in DatasetCatalog; "
                                f"there are: {', '.join(DatasetCatalog.list()) or 'none'}")  # fmt: skip
            if class_names is None:
                class_names = getattr(MetadataCatalog.get(records), "thing_classes", None)
            records = DatasetCatalog.get(records)
        records = list(records() if callable(records) else records)
        self.class_names = None if class_names is None else list(map(str, class_names))
        self.sizes_N2 = sizes_of(records)
        for position, record in enumerate(records):
            classes_G = objects_of(record)[1]
            if len(classes_G) and self.class_names is not None and classes_G.max() >= len(self.class_names):
                raise UserError(f"{self.json}: record {position}, {file_of(record)}: category_id {classes_G.max()}; "
                                f"expected an index into its {len(self.class_names)} classes")  # fmt: skip
        super().__init__(records)


def as_dataset(records: Sequence[dict]) -> Sequence[dict]:
    """A plain list of records as a `RecordDataset`; a data set as it is."""
    return RecordDataset(records) if isinstance(records, list | tuple) else records


def sizes_of(records: Iterable[dict]) -> np.ndarray:
    """(N, 2) int64 height, width of each record, which a data set may know."""
    known = getattr(records, "sizes_N2", None)
    return np.array([size_of(r) for r in records], dtype=np.int64).reshape(-1, 2) if known is None else known


def size_of(record: dict) -> tuple[int, int]:
    """(height, width) of a record's image; of the file where the record does not say."""
    height, width = record.get("height"), record.get("width")
    return image_size(file_of(record)) if height is None or width is None else (int(height), int(width))


def file_of(record: dict) -> str:
    """The image file of a record; a `UserError` where it has none."""
    if not isinstance(record, dict) or not record.get("file_name"):
        raise UserError(f"a record of a data set is a dict with file_name; found {str(record)[:200]}")
    return str(record["file_name"])


def objects_of(record: dict) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and classes of a record's objects, without crowd regions and without boxes of no width or height.

    Args:
        record: a dict in detectron2's layout, see `RecordDataset`; without annotations it has no objects.

    Returns:
        (G, 4) float64 XYXY in pixels and (G,) int64 class indices.

    Raises:
        UnreadableImage: an annotation that is not understood.
    """
    kept = []
    for position, ann in enumerate(record.get("annotations") or ()):
        if isinstance(ann, dict) and ann.get("iscrowd"):
            continue
        fault = _fault_of(ann)
        if fault:
            raise UnreadableImage(file_of(record), f"annotation {position} of its record: {fault}")
        kept.append(ann)
    box_G4 = np.array([a["bbox"] for a in kept], dtype=np.float64).reshape(-1, 4)
    xywh_G1 = np.array([a["bbox_mode"] == BoxMode.XYWH_ABS for a in kept], dtype=bool)[:, None]
    first_G2, second_G2 = box_G4[:, :2], box_G4[:, 2:]
    # A negative width would become a box when mirrored.
    good_G = (np.where(xywh_G1, second_G2, second_G2 - first_G2) > 0).all(axis=1)
    with np.errstate(over="ignore"):  # of numbers that are on no image
        xyxy_G4 = np.concatenate([first_G2, np.where(xywh_G1, first_G2 + second_G2, second_G2)], axis=1)
    return xyxy_G4[good_G], np.array([a["category_id"] for a in kept], dtype=np.int64)[good_G]


def _fault_of(ann: Any) -> str:
    """What is wrong with an annotation in detectron2's layout; "" for nothing."""
    if not isinstance(ann, dict):
        return f"expected a dict, found {ann!r:.80}"
    mode, class_ = ann.get("bbox_mode"), ann.get("category_id")
    if mode not in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
        found = next((m.name for m in BoxMode if m == mode), f"{mode!r:.80}")
        return f"bbox_mode {found} is not supported; expected BoxMode.XYXY_ABS or XYWH_ABS, in pixels"
    try:
        good = len(ann["bbox"]) == 4 and all(map(math.isfinite, ann["bbox"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        good = False
    if not good:
        return f"bbox {ann.get('bbox')!r:.80}; expected four finite numbers in pixels"
    if isinstance(class_, bool) or not isinstance(class_, int | np.integer) or class_ < 0:
        return f"category_id {class_!r:.80}; expected the index of a class, an integer from 0"
    return ""
