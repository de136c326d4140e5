"""Targets, matching and losses of TSP against the official code, with every switch; ``DETREX_EXT_TSP`` as in the model.

Predictions are given, the official classes compute on them as they are.
"""

from __future__ import annotations

import importlib
from dataclasses import replace

import pytest
import torch
from pyramids import pyramid
from tsp_scenes import SIZE, K, fcos, rcnn

from detrex_ext.criterion import SetCriterion, tsp_fcos_rules, tsp_rcnn_rules
from detrex_ext.layers.box_ops import box_cxcywh_to_xyxy
from detrex_ext.runtime import EventStorage

from .forced import computing_in
from .gaps import relative, within
from .peer_tsp import FCOS_SCRIPT, packages, skip_without_checkout

skip_without_checkout()

COUNTS = [(5, 0, 9), (12,), (1, 1)]
PRECISION = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["fp64", "fp32"]
)
FCOS_NAMES = {"class_token": "local_cls", "class": "cls", "giou": "loc", "centerness": "ctr"}
STRIDES = (8, 16, 32, 64, 128)
FCOS = [  # our options, theirs
    ({}, ""),
    ({"only_reweight_fg": False}, "MODEL.FCOS.ONLY_REWEIGHT_FG False"),
    ({"eos": 0.3}, "MODEL.FCOS.EOS_COEF 0.3"),
    *(({"class_denorm": kind}, f"MODEL.FCOS.CLASS_DENORM_TYPE {kind}") for kind in ("all", "set", "mixed")),
    ({"match": "one_to_many"}, "MODEL.FCOS.USE_OBJ_LOSS False"),
    ({"match": "hungarian"}, "MODEL.FCOS.USE_DETR_LOSS True"),
]
RCNN = [
    ({}, {"use_obj_loss": True}),
    ({"box_loss_on": "matched"}, {"use_obj_loss": True, "finetune_on_set": True}),
    ({"match": "one_to_many"}, {}),
]


def modules(*names):
    return [importlib.import_module(f"detectron2.{name}") for name in names]


def instances(targets, dtype):
    """The objects as detectron2's, in pixels."""
    structures = modules("structures")[0]
    found, size = [], torch.tensor([SIZE[1], SIZE[0]] * 2, dtype=dtype)
    for labels, boxes in zip(targets.labels, targets.boxes, strict=True):
        one = structures.Instances(SIZE)
        one.gt_boxes, one.gt_classes = structures.Boxes(box_cxcywh_to_xyxy(boxes) * size), labels
        found.append(one)
    return found


def official_fcos(main, token, targets, chosen, options, dtype):
    """(its losses, its object of each point)"""
    fcos_package, rcnn_package = packages()
    cfg = modules("config")[0].get_cfg()
    rcnn_package.add_rcnn_config(cfg)
    fcos_package.add_fcos_config(cfg)
    cfg.merge_from_list([*FCOS_SCRIPT.split(), "MODEL.FCOS.NUM_CLASSES", K, *options.split()])
    peer = fcos_package.my_fcos_outputs.FCOSOutputs(cfg)
    B, P, _ = token.logits_BQK.shape
    points, _, levels = pyramid(*SIZE, dtype=dtype)
    maps = []
    for level, s in enumerate(STRIDES):
        shape = [-(-n // s) for n in SIZE]
        maps.append(token.logits_BQK[:, levels == level].permute(0, 2, 1).reshape(B, K, *shape))
    locations = [points[levels == level] for level in range(len(STRIDES))]
    objects = instances(targets, dtype)
    at = (chosen + torch.arange(B)[:, None] * P).flatten()
    predicted = main.logits_BQK, main.outputs["ltrb"], main.outputs["centerness"]
    logits, ltrb, centerness = (x.flatten(0, 1) for x in predicted)
    answer = peer.losses(logits, ltrb, centerness[:, None], locations, objects, None, maps, at, B)[1]
    found = peer.get_ground_truth(locations, objects)
    per_image = [torch.cat([x.view(B, -1) for x in found[key]], 1) for key in ("target_inds", "labels")]
    return answer, torch.where(per_image[1] < K, per_image[0], -1)


@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize(("ours", "theirs"), FCOS, ids=lambda x: str(x))
@PRECISION
def test_tsp_fcos(dtype, tolerance, ours, theirs, counts):
    main, token, targets, chosen = fcos(counts, dtype=dtype)
    with computing_in(dtype), EventStorage(0):
        expected, gt_BP = official_fcos(main, token, targets, chosen, theirs, dtype)
        found = SetCriterion(tsp_fcos_rules(**ours))([token, main], targets)
    assert torch.equal(gt_BP, token.given.prior.candidate_gt_BQ)
    for own, their in FCOS_NAMES.items():
        gap = relative(found[f"loss_{own}"], expected[f"loss_fcos_{their}"])
        within(f"TSP-FCOS's losses, all switches, {str(dtype)[-7:]}", gap, tolerance)


def official_rcnn(s, targets, options, dtype):
    structures, regression = modules("structures", "modeling.box_regression")
    size, objects = torch.tensor([SIZE[1], SIZE[0]] * 2, dtype=dtype), instances(targets, dtype)
    gt_BQ, proposals = s.given.prior.candidate_gt_BQ, []
    for b, start in enumerate(targets.offsets_B.tolist()):
        one, own, mine = structures.Instances(SIZE), gt_BQ[b] - start, gt_BQ[b] >= 0
        one.proposal_boxes = structures.Boxes(box_cxcywh_to_xyxy(s.given.prior.boxes_BQ4[b]) * size)
        own = own.where(mine, 0)
        none = len(targets.labels[b]) == 0
        boxes, labels = objects[b].gt_boxes.tensor, targets.labels[b]
        one.gt_boxes = structures.Boxes(torch.zeros(len(own), 4, dtype=dtype) if none else boxes[own])
        one.gt_classes = torch.full_like(own, K) if none else labels[own].where(mine, K)
        one.gt_idxs = own
        proposals.append(one)
    peer = packages()[1].my_fast_rcnn_output.MyFastRCNNOutputs(
        regression.Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0)), s.logits_BQK.flatten(0, 1), None,
        s.outputs["deltas"].flatten(0, 1).flatten(1), proposals, objects, box_reg_loss_type="smooth_l1+giou",
        eos_weight=0.1, num_classes=K, **options,
    )  # fmt: skip
    return peer.losses()


@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize(("ours", "theirs"), RCNN, ids=lambda x: str(x))
@PRECISION
def test_tsp_rcnn(dtype, tolerance, ours, theirs, counts):
    s, targets = rcnn(counts, dtype=dtype)
    with computing_in(dtype), EventStorage(0):
        expected = official_rcnn(s, targets, theirs, dtype)
        found = SetCriterion(tsp_rcnn_rules(**ours))([s], targets)
    name = f"TSP-RCNN's losses, all switches, {str(dtype)[-7:]}"
    within(name, relative(found["loss_class"], expected.get("loss_obj", expected.get("loss_cls"))), tolerance)
    within(name, relative(found["loss_bbox"] + found["loss_giou"], expected["loss_box_reg"]), tolerance)


@PRECISION
def test_tsp_rcnn_with_hungarian_matching(dtype, tolerance):
    """Over boxes that know no class, as its code needs then."""
    s, targets = rcnn((5, 3, 9), dtype=dtype)
    boxes = s.outputs["class_boxes"][:, :, 0]
    own = torch.cat([boxes[..., :2] + boxes[..., 2:], 2 * (boxes[..., 2:] - boxes[..., :2])], -1) / 2
    s = replace(s, boxes_BQ4=own, outputs={"deltas": s.outputs["deltas"][:, :, :1]})
    options = {"use_detr_loss": True, "matcher": packages()[1].matcher.HungarianMatcher(1, 2, 5)}
    with computing_in(dtype), EventStorage(0):
        weight = torch.tensor([1.0] * K + [0.1], dtype=dtype)
        expected = official_rcnn(s, targets, {**options, "empty_weight": weight}, dtype)
        found = SetCriterion(tsp_rcnn_rules(match="hungarian"))([s], targets)
    name = f"TSP-RCNN's losses, all switches, {str(dtype)[-7:]}"
    within(name, relative(found["loss_class"], expected["loss_obj"]), tolerance)
    within(name, relative(found["loss_giou"], expected["loss_box_reg"]), tolerance)


def test_nothing_matched_is_no_loss_for_tsp_rcnn_where_asked_for():
    s, targets = rcnn((3, 2), far=True)
    with computing_in(torch.float64), EventStorage(0):
        expected = official_rcnn(s, targets, {"use_obj_loss": True}, torch.float64)
        found = SetCriterion(tsp_rcnn_rules(empty="nothing"))([s], targets)
    assert expected["loss_obj"] == 0 == found["loss_class"] and found["loss_bbox"] == 0 == found["loss_giou"]
