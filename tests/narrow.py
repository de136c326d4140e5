"""What makes ``configs/small.py`` narrow, and puts it on a small data set."""

from __future__ import annotations

from pathlib import Path

NARROW = [
    "model.backbone.stem=[8,8]",
    "model.backbone.widths=[8,16,16,16]",
    "model.neck.in_channels={res3:16,res4:16,res5:16}",
    "model.neck.out_channels=32",
    "model.queries.source.num_queries=10",
    "model.queries.source.dim=32",
    "model.queries.dim=32",
    "model.decoder.dim=32",
    "model.decoder.ffn_dim=32",
    "dataset.short_edge=32",
    "dataset.long_edge=32",
]


def overrides(data: Path, out: Path) -> list[str]:
    """The narrow sizes, the places of a data set written by ``shapes.write``, and the output folder."""
    places = [f"dataset.{part}_json={data}/{part}.json" for part in ("train", "val")]
    places += [f"dataset.{part}_images={data}/images" for part in ("train", "val")]
    return [*NARROW, *places, f"train.output_dir={out}"]
