"""The report that a training ends with."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import nn

from detrex_ext.checkpoint import RunFolder
from detrex_ext.evaluation.loop import evaluation_mode
from detrex_ext.report import Material, add_looks, matched, read_run, write_report
from detrex_ext.report.causes import OVERFIT_AP, ap_of
from detrex_ext.runtime import comm

from . import rng

logger = logging.getLogger(__name__)
LEAST_STEPS = 100
"""Of a training that is reported: a shorter one is a trial, in which there is nothing to see."""
_SECONDS = 2.0  # for images that are looked at stage by stage
_MOST_IMAGES, _LOOKED = 2000, 16


def report_training(
    cfg: DictConfig, config_file: str, model: nn.Module, evaluation: tuple[Any, Any] | None, steps: int
) -> None:
    """Writes ``report.html``, where it is wanted, and says in the log what is wrong where next to nothing is found.

    Whatever fails here is one line of warning: the training has ended well.

    Args:
        cfg: the whole config.
        config_file: that the training was started with, "" = not known.
        model: with the weights that were evaluated.
        evaluation: loader and evaluator, if there are any.
        steps: that were made, in earlier runs too.
    """
    train, path = cfg.train, RunFolder(cfg.train.output_dir).report
    if not (train.report and comm.is_main_process()):
        return
    if steps < LEAST_STEPS:
        what = "report.html is of before" if path.is_file() else "no report"
        logger.info("%s: fewer than %d steps; python -m detrex_ext report %s", what, LEAST_STEPS, train.output_dir)
        return
    began = time.monotonic()
    try:
        with rng.preserved(), evaluation_mode(model), torch.no_grad():
            material = _material(cfg, config_file, model, evaluation)
            if evaluation is not None and material.detections is None and path.is_file():
                return  # nothing was left to train or to evaluate: the page of before knows more
            causes = write_report(material, path)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        logger.warning("no report: %s: %.200s", type(error).__name__, reason)
        return
    for cause in causes:
        logger.warning("likely: %s", cause)
    _tell_overfit(cfg.train.overfit, ap_of(material.facts), bool(causes))
    logger.info("report: %s (%.1f s)", path, time.monotonic() - began)


def _tell_overfit(images: int, ap: float | None, known: bool) -> None:
    if not images:
        return
    if ap is not None and ap > OVERFIT_AP:
        logger.info("train.overfit=%d: AP %.1f on the images trained on: data, losses and model are sound", images, ap)
        return
    shown = "no AP" if ap is None else f"AP {ap:.1f}"
    rest = "see above" if known else "train longer (train.max_iter); where that does not help, look at the labels"
    logger.warning("train.overfit=%d: %s on the images trained on, expected more than %g: %s",
                   images, shown, OVERFIT_AP, rest)  # fmt: skip


def _material(cfg: DictConfig, config_file: str, model: nn.Module, evaluation: tuple[Any, Any] | None) -> Material:
    material = Material(read_run(cfg.train.output_dir, config_file))
    loader, evaluator = evaluation or (None, None)
    taken = evaluator.detections() if hasattr(evaluator, "detections") else None
    if taken is None:
        material.notes.append("No predictions are at hand: nothing was evaluated, or by an evaluator of one's own.")
        return material
    found, images = taken
    truth = material.truth = evaluator.truth
    chosen = images
    if len(images) > _MOST_IMAGES:
        chosen = [images[i] for i in np.linspace(0, len(images) - 1, _MOST_IMAGES).astype(int).tolist()]
    if len(chosen) < len(truth.image_ids):
        share = f"{len(chosen):,} of {len(truth.image_ids):,} images"
        again = f"python -m detrex_ext report {cfg.train.output_dir}"
        material.notes.append(f"Curves, confusion and images are of {share}; {again} takes all.")
    if truth.boxes is not None:
        material.detections = matched(truth, found, chosen)
    if cfg.train.best_checkpoint.restore and material.facts.evaluated != material.facts.steps:
        material.notes.append("Predictions are those of the last weights, metrics those of the best.")
    places = _places(loader, truth)
    if not places:
        return material
    folder = Path(loader.dataset.images)
    material.files = {i: str(folder / loader.dataset.image(at)["file_name"]) for i, at in places.items()}
    worst = [] if material.detections is None else [x.image for x in material.detections.worst(4)]
    order = list(dict.fromkeys([*worst, *images]))[:_LOOKED]
    end = time.monotonic() + _SECONDS
    samples = _samples(loader, [places[i] for i in order if i in places])
    add_looks(material, model, samples, lambda: time.monotonic() > end)
    return material


def _places(loader: Any, truth: Any) -> dict[int, int]:
    """Index in the data set of each image of the annotation file; {} where the loader's data set has no names."""
    dataset = getattr(loader, "dataset", None)
    if not (hasattr(dataset, "image") and hasattr(dataset, "images") and hasattr(loader, "samples")):
        return {}
    return {truth.index_of(dataset.image(i)): i for i in range(len(dataset))}


def _samples(loader: Any, places: Sequence[int]) -> Iterator[Mapping[str, Any]]:
    """Inputs of the model, as an evaluation has them."""
    for place in places:
        fetched = loader.samples[0, place]
        if fetched.sample is not None:
            yield fetched.sample
