"""The official Co-DETR, whole, in evaluation, against our shipped configs filled from its file.

Its layers are mmcv's own here: ``DETREX_EXT_MMCV`` names a checkout of mmcv 1.7.0, of which nothing is compiled.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch

from detrex_ext.checkpoint import load_state
from detrex_ext.config import load_config
from detrex_ext.runtime import instantiate

from .checkout import disturb
from .forced import double_by_default, in_double
from .gaps import far, within
from .models import batch
from .peer_co_detr import ROOT, skip_without_checkout

skip_without_checkout()
MMCV = Path(os.environ["DETREX_EXT_MMCV"]) if os.environ.get("DETREX_EXT_MMCV") else None
if MMCV is None or not (MMCV / "mmcv/cnn/bricks/transformer.py").is_file():
    pytest.skip("comparison of whole models needs DETREX_EXT_MMCV to name a checkout of mmcv", allow_module_level=True)

SIZES = [(224, 288), (256, 240)]
CONFIGS = {
    "co_dino_r50_12ep": "co_dino/co_dino_5scale_r50_1x_coco.py",
    "co_deformable_r50_12ep": "co_deformable_detr/co_deformable_detr_r50_1x_coco.py",
}


class _Nothing(types.ModuleType):
    """mmcv's compiled operators by name; the functions in plain torch beside them act on a CPU."""

    __spec__ = importlib.machinery.ModuleSpec("mmcv._ext", None)

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


@contextlib.contextmanager
def checkouts() -> Iterator[None]:
    """Both packages are imported from their checkouts, while this is held."""
    own = ("mmcv", "mmdet", "projects", "mmcv_custom")
    kept = {k: v for k, v in sys.modules.items() if k.split(".")[0] not in own}
    path = [str(ROOT), str(MMCV), *sys.path]
    with mock.patch.dict(sys.modules, kept | {"mmcv._ext": _Nothing("mmcv._ext")}, clear=True):
        with mock.patch.object(sys, "path", path):
            yield


@pytest.mark.parametrize("name", CONFIGS)
def test_the_shipped_config_is_the_released_model(name):
    """Maps, logits and boxes of all stages in double; the heads of training are all that is left out."""
    items = batch(SIZES, (2, 1), 80, seed=2, dtype=torch.float64)
    cfg = load_config(name, (), ["model.num_classes=80"]).model
    cfg.strategies = {}
    ours = instantiate(cfg).eval()
    with checkouts():
        importlib.import_module("projects.models")
        theirs = importlib.import_module("mmcv").Config.fromfile(ROOT / "projects/configs" / CONFIGS[name]).model
        theirs.backbone.init_cfg = None
        torch.manual_seed(1)
        peer = importlib.import_module("mmdet.models").build_detector(theirs).eval()
        disturb(peer)
        report = load_state(ours, peer.state_dict(), strict=True)
        with double_by_default():
            images, _ = ours.double().inputs(items)
        size = tuple(images.images_B3HW.shape[2:])
        metas = [{"batch_input_shape": size, "img_shape": (*one, 3)} for one in SIZES]
        with in_double(), torch.no_grad():
            maps = peer.double().extract_feat(images.images_B3HW, metas)
            logits, boxes = peer.query_head(list(maps), metas)[:2]
    with double_by_default(), torch.no_grad():
        sets = ours.core(images.images_B3HW, images.valid_hw_B2)
    assert report.complete and report.layout == "Co-DETR" and not report.unexpected
    assert not any(".encoder." in key or ".decoder." in key for key in report.dropped)
    main = [s for s in sets if s.group == "main"]
    assert len(main) == len(logits) == 6
    for stage, s in enumerate(main):
        within(f"Co-DETR, whole: {name}", far(s.logits_BQK, logits[stage]), 1e-12)
        within(f"Co-DETR, whole: {name}", far(s.boxes_BQ4, boxes[stage]), 1e-12)
