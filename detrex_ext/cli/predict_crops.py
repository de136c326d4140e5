"""One image for each object that `predict` found, in a folder for each class."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    import numpy as np

    from detrex_ext.predicting.found import Found

_FORBIDDEN = re.compile(r'[<>:"/\\|?*]')  # on some disk or other
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)  # Windows opens these instead
_UNPRINTED = ("Cc", "Cs", "Zl", "Zp")
_LONGEST = 120  # bytes of a name, of the 255 that disks take


def folder_names(class_names: Sequence[str]) -> list[str]:
    """A name of a folder for each class, on any disk, whatever the class is called; no two are the same."""
    taken: set[str] = set()
    names = []
    for name in class_names:
        kept = "".join("_" if unicodedata.category(c) in _UNPRINTED else c for c in _FORBIDDEN.sub("_", name))
        kept = kept.encode()[:_LONGEST].decode(errors="ignore").strip(" .") or "_"
        kept = f"_{kept}" if _DEVICES.fullmatch(kept) else kept
        unique, number = kept, 1
        while _plain(unique) in taken:
            number += 1
            unique = f"{kept}_{number}"
        taken.add(_plain(unique))
        names.append(unique)
    return names


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


class Crops:
    """Writes `crops/CLASS/NAME_1.png`, numbered by descending score; of a frame `NAME_000012_1.png`.

    Args:
        folder: to make `crops` in.
        class_names: by class index.
    """

    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        self.folder = folder / "crops"
        self.names = folder_names(class_names)

    def save(self, rgb: np.ndarray, found: Found, name: str) -> int:
        """Each object's pixels, as they are in the image; how many there are."""
        height, width = found.image_size
        boxes = found.pred_boxes.tensor.tolist()
        for number, (box, k) in enumerate(zip(boxes, found.pred_classes.tolist(), strict=True), 1):
            x0, y0 = (min(max(0, math.floor(v)), most - 1) for v, most in zip(box[:2], (width, height), strict=True))
            x1, y1 = max(x0 + 1, math.ceil(box[2])), max(y0 + 1, math.ceil(box[3]))
            target = self.folder / self.names[k]
            target.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rgb[y0:y1, x0:x1]).save(target / f"{name}_{number}.png")
        return len(boxes)
