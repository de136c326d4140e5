"""Constants that differ between codes: the guards of IoUs and logits are options, a paper's configs have its code's."""

from __future__ import annotations

import math

import pytest
import torch

from detrex_ext.config import load_config
from detrex_ext.criterion import GIoULoss
from detrex_ext.layers.box_ops import box_cxcywh_to_xyxy, giou_of_corners, inverse_sigmoid, iou_of_corners
from detrex_ext.matching import GIoUCost
from detrex_ext.modeling.decoders import DABDecoder, DeformableDecoder
from detrex_ext.modeling.queries import AnchorQueries, DenoisingQueries
from detrex_ext.runtime import instantiate
from detrex_ext.structures import Memory, Queries, Slot, Targets

DETREX = (1e-3, 1e-8, 1e-6)
AUTHORS = (1e-5, 1e-8, 0.0)
MMDET = (1e-5, 1e-12, 0.0)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("small", DETREX),
        ("deformable_detr_r50_50ep", DETREX),
        ("dab_detr_r50_50ep", DETREX),
        ("dino_r50_4scale_12ep", DETREX),
        ("hybrid_dino_r50_4scale_12ep", DETREX),
        ("deformable_detr_plus_r50_12ep", AUTHORS),
        ("hybrid_deformable_r50_12ep", AUTHORS),
        ("hybrid_deformable_plus_r50_36ep", AUTHORS),
        ("dac_deformable_r50_12ep", AUTHORS),
        ("dac_cdn_r50_12ep", AUTHORS),
        ("dac_cdn_ice_swin_l_12ep", AUTHORS),
        ("deformable_detr_r50_50ep_sqr", MMDET),
        ("adamixer_r50_12ep", (None, *MMDET[1:])),
    ],
)
def test_a_config_has_the_constants_of_its_code(name, wanted):
    model = load_config(name).model
    main = instantiate(model.rules.main)
    classes, _, giou = main.matcher.costs
    assert (model.decoder.get("inverse_sigmoid_eps"), classes.eps, giou.eps) == wanted
    assert main.terms["giou"].loss.eps == wanted[2]
    if "inverse_sigmoid_eps" in model.queries:
        assert model.queries.inverse_sigmoid_eps == wanted[0]
    for rule in (model.rules[g] for g in ("enc", "dn", "hybrid") if g in model.rules):
        assert instantiate(rule).terms["giou"].loss.eps == wanted[2]


def test_one_key_moves_denoising_with_the_decoder():
    model = load_config("dino_r50_4scale_12ep", (), ["model.decoder.inverse_sigmoid_eps=1e-4"]).model
    assert model.queries.inverse_sigmoid_eps == 1e-4


def test_nothing_added_is_exact_and_empty_boxes_stay_finite():
    side = 1e-4  # of the image: areas are 1e-8
    a, b = (box_cxcywh_to_xyxy(torch.tensor([x, 0.5, side, side], dtype=torch.float64)) for x in (0.5, 0.5 + side / 2))
    assert iou_of_corners(a, b, eps=0.0)[0].item() == pytest.approx(1 / 3, rel=1e-9)
    assert giou_of_corners(a, b, eps=0.0).item() == pytest.approx(1 / 3, rel=1e-9)
    assert giou_of_corners(a, b).item() < 0.01  # with detrex's 1e-6 added the boxes hardly meet
    empty = torch.zeros(4, requires_grad=True)
    value = giou_of_corners(empty, torch.zeros(4), eps=0.0)
    value.backward()
    assert value.item() == 0 and torch.isfinite(empty.grad).all()


def test_a_reference_near_the_border_keeps_its_place():
    """A stage that moves nothing gives its reference back, down to the constant."""
    ref = torch.tensor([[[2e-4, 1 - 2e-4, 1e-5, 2e-6]]])
    mem = Memory(torch.randn(1, 4, 16), None, None, ((2, 2),), (8,), torch.ones(1, 1, 2), torch.ones(1, 2))
    for decoder in (DeformableDecoder, DABDecoder):
        sizes = {"num_levels": 1, "refine": True} if decoder is DeformableDecoder else {}
        for eps, wanted in ((1e-3, [1e-3, 1 - 1e-3, 1e-3, 1e-3]), (1e-5, [2e-4, 1 - 2e-4, 1e-5, 1e-5])):
            model = decoder(3, 16, 2, num_layers=1, dropout=0.0, inverse_sigmoid_eps=eps, **sizes)
            queries = Queries(torch.randn(1, 1, 16), ref, (Slot(1),), extra={"query_pos": torch.zeros(1, 1, 16)})
            if decoder is DABDecoder:
                mem.pos_BSC = torch.zeros(1, 4, 16)
            (one,) = model(queries, mem)
            # log(eps / (1 - x)) is what it is, so that the box is eps only to first order
            torch.testing.assert_close(one.boxes_BQ4[0, 0], torch.tensor(wanted), rtol=2e-3, atol=1e-7)


def test_a_noised_box_near_the_border_keeps_its_place():
    mem = Memory(torch.randn(1, 4, 8), None, None, ((2, 2),), (8,), torch.ones(1, 1, 2), torch.ones(1, 2))
    targets = Targets((torch.tensor([0]),), (torch.tensor([[0.5, 0.5, 1e-4, 1e-4]]),), torch.ones(1, 2))
    for eps in (1e-3, 1e-5):
        source = AnchorQueries(3, 8)
        queries = DenoisingQueries(source, 2, 8, number=1, box_noise_scale=0.0, inverse_sigmoid_eps=eps).train()
        found, _ = queries(mem, targets)
        assert found.ref_BT4[0, 0, 2].item() == pytest.approx(max(1e-4, eps), rel=2e-3)


@pytest.mark.parametrize("eps", [0.0, -1e-3, 0.5, math.nan])
def test_meaningless_values(eps):
    for part in (
        lambda: DeformableDecoder(3, 16, 2, inverse_sigmoid_eps=eps),
        lambda: DABDecoder(3, 16, 2, inverse_sigmoid_eps=eps),
        lambda: DenoisingQueries(AnchorQueries(3, 8), 2, 8, inverse_sigmoid_eps=eps),
    ):
        with pytest.raises(ValueError, match="inverse_sigmoid_eps must be above 0 and below 0.5"):
            part()
    for part in (GIoULoss, GIoUCost):
        with pytest.raises(ValueError, match="eps must not be negative, got -1"):
            part(eps=-1.0)


def test_the_default_is_detrexs():
    assert inverse_sigmoid(torch.tensor(0.0)).item() == pytest.approx(math.log(1e-3))
    assert (GIoULoss().eps, GIoUCost().eps) == (1e-6, 1e-6)
