"""A model of the zoo, from its recipe: data, training, a file of its weights alone, and the entry for ``zoo.json``."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from detrex_ext.checkpoint import RunFolder, convert
from detrex_ext.checkpoint.digests import sha256_of
from detrex_ext.checkpoint.files import write_json
from detrex_ext.checkpoint.provenance import checkout
from detrex_ext.checkpoint.zoo_entries import FILE, entry_problem, file_name
from detrex_ext.config import LazyConfig, load_config
from detrex_ext.data import shapes
from detrex_ext.errors import UserError
from detrex_ext.runtime import machine

from . import train
from .outputs import show
from .zoo_recipes import DATA, RECIPES, SEED, Recipe

_METRICS = ("AP", "AP50", "AP75")
_LICENSE = "Apache-2.0"
_SPLITS = ("train", "val")


def build(name: str, folder: Path, steps: int | None = None) -> tuple[Path, Path]:
    """Trains a model and writes it.

    Equal bytes come of equal commits, versions, numbers of threads and kinds of processors.

    Args:
        name: of ``RECIPES``.
        folder: gets the data, the run, the file and the entry.
        steps: of a trial; None = those of the recipe.

    Returns:
        the file of the model, and that of its entry.

    Raises:
        UserError: the training was stopped or refused, or the folder holds other data.
    """
    recipe, run = RECIPES[name], folder / "runs" / name
    data = shapes.write(folder / "shapes")
    overrides = recipe.all_overrides(steps)
    overlays = ["--overlay", ",".join(recipe.overlays)] if recipe.overlays else []
    here = {f"dataset.{split}_json": data / f"{split}.json" for split in _SPLITS}
    here |= {f"dataset.{split}_images": data / "images" for split in _SPLITS}
    places = [f"{key}={path.as_posix()}" for key, path in here.items()]
    places += [f"train.output_dir={run.as_posix()}", "train.overwrite=true"]
    if train.main(["--config-file", recipe.config, *overlays, *overrides, *places]):
        raise UserError(f"zoo build {name}: the training was stopped; its run is in {run}")
    path = _write(run, folder, name, _config(recipe, overrides, run))
    entry = _entry(name, recipe, overrides, run, path)
    if problem := entry_problem(entry):
        show(f"{name}: no entry for {FILE.name} yet: {problem}")
    told = folder / f"{name}.json"
    write_json(entry, told)
    print(json.dumps(entry, indent=1))
    return path, told


def _config(recipe: Recipe, overrides: list[str], run: Path) -> str:
    """The text of the run's config, with the folders that are shipped in place of this machine's."""
    cfg = LazyConfig.load(str(RunFolder(run).config))
    shipped = load_config(recipe.config, recipe.overlays, overrides)
    sets = [f"dataset.{split}_{what}" for split in _SPLITS for what in ("json", "images")]
    for key in ("train.output_dir", "train.overwrite", *sets):
        OmegaConf.update(cfg, key, OmegaConf.select(shipped, key), merge=False)
    return LazyConfig.dumps(cfg)


def _write(run: Path, folder: Path, name: str, config: str) -> Path:
    """The weights that the training evaluated, under the name that their digest gives."""
    path = folder / f"{name}.pth"
    convert(run, path, extra={"config": config})
    named = folder / file_name(name, sha256_of(path))
    os.replace(path, named)
    return named


def _entry(name: str, recipe: Recipe, overrides: list[str], run: Path, path: Path) -> dict[str, Any]:
    results = json.loads(RunFolder(run).evaluation.read_text(encoding="utf-8"))["results"]["bbox"]
    threads = torch.get_num_threads()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, {platform.system()}"
    return {
        "name": name,
        "config": recipe.config,
        "overlays": list(recipe.overlays),
        "overrides": overrides,
        "seed": SEED,
        "commit": checkout(),
        "hardware": f"{machine.processor()}, {machine.instructions()}, {machine.threads_text()}; {versions}",
        "command": f"OMP_NUM_THREADS={threads} python -m detrex_ext zoo build {name} --output dist/zoo",
        "data": DATA,
        "metric": {key: round(results[key], 2) for key in _METRICS if results.get(key) is not None},
        "sha256": sha256_of(path),
        "size": path.stat().st_size,
        "license": {"data": _LICENSE, "weights": _LICENSE},
        "where": path.name,
    }
