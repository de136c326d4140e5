"""A run folder of a narrow model with random weights, and its data."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from narrow import NARROW, overrides

from detrex_ext.config import load_config, save_config
from detrex_ext.data import shapes
from detrex_ext.inference import build_for_inference

# any other host under the overlay tiny, as small
TINY = [
    "model.dim=32", "model.encoder.num_layers=1", "dataset.short_edge=64", "dataset.long_edge=64",
    "train.amp.enabled=false",
]  # fmt: skip


def write(
    root: Path, overlays: tuple[str, ...] = (), names: tuple[str, ...] = ("model_final",), host: str = "small"
) -> Path:
    """Writes three validation images and a run folder with so many checkpoints, each of other weights."""
    shapes.write(root / "data", 1, 3, 48, 0)
    narrow = overrides(root / "data", root / "out")
    narrow.append("train.device=cpu")
    if host == "small":
        cfg = load_config(host, overlays, [*narrow, "model.decoder.num_layers=3"])
    else:
        cfg = load_config(host, ["tiny", *overlays], [*narrow[len(NARROW) :], *TINY])
    classes = json.loads((root / "data" / "val.json").read_text())["categories"]
    (root / "out").mkdir()
    save_config(cfg, root / "out" / "config.yaml")
    iteration = 0
    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        model = build_for_inference(cfg, 4)
        # the final one is the last periodic one
        iteration = int(name[6:]) if name[6:].isdigit() else iteration
        content = {"model": model.state_dict(), "class_names": [c["name"] for c in classes], "iteration": iteration}
        torch.save(content, root / "out" / f"{name}.pth")
    return root / "out"
