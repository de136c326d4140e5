"""TSP-RCNN: its size, its proposals, its regions in training and at inference, its answers."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import box_iou

from detrex_ext.checkpoint.classes import rows_by_name
from detrex_ext.checkpoint.layouts import recognize, to_layout
from detrex_ext.config import get_config, load_config
from detrex_ext.layers.box_ops import box_cxcywh_to_xyxy
from detrex_ext.modeling.decoders import RegionHead
from detrex_ext.modeling.encoders import RPN, RoIEncoder
from detrex_ext.modeling.encoders.roi_sampler import RoISampler
from detrex_ext.modeling.encoders.rpn import cell_anchors
from detrex_ext.modeling.postprocess import Postprocess
from detrex_ext.runtime import instantiate
from detrex_ext.structures import Features, Given, Memory, Prior, Queries, Slot, SupervisedSet, Targets

HW = torch.tensor([[64.0, 96.0], [56.0, 80.0]])
STRIDES = (4, 8, 16, 32, 64, 128)


@pytest.mark.parametrize("num_fc, parameters, keys", [(1, 56_695_678, 495), (2, 63_643_518, 497)])
def test_published_size_and_names(num_fc, parameters, keys):
    cfg = get_config("common/models/tsp_rcnn_r50.py").model
    cfg.num_classes, cfg.encoder.num_fc = 80, num_fc
    with torch.device("meta"):
        model = instantiate(cfg)
    assert sum(p.numel() for p in model.parameters()) == parameters
    theirs = to_layout(model, "tsp")
    assert len(theirs) == keys
    fc = [""] if num_fc == 1 else ["0.", "2."]
    assert {f"roi_heads.box_head.input_proj.{i}weight" for i in fc} < set(theirs)
    # a file of that time has buffers more
    older = [*theirs, "pixel_mean", "pixel_std"]
    older += [f"proposal_generator.anchor_generator.cell_anchors.{i}" for i in range(5)]
    layout = recognize(older)
    names = layout.rename(older, model.state_dict().keys())
    assert layout.name == "TSP-RCNN" and len(older) == keys + 7
    assert {x for x in names.values() if x} == set(model.state_dict())


@pytest.mark.parametrize("name", ["r50_3x", "r101_3x", "r50_96ep", "r101_96ep"])
def test_configs(name):
    cfg = load_config(f"tsp_rcnn_{name}", (), ["model.num_classes=4"])
    assert cfg.model.backbone.depth == int(name[1:].split("_")[0])
    assert cfg.train.max_iter == (720_000 if "96ep" in name else 270_000)
    assert (cfg.dataloader.train.mapper.augmentation_with_crop is None) == ("96ep" not in name)


def rpn(**options):
    torch.manual_seed(0)
    sizes = [[6.0 * 2**level, 9.0 * 2**level] for level in range(5)]
    more = {"norm": None, "num_convs": 1, "num_proposals": 20, "num_candidates": (15, 12), "num_samples": 16}
    return RPN(8, sizes=sizes, **{**more, **options}).double()


def maps(strides=STRIDES, seed=0):
    make = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 8, -(-64 // s), -(-96 // s), generator=make, dtype=torch.float64) for s in strides]


def targets(counts=(3, 2), seed=0):
    make = torch.Generator().manual_seed(seed)
    boxes = [torch.rand(n, 4, generator=make, dtype=torch.float64) * 0.3 + 0.25 for n in counts]
    return Targets(tuple(torch.randint(0, 4, (n,), generator=make) for n in counts), tuple(boxes), HW)


def test_anchors_have_their_areas_and_ratios_at_every_cell():
    anchors = RPN(8, norm=None).anchors(1, 2, 3)
    assert anchors.shape == (2 * 3 * 9, 4)
    center, size = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
    for row, (x, y) in zip(center.view(6, 9, 2), [(j * 16, i * 16) for i in range(2) for j in range(3)], strict=True):
        torch.testing.assert_close(row, torch.tensor([[float(x), float(y)]]).expand(9, 2), rtol=0, atol=1e-4)
    sides, ratios = size.prod(1).sqrt(), size[:, 1] / size[:, 0]
    known = torch.tensor([64.0, 80.63, 101.59]).repeat_interleave(3).repeat(6)
    torch.testing.assert_close(sides, known, rtol=1e-5, atol=0)
    torch.testing.assert_close(ratios, torch.tensor([0.5, 1.0, 2.0]).repeat(18), rtol=1e-5, atol=0)
    assert cell_anchors([10.0], [1.0]).tolist() == [[-5.0, -5.0, 5.0, 5.0]]


@pytest.mark.parametrize("sizes", [[[8.0]] * 4, [[8.0]] * 4 + [[8.0, 9.0]]])
def test_anchors_for_other_levels_are_refused(sizes):
    with pytest.raises(ValueError, match="sizes must be as many for each of 5 strides"):
        RPN(8, sizes=sizes)


def test_proposals_are_in_the_image_and_do_not_cover_each_other():
    network = rpn(nms=0.6).eval()
    with torch.no_grad():
        network.deltas.weight.mul_(20)
    boxes, valid, sets = network(maps(STRIDES[1:]), HW)
    assert not sets and boxes.shape == (2, valid.sum(1).max(), 4) and 5 < valid.sum(1).min() <= valid.sum(1).max() <= 20
    for own, there, (h, w) in zip(boxes, valid, HW.tolist(), strict=True):
        assert (own[there] >= 0).all() and (own[there] <= torch.tensor([w, h, w, h])).all()
        assert (own[there][:, 2:] > own[there][:, :2]).all() and (own[~there] == 0).all()


def test_no_proposal_and_what_is_not_finite():
    network = rpn().eval()
    with torch.no_grad():
        network.deltas.bias.view(-1, 4)[:, :2] = 1e4  # all leave the image
    boxes, valid, _ = network(maps(STRIDES[1:]), HW)
    assert boxes.shape == (2, 1, 4) and not valid.any()
    broken = maps(STRIDES[1:])
    broken[0][1] = float("nan")
    boxes, valid, _ = rpn().eval()(broken, HW)
    assert boxes.isfinite().all() and valid.any(1).all()


@pytest.mark.parametrize("counts", [(3, 2), (2, 0), (0, 0)])
def test_anchors_that_are_supervised(counts):
    network, about = rpn().train(), targets(counts)
    _, _, (s,) = network(maps(STRIDES[1:]), HW, about)
    assert (s.group, s.stage, s.logits_BQK.shape, s.outputs["deltas"].shape) == ("token", -1, (2, 16, 1), (2, 16, 1, 4))
    gt, valid, size = s.given.prior.candidate_gt_BQ, s.given.valid_BQ, HW.double().flip(1).repeat(1, 2)
    assert valid.all() and ((gt >= 0).sum(1) <= 8).all()
    anchors = box_cxcywh_to_xyxy(s.given.prior.boxes_BQ4) * size[:, None]
    for image in range(2):
        own = (about.image_G == image).nonzero()[:, 0].tolist()
        assert set(gt[image].tolist()) <= {-1, *own}
        if own:
            assert (gt[image] >= 0).any()
            iou = box_iou(anchors[image], box_cxcywh_to_xyxy(about.boxes[image]) * size[image])
            assert (iou[gt[image] < 0] < 0.3).all()  # neither a candidate nor background is not supervised
    (s.logits_BQK.sum() + s.outputs["deltas"].square().sum()).backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


def near(about, count=40, seed=1):
    """Proposals of each image, every second one of them an object moved a little, the others anywhere."""
    make = torch.Generator().manual_seed(seed)
    size = HW.double().flip(1).repeat(1, 2)
    anywhere = torch.rand(2, count, 2, generator=make, dtype=torch.float64) * 40
    boxes = torch.cat([anywhere, anywhere + 6], -1)
    for image, own in enumerate(about.boxes):
        if len(own):
            close = box_cxcywh_to_xyxy(own)[torch.arange(count // 2) % len(own)] * size[image]
            boxes[image, ::2] = close + torch.rand(count // 2, 4, generator=make, dtype=torch.float64)
    return boxes


def test_regions_are_labelled_and_sampled():
    about, size = targets(), HW.double().flip(1).repeat(1, 2)
    boxes = near(about)
    boxes[0, 38:] = 0
    there = torch.ones(2, 40, dtype=torch.bool)
    there[0, 38:] = False
    found, valid, gt = RoISampler(20, 0.5, 1.0)(boxes, there, HW, about)
    assert found.shape == (2, 20, 4) and valid.all() and ((gt >= 0).sum(1) == 10).all()
    for image in range(2):
        iou = box_iou(found[image], box_cxcywh_to_xyxy(about.boxes[image]) * size[image])
        known = (iou.argmax(1) + about.offsets_B[image]).where(iou.amax(1) >= 0.5, -1)
        assert torch.equal(gt[image], known)
        rows = [(boxes[image] == row).all(1).nonzero()[0, 0].item() for row in found[image]]
        assert rows == sorted(rows) and max(rows) < 40 - 2 * (image == 0)


def test_objects_are_added_only_where_nothing_overlaps_one():
    about = targets((2, 3))
    boxes = near(about)
    boxes[1] = torch.tensor([0.0, 0.0, 3.0, 3.0])
    there = torch.ones(2, 40, dtype=torch.bool)
    found, valid, gt = RoISampler(100, 0.5, 1.0)(boxes, there, HW, about)
    assert valid.sum(1).tolist() == [40, 43] and gt[1][-3:].tolist() == [2, 3, 4] and (gt[1][:-3] < 0).all()
    assert (found[1, -3:] != 0).all() and not valid[0, 40:].any() and (found[0, 40:] == 0).all()
    _, valid, gt = RoISampler(100, 0.5, 1.0, add_objects=False)(boxes, there, HW, about)
    assert valid.sum(1).tolist() == [40, 40] and (gt[1] < 0).all()


def test_a_share_of_each_image_is_dropped():
    torch.manual_seed(0)
    about, there = targets((0, 0)), torch.ones(2, 40, dtype=torch.bool)
    counts = [RoISampler(700, 0.25, (0.5, 1.0))(near(about), there, HW, about)[1].sum(1) for _ in range(100)]
    counts = torch.stack(counts)
    assert 20 <= counts.min() < 23 and 36 < counts.max() <= 40 and (counts[:, 0] != counts[:, 1]).any()
    assert RoISampler(700, 0.25, 0.3)(near(about), there, HW, about)[1].sum(1).tolist() == [12, 12]
    few = RoISampler(700, 0.25, 0.3)(near(about)[:, :1], there[:, :1], HW, about)[1]
    assert few.sum(1).tolist() == [1, 1]


def encoder(**options):
    torch.manual_seed(0)
    made = RoIEncoder(rpn(), 8, 32, 2, 32, 0.0, 1, STRIDES, pool_size=3, num_samples=20, **options).double()
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return made


def features():
    return Features(maps(), [], STRIDES, HW)


@pytest.mark.parametrize("options", [{}, {"coordinates": 4, "num_fc": 3, "fc_dim": 12}])
def test_slots_of_padding_change_nothing(options):
    """Each image alone, without the padding that the other's proposals make, gives the same tokens."""
    made = encoder(**options).eval()
    made.rpn.num_proposals = 12
    with torch.no_grad():
        made.rpn.deltas.weight[:] = 0  # anchors themselves: of the smaller image fewer are in it
        together, _ = made(features())
        for image in range(2):
            one = Features([m[image : image + 1] for m in maps()], [], STRIDES, HW[image : image + 1])
            alone, _ = made(one)
            n = int((~alone.pad_BS).sum())
            assert n == int((~together.pad_BS[image]).sum())
            torch.testing.assert_close(together.tokens_BSC[image, :n], alone.tokens_BSC[0, :n], rtol=0, atol=1e-12)


def test_an_encoder_without_proposals_stays_finite():
    made = encoder()
    with torch.no_grad():
        made.rpn.deltas.bias.view(-1, 4)[:, :2] = 1e4
    mem, _ = made.eval()(features())
    assert mem.pad_BS.all() and mem.tokens_BSC.isfinite().all()
    mem, sets = made.train()(features(), targets((0, 2)))  # an image's objects are added
    assert (~mem.pad_BS).sum(1).tolist()[0] == 0 and (~mem.pad_BS).any(1).tolist()[1]
    (mem.tokens_BSC.sum() + sets[0].logits_BQK.sum()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in made.parameters())


@pytest.mark.parametrize("options, message", [
    ({"coordinates": 6}, "coordinates must be 4 or 8"),
    ({"num_fc": 0}, "num_fc must be at least 1"),
    ({"token_keep": 0}, "token_keep is a share"),
])  # fmt: skip
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        encoder(**options)
    with pytest.raises(ValueError, match="6 maps, but strides for 5"):
        RoIEncoder(rpn(), 8, 32, 2, 32, strides=STRIDES[1:])(features())


def head(**options):
    torch.manual_seed(0)
    made = RegionHead(4, 16, **options).double()
    with torch.no_grad():
        made.bbox_embed.layers[-1].weight.normal_(std=0.5)
    return made


@pytest.mark.parametrize("agnostic", [False, True])
def test_boxes_of_classes(agnostic):
    ref = torch.rand(2, 5, 4, dtype=torch.float64) * 0.5 + 0.1
    q = Queries(torch.randn(2, 5, 16, dtype=torch.float64), ref, (Slot(5),), given={"main": Given(prior=Prior(ref))})
    mem = Memory(q.content_BTC, None, None, ((1, 5),), (1,), torch.ones(2, 1, 2), HW)
    (s,) = head(class_agnostic=agnostic)(q, mem)
    K = 1 if agnostic else 4
    assert s.softmax and s.logits_BQK.shape == (2, 5, 5) and s.outputs["class_boxes"].shape == (2, 5, K, 4)
    assert s.outputs["deltas"].shape == (2, 5, K, 4)
    deltas, known = s.outputs["deltas"] / torch.tensor([10.0, 10.0, 5.0, 5.0]), ref[:, :, None]
    center = known[..., :2] + deltas[..., :2] * known[..., 2:]
    size = known[..., 2:] * deltas[..., 2:].exp()
    own = torch.cat([center - size / 2, center + size / 2], -1)
    torch.testing.assert_close(s.outputs["class_boxes"], own, rtol=0, atol=1e-12)
    best = s.logits_BQK[..., :4].argmax(-1) % K
    picked = own.gather(2, best[..., None, None].expand(-1, -1, 1, 4))[:, :, 0]
    torch.testing.assert_close(box_cxcywh_to_xyxy(s.boxes_BQ4), picked, rtol=0, atol=1e-12)


def answers(**options):
    """Three regions of two classes; the second repeats the first, the third is padding."""
    logits = torch.tensor([[[4.0, 0.0, 1.0], [3.0, 2.9, 0.0], [9.0, 9.0, 0.0]]])
    one, two = [0.1, 0.1, 0.5, 0.5], [0.4, 0.4, 1.5, 1.5]
    class_boxes = torch.tensor([[[one, two], [one, one], [one, one]]])
    s = SupervisedSet(logits, torch.full((1, 3, 4), 0.5), 0, softmax=True, outputs={"class_boxes": class_boxes})
    s.given = Given(valid_BQ=torch.tensor([[True, True, False]]))
    return Postprocess(10, **options)([s], torch.tensor([[100.0, 200.0]]), [{}])[0]["instances"]


def test_answers_are_the_boxes_of_their_classes():
    found = answers(nms=0.7)
    prob = torch.tensor([[4.0, 0.0, 1.0], [3.0, 2.9, 0.0]]).softmax(1)
    one, two = [20, 10, 100, 50], [80, 40, 200, 100]
    known = [(prob[0, 0], 0, one), (prob[1, 1], 1, one), (prob[0, 1], 1, two)]
    assert found.pred_classes.tolist() == [k for _, k, _ in known]
    torch.testing.assert_close(found.scores, torch.stack([p for p, *_ in known]))
    torch.testing.assert_close(found.pred_boxes.tensor, torch.tensor([b for *_, b in known]).float())
    assert len(answers()) == 4 and len(answers(nms=0.7, class_agnostic=True)) == 2


def test_answers_may_be_lowered_instead_of_dropped():
    found = answers(nms=0.7, soft="gaussian", sigma=0.5)
    assert len(found) == 4 and (found.scores.diff() <= 0).all()
    prob = torch.tensor([3.0, 2.9, 0.0]).softmax(0)[0]
    assert any(abs(float(s) - float(prob) * 2.718281828 ** (-1 / 0.5)) < 1e-5 for s in found.scores)
    assert len(answers(nms=0.7, soft="linear")) == 3  # the copy's score is 0
    for options in ({"soft": "linear"}, {"soft": "hard", "nms": 0.5}):
        with pytest.raises(ValueError, match="soft is one of linear, gaussian beside an IoU"):
            Postprocess(10, **options)


def test_rows_of_boxes_follow_their_classes():
    """A file of other classes: a class's box moves with its name, and the proposal network is taken as it is."""
    made = []
    for names in (("cat", "dog", "cow"), ("dog", "owl")):
        cfg = get_config("common/models/tsp_rcnn_r50.py").model
        cfg.num_classes, cfg.dim, cfg.num_heads, cfg.encoder.rpn.sizes = len(names), 64, 2, [[8.0]] * 5
        cfg.encoder.ffn_dim = cfg.encoder.num_layers = 1
        made.append((instantiate(cfg), names))
    (source, then), (model, now) = made
    state, before = source.state_dict(), {k: v.clone() for k, v in model.state_dict().items()}
    rows_by_name(state, model, then, now)
    for kind in ("weight", "bias"):
        boxes, classes = f"decoder.bbox_embed.layers.2.{kind}", f"decoder.class_embed.{kind}"
        assert torch.equal(state[boxes][:4], source.state_dict()[boxes][4:8])
        assert torch.equal(state[boxes][4:], before[boxes][4:])
        known = source.state_dict()[classes]
        assert torch.equal(state[classes], torch.stack([known[1], before[classes][1], known[3]]))
        objectness = f"encoder.rpn.objectness.{kind}"  # of three ratios, as there are classes
        assert torch.equal(state[objectness], source.state_dict()[objectness])
    model.load_state_dict(state)
