"""Matches of a checkpoint, and what changed since another.

Shape legend: S stages, G objects of all images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

KINDS = ("index", "point", "box")
SAME = 0.5  # IoU above which two boxes that queries begin with count as one


@dataclass
class Matches:
    """Which query answers for each object.

    Attributes:
        kind: how queries are known: by their ``index``, or, where a model chooses them anew for each image, by the
            ``point`` (x, y, stride) or the ``box`` (x1, y1, x2, y2) that they begin with.
        query_SG: int64, -1 where an object has none.
        place_SG4: of these queries; zeros for the kind ``index``.
        images: how many they are of.
    """

    kind: str
    query_SG: np.ndarray
    place_SG4: np.ndarray
    images: int

    def save(self, path: str | Path) -> None:
        """Write an ``.npz``."""
        np.savez(path, kind=KINDS.index(self.kind), images=self.images, query=self.query_SG, place=self.place_SG4)

    @staticmethod
    def load(path: str | Path) -> Matches:
        """What ``save`` wrote."""
        with np.load(path, allow_pickle=False) as file:
            return Matches(KINDS[int(file["kind"])], file["query"], file["place"], int(file["images"]))


def changed(before: Matches, after: Matches) -> np.ndarray:
    """(S,) share of the objects whose query is another one, among all objects (DN-DETR, arXiv 2203.01305, section 3.1).

    An object that only one of the two matches counts as changed, one that neither matches does not.

    Raises:
        ValueError: matches of other objects, or of queries that are known otherwise.
    """
    if before.query_SG.shape != after.query_SG.shape or before.kind != after.kind:
        sizes = " and ".join(f"{m.query_SG.shape} by {m.kind}" for m in (before, after))
        raise ValueError(f"matches of the same stages and objects are compared; found {sizes}")
    both_SG = (before.query_SG >= 0) & (after.query_SG >= 0)
    one_SG = (before.query_SG >= 0) != (after.query_SG >= 0)
    a, b = before.place_SG4, after.place_SG4
    if after.kind == "index":
        other_SG = before.query_SG != after.query_SG
    elif after.kind == "point":
        other_SG = ~np.isclose(a, b, rtol=0, atol=1e-5).all(-1)
    else:
        other_SG = _iou(a, b) <= SAME
    return (one_SG | (both_SG & other_SG)).mean(1)


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of boxes (..., 4) XYXY, pair by pair."""
    shared = (np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])).clip(0).prod(-1)
    areas = sum((x[..., 2:] - x[..., :2]).prod(-1) for x in (a, b))
    return shared / np.maximum(areas - shared, 1e-12)
