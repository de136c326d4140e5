"""Ours against the official Co-DETR, part by part and in double: ATSS's head, regions, and the given queries.

See :mod:`.peer_co_detr`. Weights, maps and objects are the same; each side draws by itself what fills a group up.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from detrex_ext.criterion import QualityFocalLoss, SetCriterion, atss_rule, detr_rules, region_rule
from detrex_ext.layers.box_ops import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh
from detrex_ext.modeling.encoders import ATSSHead, RoIHead
from detrex_ext.modeling.queries import PositiveQueries
from detrex_ext.modeling.queries.positive import choose
from detrex_ext.strategies import CollaborativeHeads
from detrex_ext.structures import Given, Prior, SupervisedSet, Targets
from detrex_ext.structures.supervision import tokens_at

from .forced import cuda_is_the_cpu, double_by_default, in_double
from .gaps import far, relative, within
from .peer_co_detr import config, modules_of_checkout, skip_without_checkout

skip_without_checkout()

CLASSES, DIM, STRIDES, PADDED = 5, 64, (8, 16, 32, 64), (192, 256)
SIZES = [(192, 201), (150, 256)]
COUNTS = [(3, 0), (1, 1), (0, 0), (14, 6), (60, 60)]
GROUP_NORM = dict(type="GN", num_groups=32, requires_grad=True)
FOCAL = dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=12.0)


@pytest.fixture(autouse=True)
def double():
    with double_by_default(), cuda_is_the_cpu():
        yield


class Scene:
    """Maps, objects in pixels as theirs takes them, and normalized as ours does."""

    def __init__(self, counts, seed=0):
        torch.manual_seed(seed)
        self.maps = [torch.randn(2, DIM, -(-PADDED[0] // s), -(-PADDED[1] // s)) for s in STRIDES]
        self.boxes, self.labels = [], []
        for (h, w), n in zip(SIZES, counts, strict=True):
            size = torch.tensor([w, h]) * (0.05 + 0.5 * torch.rand(n, 2))
            start = torch.rand(n, 2) * (torch.tensor([w, h]) - size)
            self.boxes.append(torch.cat([start, start + size], 1))
            self.labels.append(torch.randint(CLASSES, (n,)))
        self.metas = [{"img_shape": (h, w, 3), "pad_shape": (h, w, 3), "batch_input_shape": PADDED} for h, w in SIZES]
        self.hw = torch.tensor(SIZES, dtype=torch.float64)
        sides = [torch.tensor([w, h, w, h]) for h, w in SIZES]
        normalized = [box_xyxy_to_cxcywh(b / side) for b, side in zip(self.boxes, sides, strict=True)]
        self.targets = Targets(tuple(self.labels), tuple(normalized), self.hw)


def their_head(load):
    head = load("projects.models.co_atss_head").CoATSSHead(
        num_classes=CLASSES, in_channels=DIM, feat_channels=DIM, stacked_convs=1, norm_cfg=GROUP_NORM,
        anchor_generator=config(type="AnchorGenerator", ratios=[1.0], octave_base_scale=8, scales_per_octave=1,
                                strides=list(STRIDES)),
        bbox_coder=config(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]),
        loss_cls=FOCAL, loss_bbox=dict(type="GIoULoss", loss_weight=24.0),
        loss_centerness=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=12.0),
        train_cfg=config(assigner=config(type="ATSSAssigner", topk=9), allowed_border=-1, pos_weight=-1, debug=False),
    )  # fmt: skip
    with torch.no_grad():
        for p in head.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return head


def as_theirs(head):
    """Our head with the weights of theirs, and pairs of parameters."""
    ours = ATSSHead(CLASSES, DIM, STRIDES)
    pairs = [(ours.scales, [s.scale for s in head.scales])]
    for mine, theirs in ((ours.class_tower, head.cls_convs[0]), (ours.box_tower, head.reg_convs[0])):
        pairs += [(mine[0].weight, [theirs.conv.weight]), (mine[1].weight, [theirs.gn.weight])]
        pairs += [(mine[1].bias, [theirs.gn.bias])]
    for name in ("cls", "reg", "centerness"):
        mine = {"cls": ours.class_embed, "reg": ours.deltas, "centerness": ours.centerness}[name]
        theirs = getattr(head, f"atss_{name}")
        pairs += [(mine.weight, [theirs.weight]), (mine.bias, [theirs.bias])]
    with torch.no_grad():
        for mine, theirs in pairs:
            mine.copy_(torch.stack([*theirs]).view_as(mine))
    return ours, pairs


def per_image(given, targets):
    """Labels (K for none) and boxes of the objects of all anchors, as theirs has them."""
    gt_BS = given.prior.candidate_gt_BQ
    if not targets.num:
        return torch.full_like(gt_BS, CLASSES), torch.zeros(*gt_BS.shape, 4)
    labels = targets.labels_G[gt_BS.clamp(min=0)].where(gt_BS >= 0, CLASSES)
    return labels, targets.boxes_G4[gt_BS.clamp(min=0)] * (gt_BS >= 0)[..., None]


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_the_head_and_its_losses(counts):
    scene = Scene(counts, seed=1 + sum(counts))
    with in_double(), modules_of_checkout() as load:
        head = their_head(load)
        ours, pairs = as_theirs(head)
        maps = [m.clone().requires_grad_() for m in scene.maps]
        theirs = head.forward_train(maps, scene.metas, scene.boxes, scene.labels)
        *_, labels, boxes, _ = theirs.pop("pos_coords")
        sum(sum(x) for x in theirs.values()).backward()
    own_maps = [m.clone().requires_grad_() for m in scene.maps]
    (found,), features = ours(own_maps, scene.hw, scene.targets, "atss")
    losses = SetCriterion([atss_rule(12.0, 24.0, 12.0)])([found], scene.targets)
    sum(losses.values()).backward()

    own_labels, own_boxes = per_image(found.given, scene.targets)
    valid_BS = found.given.valid_BQ
    assert valid_BS.any(1).all() and not valid_BS.all()
    for i, (h, w) in enumerate(SIZES):
        assert torch.equal(own_labels[i], labels[i])
        taken = labels[i] < CLASSES
        wanted = box_xyxy_to_cxcywh(boxes[i] / torch.tensor([w, h, w, h]))
        within("Co-DETR: boxes of positives", far(own_boxes[i][taken], wanted[taken]) if taken.any() else 0.0, 1e-12)
    for term, key in (("class", "cls"), ("giou", "bbox"), ("centerness", "centerness")):
        gap = relative(losses[f"loss_{term}_atss_head"], sum(theirs[f"loss_{key}"]))
        within("Co-DETR: losses of ATSS's head", gap, 1e-10)
    for a, b in zip(own_maps, maps, strict=True):
        within("Co-DETR: gradients of ATSS's head", far(a.grad, b.grad) / float(b.grad.abs().max()), 1e-9)
    for mine, of_theirs in pairs:
        wanted = torch.stack([p.grad if p.grad is not None else torch.zeros_like(p) for p in of_theirs]).view_as(mine)
        within("Co-DETR: gradients of ATSS's head", far(mine.grad, wanted) / max(float(wanted.abs().max()), 1e-9), 1e-9)
    assert torch.equal(features[0, : scene.maps[0][0, 0].numel()], own_maps[0][0].flatten(1).T)


@pytest.mark.parametrize("counts", [(3, 0), (1, 1), (0, 0), (14, 6)], ids=str)
def test_regions_and_their_losses(counts):
    """The same sampled regions: what the maps show of them, classes, boxes, losses and gradients."""
    scene = Scene(counts, seed=40 + sum(counts))
    ours = RoIHead(CLASSES, DIM, STRIDES, fc_dim=48, num_proposals=80, num_samples=60)
    torch.nn.init.normal_(ours.bbox_embed.weight, std=0.05)
    own_maps = [m.clone().requires_grad_() for m in scene.maps]
    (_, found), features = ours(own_maps, scene.hw, scene.targets, "roi")
    losses = SetCriterion([region_rule(12.0, 120.0)])([found], scene.targets)
    sum(losses.values()).backward()
    valid_BN, gt_BN = found.given.valid_BQ, found.given.prior.candidate_gt_BQ
    corners = box_cxcywh_to_xyxy(found.given.prior.boxes_BQ4) * scene.hw.flip(1).repeat(1, 2)[:, None]
    rois = torch.cat([valid_BN.nonzero()[:, :1] * 1.0, corners[valid_BN]], 1)
    labels, wanted = per_image(found.given, scene.targets)
    wanted = box_cxcywh_to_xyxy(wanted) * scene.hw.flip(1).repeat(1, 2)[:, None]
    with in_double(), modules_of_checkout() as load:
        bbox_heads = load("mmdet.models.roi_heads.bbox_heads.convfc_bbox_head")
        extractor = load("mmdet.models.roi_heads.roi_extractors.single_level_roi_extractor").SingleRoIExtractor(
            config(type="RoIAlign", output_size=7, sampling_ratio=0), DIM, list(STRIDES[:-1]), finest_scale=112
        )
        head = bbox_heads.Shared2FCBBoxHead(
            in_channels=DIM, fc_out_channels=48, roi_feat_size=7, num_classes=CLASSES, reg_class_agnostic=False,
            bbox_coder=config(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]),
            reg_decoded_bbox=True, loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=12.0),
            loss_bbox=dict(type="GIoULoss", loss_weight=120.0),
        )  # fmt: skip
        parts = (ours.fcs[0], head.shared_fcs[0]), (ours.fcs[2], head.shared_fcs[1]), (ours.class_embed, head.fc_cls)
        for mine, theirs in (*parts, (ours.bbox_embed, head.fc_reg)):
            theirs.load_state_dict(mine.state_dict())
        maps = [m.clone().requires_grad_() for m in scene.maps]
        shown = extractor(maps[:-1], rois)
        scores, deltas = head(shown)
        chosen = gt_BN[valid_BN] >= 0
        weights = torch.ones(len(rois)), chosen[:, None].expand(-1, 4) * 1.0
        theirs = head.loss(scores, deltas, rois, labels[valid_BN], weights[0], wanted[valid_BN], weights[1])
        (theirs["loss_cls"] + theirs["loss_bbox"]).backward()
    within("Co-DETR: what is shown of regions", far(features[valid_BN], shown.mean((2, 3))), 1e-12)
    within("Co-DETR: classes of regions", far(found.logits_BQK[valid_BN], scores), 1e-12)
    for term, key in (("class", "cls"), ("giou", "bbox")):
        within("Co-DETR: losses of regions", relative(losses[f"loss_{term}_roi_head"], theirs[f"loss_{key}"]), 1e-6)
    for a, b in zip(own_maps[:-1], maps[:-1], strict=True):
        wanted = torch.zeros_like(a) if b.grad is None else b.grad
        within("Co-DETR: gradients of regions", far(a.grad, wanted) / max(float(wanted.abs().max()), 1e-9), 1e-6)


class _Recorder(torch.nn.Module):
    """A decoder that only remembers what it was given."""

    def forward(self, **given):
        self.given = given
        return None, None


def their_queries(load, dino, scene, coords, features):
    """Content, position and references of their given queries, labels, and the transformer that made them."""
    transformer = load("projects.models.transformer")
    cls = transformer.CoDinoTransformer if dino else transformer.CoDeformableDetrTransformer
    made = cls.__new__(cls)
    torch.nn.Module.__init__(made)
    made.embed_dims, made.num_co_heads, made.with_pos_coord, made.with_coord_feat = DIM, 2, True, not dino
    made._init_layers()
    made.decoder = _Recorder()
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.1 * torch.randn_like(p))
    masks = [torch.zeros(2, *m.shape[2:], dtype=torch.bool) for m in scene.maps[:-1]]
    places = [m.flatten(1) for m in masks]
    made.forward_aux(scene.maps[:-1], masks, None, places, coords, pos_feats=features, head_idx=1)
    given = made.decoder.given
    position = None if dino else given["query_pos"].transpose(0, 1)
    return given["query"].transpose(0, 1), position, given["reference_points"], made


@pytest.mark.parametrize("dino", [False, True], ids=["Co-Deformable-DETR", "Co-DINO"])
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_positives_become_queries(counts, dino):
    scene = Scene(counts, seed=20 + sum(counts))
    with in_double(), modules_of_checkout() as load:
        head = their_head(load)
        ours, _ = as_theirs(head)
        coords = head.forward_train(scene.maps, scene.metas, scene.boxes, scene.labels)["pos_coords"]
        cls = load("projects.models.co_deformable_detr_head").CoDeformDETRHead
        query_head = cls.__new__(cls)
        torch.nn.Module.__init__(query_head)
        query_head.num_classes, query_head.max_pos_coords, query_head.use_zero_padding = CLASSES, 300, False
        boxes, labels, *_, features, _ = query_head.get_aux_targets(coords, scene.metas, scene.maps, 1)
        content, position, ref, peer = their_queries(load, dino, scene, boxes, features)
    (found,), features_BSC = ours(scene.maps, scene.hw, scene.targets, "atss")
    queries = PositiveQueries(DIM, not dino, not dino)
    state = {f"code.{i}.{k}": v for i, part in enumerate((peer.aux_pos_trans[1], peer.aux_pos_trans_norm[1]))
             for k, v in part.state_dict().items()}  # fmt: skip
    if not dino:
        state |= {f"features.{i}.{k}": v for i, part in enumerate((peer.pos_feats_trans[1], peer.pos_feats_norm[1]))
                  for k, v in part.state_dict().items()}  # fmt: skip
        state["place"] = peer.head_pos_embed.weight[1].expand(DIM)  # one number in their released form
    queries.load_state_dict(state)

    index_BQ, valid_BQ = choose(found.given, 300, 10**6)
    count = int((found.given.prior.candidate_gt_BQ >= 0).sum(1).max())
    assert index_BQ.shape[1] == boxes.shape[1] == max(9, min(300, count))
    own_boxes = tokens_at(found.given.prior.boxes_BQ4, index_BQ)
    own_content, own_position = queries(own_boxes, tokens_at(features_BSC, index_BQ))
    gt_BQ = found.given.prior.candidate_gt_BQ.gather(1, index_BQ)
    assert valid_BQ.all()
    for i in range(2):
        own = (gt_BQ[i] >= 0).nonzero()[:, 0]
        own = own[index_BQ[i, own].argsort()]  # theirs keeps the order of the maps
        assert len(own) == int((labels[i] < CLASSES).sum()) and (labels[i, : len(own)] < CLASSES).all()
        if len(own) == 0:
            continue
        if int((coords[1][i] < CLASSES).sum()) > boxes.shape[1]:
            continue  # each draws other ones
        wanted = slice(0, len(own))
        assert torch.equal(scene.targets.labels_G[gt_BQ[i, own]], labels[i, wanted])
        within("Co-DETR: queries of positives", far(own_boxes[i, own], ref[i, wanted]), 1e-12)
        within("Co-DETR: queries of positives", far(own_content[i, own], content[i, wanted]), 1e-12)
        if not dino:
            within("Co-DETR: queries of positives", far(own_position[i, own], position[i, wanted]), 1e-12)


@pytest.mark.parametrize("dino", [False, True], ids=["Co-Deformable-DETR", "Co-DINO"])
@pytest.mark.parametrize("positives", [0, 1, 12, 40])
def test_losses_of_given_queries(positives, dino):
    torch.manual_seed(positives)
    scene, Q = Scene((7, 4)), 40
    gt_BQ = torch.full((2, Q), -1)
    gt_BQ[0, :positives] = torch.randint(7, (positives,))
    gt_BQ[1, : positives // 2] = 7 + torch.randint(4, (positives // 2,))
    logits, boxes = torch.randn(2, Q, CLASSES), torch.rand(2, Q, 4) * 0.5 + 0.2
    labels = scene.targets.labels_G[gt_BQ.clamp(min=0)].where(gt_BQ >= 0, CLASSES)
    wanted = scene.targets.boxes_G4[gt_BQ.clamp(min=0)]
    weights = (gt_BQ >= 0)[..., None].expand(-1, -1, 4) * 1.0
    sides = [(logits.clone().requires_grad_(), boxes.clone().requires_grad_()) for _ in range(2)]
    by_quality = dict(type="QualityFocalLoss", use_sigmoid=True, beta=2.0, loss_weight=1.0)
    with in_double(), modules_of_checkout() as load:
        made = load("projects.models.co_deformable_detr_head").CoDeformDETRHead
        if dino:
            load("projects.models").CoDeformDETRHead = made
            made = load("projects.models.co_dino_head").CoDINOHead
        build, head = load("mmdet.models.builder").build_loss, made.__new__(made)
        torch.nn.Module.__init__(head)
        head.num_classes = head.cls_out_channels = CLASSES
        head.bg_cls_weight, head.sync_cls_avg_factor, head.lambda_1 = 0.0, True, 1
        head.loss_cls = build(by_quality if dino else {**FOCAL, "loss_weight": 2.0})
        head.loss_bbox = build(dict(type="L1Loss", loss_weight=5.0))
        head.loss_iou = build(dict(type="GIoULoss", loss_weight=2.0))
        theirs = head.loss_single_aux(*sides[0], labels, torch.ones(2, Q), wanted, weights, scene.metas)
        sum(theirs).backward()
    rules = detr_rules(class_weight=1.0 if dino else 2.0)
    main = rules["main"]
    terms = {**main.terms, "class": replace(main.terms["class"], loss=QualityFocalLoss())} if dino else main.terms
    terms["giou"].loss.eps = 0.0
    given = Given(prior=Prior(candidate_gt_BQ=gt_BQ), valid_BQ=torch.ones(2, Q, dtype=torch.bool))
    one = SupervisedSet(*sides[1], 0, "atss", given=given)
    losses = SetCriterion(CollaborativeHeads().rules({"main": replace(main, terms=terms)}))([one], scene.targets)
    sum(losses.values()).backward()
    for term, value in zip(("class", "bbox", "giou"), theirs, strict=True):
        within("Co-DETR: losses of given queries", relative(losses[f"loss_{term}_atss"], value), 1e-10)
    for a, b in zip(*sides, strict=True):
        wanted = torch.zeros_like(b) if a.grad is None else a.grad
        within("Co-DETR: gradients of given queries", far(wanted, b.grad), 1e-10)
