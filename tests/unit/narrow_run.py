"""A run folder of a narrow model with random weights, and its data."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from detrex_ext.config import load_config, save_config
from detrex_ext.data import shapes
from detrex_ext.inference import build_for_inference

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
    "model.decoder.num_layers=3",
    "dataset.short_edge=32",
    "dataset.long_edge=32",
    "train.device=cpu",
]


def write(root: Path, overlays: tuple[str, ...] = (), names: tuple[str, ...] = ("model_final",)) -> Path:
    """Writes three validation pictures and a run folder with so many checkpoints, each of other weights."""
    shapes.write(root / "data", 1, 3, 48, 0)
    data = [f"dataset.{part}_json={root}/data/{part}.json" for part in ("train", "val")]
    data += [f"dataset.{part}_images={root}/data/images" for part in ("train", "val")]
    cfg = load_config("small", overlays, [*NARROW, *data, f"train.output_dir={root}/out"])
    classes = json.loads((root / "data" / "val.json").read_text())["categories"]
    (root / "out").mkdir()
    save_config(cfg, root / "out" / "config.yaml")
    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        model = build_for_inference(cfg, 4)
        content = {"model": model.state_dict(), "class_names": [c["name"] for c in classes]}
        torch.save(content, root / "out" / f"{name}.pth")
    return root / "out"
