"""The official TSP (Edward-Sun/TSP-Detection) on a CPU under today's torch, from a checkout: ``DETREX_EXT_TSP``.

It needs detectron2. Stand-in: the module ``torch._overrides``, which torch 1.6 had, by ``torch.overrides``, its name
since. Dropout that overwrites what the ReLU before it needs for its gradient (torch 1.6 did not notice) does not
overwrite, and drops nothing unless asked to. fvcore's focal loss is used as it is written, not as a compiled script, in
which ``float`` could not mean double.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from fvcore.nn import sigmoid_focal_loss
from torch import nn

from detrex_ext.checkpoint import to_layout

VARIABLE = "DETREX_EXT_TSP"
ROOT = Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None
CLASSES, TOKENS = 7, 90
# of tsp_fcos.sh
FCOS_SCRIPT = """
    MODEL.RESNETS.DEPTH 50  MODEL.MY_ROI_BOX_HEAD.DIM_FEEDFORWARD 2048  MODEL.FCOS.RANDOM_PROPOSAL_DROP True
    MODEL.FCOS.RANDOM_PROPOSAL_DROP_LOWER_BOUND 0.7  MODEL.FCOS.USE_OBJ_LOSS True  MODEL.FCOS.ONLY_REWEIGHT_FG True
    MODEL.FCOS.INFERENCE_TH_TEST 0.0  MODEL.FCOS.INFERENCE_TH_TRAIN 0.0  MODEL.FCOS.GIOU_WEIGHT 2.0
    MODEL.FCOS.PREDICT_WITHOUT_CTR True  MODEL.FCOS.CLASS_DENORM_TYPE mixed_2x
"""
# of tsp_rcnn.sh
RCNN_SCRIPT = """
    MODEL.RESNETS.DEPTH 50  MODEL.RPN.IN_FEATURES ['p3','p4','p5','p6','p7']  MODEL.RPN.HEAD_NAME MyStandardRPNHead
    MODEL.ANCHOR_GENERATOR.SIZES
    [[32,40.32,51.80],[64,80.63,101.59],[128,161.27,203.19],[256,322.54,406.37],[512,645.08,812.75]]
    MODEL.RPN.NUM_CONV 2  MODEL.RPN.BBOX_REG_LOSS_WEIGHT 2.0  MODEL.ROI_BOX_HEAD.RANDOM_PROPOSAL_DROP True
    MODEL.ROI_BOX_HEAD.RANDOM_PROPOSAL_DROP_LOWER_BOUND 0.7  MODEL.ROI_BOX_HEAD.USE_OBJ_LOSS True
    MODEL.ROI_HEADS.NMS_THRESH_TEST 0.7  MODEL.MY_ROI_BOX_HEAD.NUM_FC 1  MODEL.MY_ROI_BOX_HEAD.DIM_FEEDFORWARD 2048
"""


def skip_without_checkout() -> None:
    """Skip the calling module, with the reason, where the official model cannot be built."""
    if ROOT is None or not (ROOT / "fcos/my_fcos.py").is_file():
        pytest.skip(f"comparison with TSP needs {VARIABLE} to name a checkout of it", allow_module_level=True)
    pytest.importorskip("detectron2", reason="comparison with TSP needs detectron2 importable")


@functools.cache
def packages() -> tuple[Any, Any]:
    """Its packages ``fcos`` and ``rcnn``; once, as they register what they define with detectron2."""
    with mock.patch.object(sys, "path", [str(ROOT), *sys.path]), mock.patch.dict(
        sys.modules, {"torch._overrides": torch.overrides}
    ):
        fcos, rcnn = (importlib.import_module(name) for name in ("fcos", "rcnn"))
        importlib.import_module("fcos.my_fcos_outputs").sigmoid_focal_loss_jit = sigmoid_focal_loss
        return fcos, rcnn


def build(file: str, script: str, *more: Any, dropout: float = 0.0, moved: bool = True) -> nn.Module:
    """A model by its own config file and the options of its own script, then ours; weights at random.

    Args:
        file: in its folder ``configs``.
        script: options of the script, names and values.
        more: further names and values.
        dropout: of its transformer.
        moved: the weights are moved away from their start.
    """
    fcos, rcnn = packages()
    config, modeling = (importlib.import_module(f"detectron2.{name}") for name in ("config", "modeling"))
    cfg = config.get_cfg()
    rcnn.add_rcnn_config(cfg)
    fcos.add_fcos_config(cfg)
    cfg.merge_from_file(str(ROOT / "configs" / file))
    cfg.merge_from_list([*script.split(), "MODEL.DEVICE", "cpu", *more])
    torch.manual_seed(1)
    model = modeling.build_model(cfg)
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.inplace, part.p = False, dropout
        elif isinstance(part, nn.MultiheadAttention):
            part.dropout = dropout
    if moved:
        disturb(model)
    return model


@torch.no_grad()
def disturb(model: nn.Module) -> None:
    """Weights away from their start, so that nothing is zero or the same: biases, norms, statistics, first heads."""
    for name, p in [*model.named_parameters(), *model.named_buffers()]:
        if not p.dtype.is_floating_point or name.startswith("pixel"):
            continue
        if name.endswith("running_var"):
            p.copy_(0.8 + 0.4 * torch.rand_like(p))
        elif p.dim() == 1:
            p.add_(0.05 * torch.randn_like(p))
        elif "tower" in name:
            p.mul_(2.0)


def written_back(ours: nn.Module, state: dict[str, torch.Tensor], keys: int) -> None:
    """A model of ours that was loaded from a file of theirs gives the same file."""
    back = to_layout(ours, "tsp")
    assert len(state) == keys and back.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(back[key], value), key
