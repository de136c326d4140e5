"""How many objects of an image a model and its evaluation take.

Shape legend: P boxes, N images, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from omegaconf import OmegaConf

from detrex_ext.data.ground_truth import GroundTruth
from detrex_ext.data.mixed_limits import mixing_parts, too_crowded
from detrex_ext.data.mixing import Mixing
from detrex_ext.data.report import Report


class Limit(NamedTuple):
    """So many objects of an image, or of a class on it where ``kind`` is of detections that are counted.

    Attributes:
        kind: of the finding, where there are more.
        number: the most.
        key: what states it in a config.
        where: the config, where it is not the one of a training.
        mixing: parts of each pipeline that put several images into a sample, for a limit of such samples.
    """

    kind: str
    number: int
    key: str
    where: str = ""
    mixing: Sequence[Sequence[Mixing]] = ()


def limits_of(cfg: Any, where: str = "", train: bool = True) -> list[Limit]:
    """Those that a config states: queries, predictions of an image, and detections that the evaluation counts.

    Args:
        cfg: the whole config.
        where: what it is called.
        train: of a training set, whose images may be mixed.
    """
    node, key = OmegaConf.select(cfg, "model.queries"), "model.queries"
    while isinstance(node, Mapping) and "source" in node:
        node, key = node["source"], f"{key}.source"
    found = [
        Limit("more_objects_than_queries", _get(node, "num_queries"), f"{key}.num_queries", where),
        Limit("more_objects_than_top_k", _get(cfg, "model.postprocess.top_k"), "model.postprocess.top_k", where),
        Limit("more_objects_than_max_dets", _max_dets(cfg), "dataloader.evaluator.max_dets", where),
    ]
    patterns = _get(node, "num_patterns") or 1
    found[0] = found[0]._replace(number=(found[0].number or 0) * patterns)
    if train and (mixing := mixing_parts(cfg)):
        found.append(found[0]._replace(kind="mixed_more_than_queries", mixing=mixing))
    return [limit for limit in found if limit.number]


def check_limits(truth: GroundTruth, report: Report, limits: Iterable[Limit]) -> None:
    """Add the images with more objects than each limit to the report."""
    boxes = truth.boxes
    for limit in limits if boxes is not None else ():
        group_P = boxes.image_P[boxes.learned_P]
        if limit.mixing:
            _check_mixed(np.unique(group_P, return_counts=True)[1], report, limit)
            continue
        size = 1
        if limit.kind == "more_objects_than_max_dets":  # of an image and class
            size = len(truth.classes.names)
            group_P = group_P * size + boxes.class_P[boxes.learned_P]
        groups, counts = np.unique(group_P, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        places = order[counts[order] > limit.number]

        def example(place: int, groups: np.ndarray = groups, counts: np.ndarray = counts, size: int = size) -> str:
            image, class_ = divmod(int(groups[place]), size)
            of = f" of {truth.classes.names[class_]}" if size > 1 else ""
            return f"image {truth.images[image]['file_name']}: {counts[place]} objects{of}"

        beyond = int((counts[places] - limit.number).sum())
        report.add_all(limit.kind, places, example, limit.number, _source(limit), beyond, int(counts.max(initial=0)))


def _check_mixed(counts_N: np.ndarray, report: Report, limit: Limit) -> None:
    found = too_crowded(counts_N, limit.mixing, limit.number)
    if found is not None:
        example = f"a sample made of {found.images} images: up to {found.most} objects"
        report.add(limit.kind, example, limit.number, _source(limit), f"{found.share:.1%}", found.images, found.enough)


def _source(limit: Limit) -> str:
    return f"{limit.key} of {limit.where}" if limit.where else limit.key


def _max_dets(cfg: Any) -> int | None:
    """COCO counts 100, where the config does not say."""
    target = str(OmegaConf.select(cfg, "dataloader.evaluator._target_", default=""))
    return _get(cfg, "dataloader.evaluator.max_dets") or (100 if "CocoEvaluator" in target else None)


def _get(node: Any, key: str) -> int | None:
    value = OmegaConf.select(node, key) if OmegaConf.is_config(node) else None
    return value if isinstance(value, int) and value > 0 else None
