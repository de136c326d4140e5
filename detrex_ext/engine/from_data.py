"""What a training chooses from its data where the config leaves it out: the size of images, the number of steps."""

from __future__ import annotations

import logging
import math
from typing import Any

from omegaconf import DictConfig

from detrex_ext.data import GroundTruth
from detrex_ext.data.fitting import fitting_length, fitting_size
from detrex_ext.data.ground_truth import read_ground_truth
from detrex_ext.errors import UserError

logger = logging.getLogger(__name__)
_MOST_STEPS = 10**9
_PARTS = 10  # of a training, between which it is evaluated and saved


def check_length(train: Any) -> None:
    """Refuses two lengths at once.

    Args:
        train: the config's ``train``.

    Raises:
        UserError: which they are, and how to keep one.
    """
    if train.epochs is not None and train.minutes is not None:
        raise UserError(
            f"train.epochs={train.epochs:g} and train.minutes={train.minutes:g} are two lengths of one training\n"
            "  train.minutes=null keeps the first, train.epochs=null the second"
        )


def choose_size(cfg: DictConfig) -> GroundTruth | None:
    """Sets ``dataset.short_edge`` and ``long_edge`` from the training data, in place, where the first is null.

    Returns:
        what was read for it.

    Raises:
        UserError: annotations that cannot be read.
    """
    dataset = cfg.get("dataset") or {}
    if "short_edge" not in dataset or dataset.short_edge is not None:
        return None
    truth = read_ground_truth(dataset.train_json, sound=True)
    dataset.short_edge, long_edge = fitting_size(truth)
    dataset.long_edge = dataset.get("long_edge") or long_edge
    logger.info("data: by its objects, short_edge=%d long_edge=%d", dataset.short_edge, dataset.long_edge)
    return truth


def choose_length(cfg: DictConfig, dataset: Any) -> None:
    """Sets ``train.max_iter``, ``eval_period`` and ``checkpointer.period``, in place, where they follow from the data.

    ``train.epochs`` becomes null, as the number of steps says it all: a run that is gone on with keeps its length.

    Args:
        cfg: the whole config.
        dataset: of the training loader.

    Raises:
        UserError: the number of images is not known, or that of steps absurd.
    """
    train, batch, epochs = cfg.train, cfg.dataloader.train.total_batch_size, cfg.train.epochs
    if epochs is not None or train.max_iter is None:
        if not hasattr(dataset, "__len__"):
            raise UserError("the training data does not say how many images it has: state train.max_iter")
        images = len(dataset)
        steps = fitting_length(images, batch) if epochs is None else math.ceil(epochs * images / batch - 1e-9)
        if steps > _MOST_STEPS:
            raise UserError(f"train.epochs={epochs:g}: {steps:,} steps of {images} images, more than {_MOST_STEPS:,}")
        train.max_iter, train.epochs = max(steps, 1), None
        if train.minutes is None:
            done = train.max_iter * batch / images
            logger.info(
                "data: %d images in batches of %d: train.max_iter=%d, %.3g epochs", images, batch, train.max_iter, done
            )
    for section, key in ((train, "eval_period"), (train.checkpointer, "period")):
        if section[key] is None:
            section[key] = max(train.max_iter // _PARTS, 1)
