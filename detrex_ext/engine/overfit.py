"""``train.overfit``: a training on a handful of images that is evaluated on the same."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from detrex_ext.checkpoint.files import write_json
from detrex_ext.data.coco import find_images
from detrex_ext.data.ground_truth import GroundTruth, read_ground_truth
from detrex_ext.errors import UserError
from detrex_ext.runtime import comm

logger = logging.getLogger(__name__)
FILE = "overfit.json"
_TRAIN, _TEST = "dataloader.train.mapper", "dataloader.test.mapper"


def take_few(cfg: DictConfig) -> None:
    """Makes training and validation data the first ``train.overfit`` images with objects, as they are in evaluation.

    Writes their annotations into the folder of the run. Collective: every rank calls it.

    Args:
        cfg: the whole config, changed in place; 0 leaves it as it is.

    Raises:
        UserError: the config names no training data by ``dataset.train_json``, or an annotation file that is wrong.
    """
    count, source = cfg.train.overfit, OmegaConf.select(cfg, "dataset.train_json", throw_on_resolution_failure=False)
    if not count:
        return
    if not source or OmegaConf.select(cfg, "dataset.val_json") is None:
        raise UserError(f"train.overfit={count}: expected a config whose data are dataset.train_json and val_json")
    truth = read_ground_truth(source, sound=True)
    data = first_images(truth, count)
    path = Path(cfg.train.output_dir) / FILE
    if comm.is_main_process():
        write_json(data, path)
    comm.synchronize()
    images = str(find_images(truth, OmegaConf.select(cfg, "dataset.train_images")).resolve())
    cfg.dataset.update(train_json=str(path), val_json=str(path), train_images=images, val_images=images)
    train, test = (OmegaConf.select(cfg, f"{key}.augmentation") for key in (_TRAIN, _TEST))
    if train is not None and test is not None:
        OmegaConf.update(cfg, f"{_TRAIN}.augmentation", test, merge=False)
        OmegaConf.update(cfg, f"{_TRAIN}.augmentation_with_crop", None, force_add=True)
    logger.info("train.overfit: %d images without augmentation, evaluated on the same", len(data["images"]))


def first_images(truth: GroundTruth, count: int) -> dict[str, Any]:
    """A COCO file of the first images that have an object.

    Raises:
        UserError: none has.
    """
    objects = [truth.objects_of(i) for i in range(len(truth.image_ids))]
    chosen = [i for i, (_, _, crowd_G) in enumerate(objects) if (~crowd_G).any()][:count]
    if not chosen:
        raise UserError(f"train.overfit={count}: {truth.json} has no image with a box")
    images, boxes = [], []
    for i in chosen:
        image = truth.images[i]
        known = {key: image[key] for key in ("file_name", "height", "width") if image[key] is not None}
        images.append({"id": image["image_id"], **known})
        for box, label, crowd in zip(*(column.tolist() for column in objects[i]), strict=True):
            row = {"id": len(boxes) + 1, "image_id": image["image_id"], "category_id": truth.classes.ids[label]}
            boxes.append({**row, "bbox": box, "area": box[2] * box[3], "iscrowd": int(crowd)})
    categories = [{"id": i, "name": name} for name, i in zip(*truth.classes, strict=True)]
    return {"images": images, "annotations": boxes, "categories": categories}
