"""detrex's models as ours by ``from_detrex``; parts of detrex in our models, and ours in detrex's criterion."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from detrex_ext.errors import UserError
from detrex_ext.integrations import from_detrex
from detrex_ext.matching import HungarianMatcher
from detrex_ext.runtime import LazyCall as L
from detrex_ext.runtime import LazyConfig, instantiate
from detrex_ext.strategies import QueryRecollection
from detrex_ext.testing import check_strategy

from .models import batch
from .peer import skip_without_detrex

skip_without_detrex()

_DEFORMABLE = "deformable_detr/configs/models/deformable_detr_r50.py"
MODELS = {
    "detr": ("detr/configs/models/detr_r50.py", {}),
    "dab": ("dab_detr/configs/models/dab_detr_r50.py", {}),
    "plain": (_DEFORMABLE, {}),
    "refine": (_DEFORMABLE, {"with_box_refine": True}),
    "two_stage": (_DEFORMABLE, {"with_box_refine": True, "as_two_stage": True}),
    "dino": ("dino/configs/models/dino_r50.py", {}),
}
SIZES, OBJECTS = [(128, 160), (96, 128)], [3, 2]
PROJECTS = Path(importlib.import_module("detrex").__file__).parents[1] / "projects"


def config(kind):
    """detrex's own config of a model, with less queries than these small images have tokens."""
    file, changes = MODELS[kind]
    cfg = LazyConfig.load(str(PROJECTS / file)).model
    cfg.update({"num_queries": 100, "device": "cpu", **changes})
    return cfg


def guest(kind):
    """A model of detrex, away from its initial weights, which are all zero in box heads."""
    torch.manual_seed(5)
    model = instantiate(config(kind))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.02)
    return model.eval()


def raw(model, items):
    """Logits and boxes of the last stage, as ``inference`` gets them."""
    seen = []
    original = model.inference
    model.inference = lambda logits, boxes, sizes: seen.append((logits, boxes)) or original(logits, boxes, sizes)
    with torch.no_grad():
        results = model(items)
    del model.inference
    return *seen[0], results


@pytest.mark.parametrize("kind", list(MODELS))
def test_the_guest_predicts_as_at_home(kind):
    theirs = guest(kind)
    ours = from_detrex(theirs)
    items = batch(SIZES, OBJECTS, 80)
    logits, boxes, expected = raw(theirs, items)
    with torch.no_grad():
        last, found = ours.forward_sets(items)[-1], ours(items)
    assert (last.logits_BQK - logits).abs().max() < 1e-5
    assert (last.boxes_BQ4 - boxes).abs().max() < 1e-5
    for a, b in zip(found, expected, strict=True):
        scores, same = (x["instances"].scores.sort().values for x in (a, b))
        assert (scores - same).abs().max() < 1e-5
    assert last.stage == 5 and not ours.training
    assert {type(ours.backbone).__module__.split(".")[0], type(ours.neck).__module__.split(".")[0]} == {"detrex_ext"}
    trained = [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (theirs, ours)]
    assert trained[0] == trained[1]


@pytest.mark.parametrize("kind", ["detr", "dab", "two_stage"])
def test_the_guest_learns_as_at_home(kind):
    """The sum of all weighted losses, by rules that were read off its criterion."""
    theirs = guest(kind)
    for part in theirs.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        elif isinstance(part, torch.nn.MultiheadAttention):
            part.dropout = 0.0
    theirs.criterion.weight_dict = {k: w * (1.5 if "giou" in k else 1) for k, w in theirs.criterion.weight_dict.items()}
    theirs.criterion.alpha = 0.4
    ours = from_detrex(theirs.train())
    items = batch(SIZES, OBJECTS, 80)
    expected, found = sum(theirs(items).values()), sum(ours(items).values())
    assert ours.training and float(found) == pytest.approx(float(expected), rel=1e-5)


def test_dino_is_read_off_whole():
    theirs = instantiate({**config("dino"), "dn_number": 30, "label_noise_ratio": 0.3})
    theirs.criterion.weight_dict.update({k: 7.0 for k in theirs.criterion.weight_dict if "bbox_dn" in k})
    ours = from_detrex(theirs)
    queries = ours.queries
    assert (queries.number, queries.label_noise_ratio, queries.source.num_queries) == (30, 0.3, 100)
    assert set(ours.rules) == {"main", "enc", "dn"} and not ours.rules["enc"].objectness
    assert [ours.rules[g].terms["bbox"].weight for g in ("main", "enc", "dn")] == [5.0, 5.0, 7.0]
    assert from_detrex(theirs, rules={}).criterion is None


def short(kind):
    """Two layers on each side."""
    cfg = config(kind)
    cfg.transformer.encoder.num_layers = cfg.transformer.decoder.num_layers = 2
    return cfg


FILE = """
from detrex_ext.integrations import as_guest
from detrex_ext.runtime import LazyConfig

cfg = LazyConfig.load("{path}")
model, dataloader = cfg.model, None
model = as_guest(model)
"""


def test_one_line_of_a_config_file(tmp_path):
    (tmp_path / "mine.py").write_text(FILE.format(path=PROJECTS / _DEFORMABLE))
    cfg = LazyConfig.load(str(tmp_path / "mine.py"))
    cfg.model.num_classes = 3
    cfg.model.guest.transformer.encoder.num_layers = cfg.model.guest.transformer.decoder.num_layers = 2
    cfg.model.strategies.sqr = L(QueryRecollection)()
    LazyConfig.save(cfg, str(tmp_path / "saved.yaml"))
    model = instantiate(LazyConfig.load(str(tmp_path / "saved.yaml")).model)
    assert model.num_classes == len(model.decoder.class_embed[0].bias) == 3 and "sqr" in model.strategies
    losses = model.train()(batch(SIZES, OBJECTS, 3))
    assert {"loss_class", "loss_class_recollect"} <= set(losses)
    with pytest.raises(UserError, match="num_classes is 4, the detrex model's is 80"):
        from_detrex(config("plain"), num_classes=4)


def test_strategies_hold_on_a_guest():
    cfg = short("two_stage")
    cfg.num_queries = 6
    check_strategy(QueryRecollection(), from_detrex(cfg))


def test_what_cannot_be_a_guest():
    cfg = short("two_stage")
    cfg.transformer.decoder.ffn_dropout = 0.3
    with pytest.raises(UserError, match=r"rates of dropout \[0.1, 0.3\]"):
        from_detrex(cfg)
    with pytest.raises(UserError, match="Linear is none of detrex's DeformableDETR, DINO, DABDETR, DETR"):
        from_detrex(torch.nn.Linear(1, 1))
    theirs = instantiate(short("plain"))
    theirs.criterion.weight_dict["loss_bbox_0"] = 9.0
    with pytest.raises(UserError, match=r"weights of loss_bbox differ between layers: \[5.0, 9.0\]"):
        from_detrex(theirs)


def test_a_backbone_that_is_no_resnet_stays_the_guests():
    theirs = instantiate(short("plain")).eval()
    theirs.backbone.res5[0].conv2.dilation = (2, 2)
    theirs.backbone.res5[0].conv2.padding = (2, 2)
    theirs.neck.convs[0].activation = torch.nn.ReLU()
    ours, items = from_detrex(theirs), batch(SIZES, OBJECTS, 80)
    logits, boxes, _ = raw(theirs, items)
    with torch.no_grad():
        last = ours.forward_sets(items)[-1]
    assert type(ours.backbone) is type(theirs.backbone) and type(ours.neck) is type(theirs.neck)
    assert (last.logits_BQK - logits).abs().max() < 1e-5 and (last.boxes_BQ4 - boxes).abs().max() < 1e-5


def test_parts_of_detrex_in_a_config_of_ours():
    """detectron2's ResNet and detrex's channel mapper by ``L(...)``, as they stand in detrex's config."""
    from detrex_ext.config import load_config

    guests, cfg = config("plain"), load_config("deformable_detr_r50_50ep").model
    cfg.num_classes, cfg.decoder.num_layers, cfg.encoder.num_layers = 80, 1, 1
    torch.manual_seed(0)
    ours = instantiate(cfg).eval()
    cfg.backbone, cfg.neck = guests.backbone, guests.neck
    mixed = instantiate(cfg).eval()
    mixed.load_state_dict(ours.state_dict(), strict=True)
    items = batch(SIZES, OBJECTS, 80)
    with torch.no_grad():
        a, b = (m.forward_sets(items)[-1] for m in (ours, mixed))
    assert (
        type(mixed.neck).__module__.startswith("detrex.modeling") and (a.logits_BQK - b.logits_BQK).abs().max() < 1e-5
    )


def test_a_backbone_of_detrex_gives_maps_by_its_own_names():
    from detrex.modeling.backbone import FocalNet

    from detrex_ext.config import load_config

    cfg = load_config("deformable_detr_r50_50ep").model
    cfg.num_classes, cfg.decoder.num_layers, cfg.encoder.num_layers = 80, 1, 1
    cfg.backbone = L(FocalNet)(embed_dim=24, depths=[1, 1, 1, 1], out_indices=(1, 2, 3))
    cfg.neck.in_channels = dict(p1=48, p2=96, p3=192)
    losses = instantiate(cfg).train()(batch(SIZES, OBJECTS, 80))
    assert torch.isfinite(sum(losses.values()))


def test_our_matcher_in_detrexs_criterion():
    cfg = config("two_stage").criterion
    criterion = instantiate(cfg)
    cfg.matcher = L(HungarianMatcher)(cost_class=2.0, cost_bbox=5.0, cost_giou=2.0)
    ours = instantiate(cfg)
    torch.manual_seed(1)
    targets = [{"labels": torch.randint(0, 80, (n,)), "boxes": torch.rand(n, 4) * 0.4 + 0.2} for n in (4, 0, 7)]

    def some(queries):
        return {"pred_logits": torch.randn(3, queries, 80), "pred_boxes": torch.rand(3, queries, 4) * 0.4 + 0.2}

    outputs = {**some(20), "aux_outputs": [some(20), some(20)], "enc_outputs": some(50)}
    expected, found = criterion(outputs, targets), ours(outputs, targets)
    assert expected.keys() == found.keys() and len(found) == 12
    assert isinstance(ours.matcher, HungarianMatcher) and all(torch.equal(found[k], expected[k]) for k in found)
