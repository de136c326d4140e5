"""Sections of the report that need predictions: precision and recall, confusion, what is missed."""

from __future__ import annotations

import numpy as np

from .charts import Axis, Curve, chart
from .detections import Detections
from .html import Html, el, table

_CURVES = 6
_MOST_CLASSES = 14
_DOTS = 700
_NONE = "nothing"


def curves_section(detections: Detections) -> Html:
    """Precision over recall of all classes together and of those with most objects."""
    names, point = detections.class_names, detections.point
    curves = [Curve("all classes" if len(names) > 1 else names[0], detections.curve())]
    if len(names) > 1:
        curves.append(Curve("all, whatever the class", detections.curve(any_class=True)))
        most = np.argsort(-detections.objects_K, kind="stable")[:_CURVES].tolist()
        each = [Curve(names[k], detections.curve(k)) for k in most if detections.objects_K[k]]
    else:
        each = []
    recall, precision = Axis("recall", 0, 1), Axis("precision", 0, 1)
    at = [] if np.isnan(point.threshold) else [Curve(f"best F1, at score {point.threshold:.3g}",
                                                     [(point.recall, point.precision)], True, "#1c2733")]  # fmt: skip
    title = f"The {len(each)} classes with most objects" if len(each) < len(names) else "By class"
    charts = [chart("All classes", [*curves, *at], recall, precision), chart(title, each, recall, precision)]
    if not any(charts):
        return el("p", "No detection is right at IoU 0.5, so there is no curve.", class_="muted")
    return el("div", *charts, class_="row")


def confusion_section(detections: Detections) -> Html:
    """Objects by class (rows) and what found them (columns), at the best threshold."""
    full, names = detections.confusion(), [*detections.class_names, _NONE]
    if not full.sum():
        return el("p", "No objects and no detections at this threshold.", class_="muted")
    size = len(names) - 1
    wrong = full.sum(1)[:size] + full.sum(0)[:size] - 2 * np.diag(full)[:size]
    kept = sorted(np.argsort(-wrong, kind="stable")[:_MOST_CLASSES].tolist()) if size > _MOST_CLASSES else range(size)
    rest = [k for k in range(size) if k not in set(kept)]
    groups = [[k] for k in kept] + ([rest] if rest else []) + [[size]]
    labels = [*(names[k] for k in kept), *([f"{len(rest)} others"] if rest else []), _NONE]
    counts = np.array([[full[np.ix_(a, b)].sum() for b in groups] for a in groups])
    rows: list[list[object]] = [["object \\ found as", *labels]]
    for i, row in enumerate(counts):
        total = max(int(row.sum()), 1)
        cells = [_cell(int(n), n / total, i == j, i == j == len(counts) - 1) for j, n in enumerate(row)]
        rows.append([labels[i], *cells])
    told = (f"At the score threshold {detections.threshold:.3g} and IoU 0.5, whatever the class. The last column are "
            "objects that nothing found, the last row detections of nothing.")  # fmt: skip
    head = el("tr", *(el("th", cell) for cell in rows[0]))
    body = [el("tr", el("th", row[0]), *row[1:]) for row in rows[1:]]
    return el("div", el("p", told), el("div", el("table", head, *body, class_="matrix"), class_="wide"))


def _cell(count: int, share: float, right: bool, corner: bool) -> Html:
    if corner or not count:
        return el("td", "" if corner else "0", style="color:#a5b1bd")
    color = "46,125,50" if right else "209,73,91"
    return el("td", f"{count:,}", style=f"background:rgba({color},{0.12 + 0.6 * share:.2f})")


def missed_section(detections: Detections) -> Html:
    """Recall by size and by aspect, and a picture of both."""
    width, height, found = detections.sides()
    if not len(found):
        return el("p", "There are no objects.", class_="muted")
    side, ratio = np.sqrt(width * height), width / np.maximum(height, 1e-9)
    sizes = [("small, below 32 x 32", side < 32), ("medium", (side >= 32) & (side < 96)),
             ("large, from 96 x 96", side >= 96)]  # fmt: skip
    shapes = [("high, below 1:2", ratio < 0.5), ("1:2 to 2:1", (ratio >= 0.5) & (ratio <= 2)),
              ("wide, above 2:1", ratio > 2)]  # fmt: skip
    tables = []
    for name, bins in (("size (pixels)", sizes), ("width : height", shapes)):
        rows = [[label, f"{of.sum():,}", f"{(of & ~found).sum():,}", _share(found[of])] for label, of in bins]
        tables.append(table([[name, "objects", "missed", "recall"], *rows]))
    chosen = np.linspace(0, len(found) - 1, min(_DOTS, len(found))).astype(int)  # evenly, in the order of the file
    points = np.stack([np.maximum(side, 1e-3), np.maximum(ratio, 1e-3)], 1)[chosen]
    dots = [
        Curve("found", [tuple(p) for p in points[found[chosen]].tolist()], True, "#8fa3b5"),
        Curve("missed", [tuple(p) for p in points[~found[chosen]].tolist()], True, "#c62828"),
    ]
    told = f"{(~found).sum():,} of {len(found):,} objects are missed at the score threshold {detections.threshold:.3g}."
    across, up = Axis("side (pixels, square root of area)", log=True), Axis("width : height", log=True)
    picture = chart("Objects", dots, across, up)
    return el("div", el("p", told), el("div", el("div", *tables), picture, class_="row"))


def _share(found: np.ndarray) -> str:
    return f"{100 * found.mean():.0f} %" if len(found) else "-"
