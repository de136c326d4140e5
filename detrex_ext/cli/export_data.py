"""Which images `export` compares on, and reads ranges of activations from."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detrex_ext.errors import UserError

if TYPE_CHECKING:
    from detrex_ext.predictor import Predictor

_CALIBRATED = 64  # images that ranges are read from


def data_of(args: argparse.Namespace, predictor: Predictor, part: str) -> tuple[str, str]:
    """Annotation file and folder of images of a part of the run's data, as far as they are there."""
    from omegaconf import OmegaConf

    keys = (f"dataset.{part}_json", f"dataset.{part}_images")
    found = (OmegaConf.select(predictor.config, key, throw_on_resolution_failure=False) for key in keys)
    json, images = (value if isinstance(value, str) else "" for value in found)
    return (json, images) if os.path.isfile(json) else ("", "")


def folder_of(json: str, images: str) -> str:
    """The folder of the images of an annotation file, looked for beside it where none is named."""
    from detrex_ext.data import CocoDataset

    return str(CocoDataset(json, images, filter_empty=False).images)


def records_of(json: str | Path, images: str, count: int) -> list[dict[str, Any]]:
    """The first images of an annotation file, all of whose images are there; raises a ``UserError`` otherwise."""
    from detrex_ext.data import CocoDataset, check_before_training

    dataset = CocoDataset(json, images, filter_empty=False)
    check_before_training(dataset, False)
    return [dataset.read(i) for i in range(min(count, len(dataset)))]


def to_calibrate(args: argparse.Namespace, predictor: Predictor) -> list[Any]:
    """Images of the training data, else of those to compare on: ranges of noise would be none."""
    from detrex_ext.data.read import read_image

    json, images = data_of(args, predictor, "train")
    if not json:
        json, images = (args.json, args.images or "") if args.json else data_of(args, predictor, "val")
    if not json:
        raise UserError("--int8 reads ranges from images, and the run's data is not here: --json JSON --images DIR")
    return [read_image(record["file_name"]) for record in records_of(json, images, _CALIBRATED)]
