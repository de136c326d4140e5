"""Metrics of a stage-wise analysis, as numbers, table and JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..table import table

COUNTS = ("tp", "fp", "missed", "faded", "exacerbated", "recoverable")


@dataclass
class StageRow:
    """Metrics at one IoU threshold, or over several: AP is then the mean, counts are sums.

    Attributes:
        iou: the thresholds.
        ap_L: AP of each stage, in [0, 1].
        top_ap: AP of the last stage's 100 best (query, class) pairs of each image.
        oracle_ap: the same after the choice of stage.
        tp, fp, missed: matches and errors of the last stage, and objects it did not find.
        faded, exacerbated, recoverable: how many of these, in this order.
    """

    iou: list[float]
    ap_L: list[float]
    top_ap: float
    oracle_ap: float
    tp: int
    fp: int
    missed: int
    faded: int
    exacerbated: int
    recoverable: int

    def rates(self) -> dict[str, float]:
        """TP-fading, FP-exacerbation, recoverable misses, and grief: the errors of either kind that could be less."""
        grief = (self.exacerbated + self.recoverable, self.fp + self.missed)
        pairs = [(self.faded, self.tp), (self.exacerbated, self.fp), (self.recoverable, self.missed), grief]
        values = [part / whole if whole else math.nan for part, whole in pairs]
        return dict(zip(("TPF", "FPE", "recoverable", "grief"), values, strict=True))


@dataclass
class StageReport:
    """A row for each IoU threshold, over so many images."""

    images: int
    rows: list[StageRow]

    def overall(self) -> StageRow:
        """One row of all thresholds."""
        if len(self.rows) == 1:
            return self.rows[0]
        means = [sum(values) / len(self.rows) for values in zip(*(r.ap_L for r in self.rows), strict=True)]
        top, oracle = (sum(getattr(r, n) for r in self.rows) / len(self.rows) for n in ("top_ap", "oracle_ap"))
        counts = {name: sum(getattr(r, name) for r in self.rows) for name in COUNTS}
        return StageRow([t for r in self.rows for t in r.iou], means, top, oracle, **counts)

    def metrics(self) -> dict[str, float]:
        """``AP_stage1`` ..., ``TPF``, ``FPE``, ``recoverable``, ``grief``, ``AP_top100`` and ``AP_oracle``, x 100."""
        row = self.overall()
        ap = {f"AP_stage{i}": value for i, value in enumerate(row.ap_L, 1)}
        values = {**ap, **row.rates(), "AP_top100": row.top_ap, "AP_oracle": row.oracle_ap}
        return {name: 100 * value for name, value in values.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, shares in [0, 1], null for what cannot be measured."""
        rows = [_plain(row) for row in self.rows]
        return {"images": self.images, "overall": _plain(self.overall()), "rows": rows}

    def text(self) -> str:
        """A table: AP by stage, then what the last stage made of the earlier ones."""
        stages = len(self.rows[0].ap_L)
        shown = self.rows if len(self.rows) == 1 else [*self.rows, self.overall()]
        ap = [["AP at IoU", *(f"stage {i + 1}" for i in range(stages)), "top 100", "oracle"]]
        errors = [["errors at IoU", "TP", "TP-F", "FP", "FP-E", "missed", "recoverable", "grief"]]
        for row in shown:
            name = f"{row.iou[0]:g}" if len(row.iou) == 1 else f"{row.iou[0]:g}:{row.iou[-1]:g}"
            rates = {k: f"{100 * v:.1f} %" for k, v in row.rates().items()}
            ap.append([name, *(f"{100 * v:.2f}" for v in (*row.ap_L, row.top_ap, row.oracle_ap))])
            counts = [f"{row.tp:,}", rates["TPF"], f"{row.fp:,}", rates["FPE"], f"{row.missed:,}"]
            errors.append([name, *counts, rates["recoverable"], rates["grief"]])
        return f"{table(ap)}\n\n{table(errors)}"


def _plain(row: StageRow) -> dict[str, Any]:
    counts = {name: getattr(row, name) for name in COUNTS}
    rates = {f"{name}_rate": value for name, value in row.rates().items()}
    shares = {"AP_top100": row.top_ap, "AP_oracle": row.oracle_ap, **rates}
    plain = {name: None if math.isnan(value) else value for name, value in shares.items()}
    stages = [None if math.isnan(value) else value for value in row.ap_L]
    return {"iou": [round(t, 6) for t in row.iou], "AP_stages": stages, **plain, **counts}
