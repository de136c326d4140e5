"""The official Mr. DETR, whole, against our shipped config filled from its file; see :mod:`.peer_mr_detr`."""

from __future__ import annotations

import pytest
import torch

from detrex_ext.checkpoint import load_state
from detrex_ext.config import load_config
from detrex_ext.runtime import instantiate

from .checkout import disturb
from .forced import computing_in, double_by_default, watched_choice
from .gaps import relative, within
from .models import batch
from .peer_mr_detr import build, modules_of_checkout, outputs_and_losses, skip_without_checkout
from .whole import STAGES, Pair, compare_gradients, compare_sets, stages

skip_without_checkout()

SIZES = [(240, 272), (256, 232)]
QUERIES = {"deformable": 300, "dino": 900}  # their mask of denoising names 900


CONFIGS = {"deformable": "mr_deformable_plus_r50_300q_12ep", "dino": "mr_cdn_r50_12ep"}
CASES = [(project, counts) for project in CONFIGS for counts in ((4, 7), (1, 1), (0, 0), (0, 3))]


@pytest.mark.parametrize("project, objects", CASES, ids=str)
def test_the_shipped_config_is_the_released_model(project, objects):
    """Sets of all three routes, all losses and all gradients, in double."""
    what = f"Mr. DETR, {project}"
    items = batch(SIZES, objects, 80, seed=2, dtype=torch.float64)
    with modules_of_checkout():
        torch.manual_seed(1)
        peer = build(project, QUERIES[project])
        disturb(peer)
        state = {k: v.clone() for k, v in peer.state_dict().items()}
        with computing_in(torch.float64), watched_choice(QUERIES[project]) as chosen:
            torch.manual_seed(3)  # of the noise of denoising
            outputs, wanted = outputs_and_losses(peer.double(), items)
    # of several objects that take a query theirs has the class of the last one, on a CPU; the recipe has the best one's
    last = "model.strategies.mr.matcher.conflict=last_class"
    cfg = load_config(CONFIGS[project], (), ["model.num_classes=80", last]).model
    cfg.preprocess.parity_padding = True
    (cfg.queries.source if project == "dino" else cfg.queries).num_queries = QUERIES[project]
    ours = instantiate(cfg)
    report = load_state(ours, state, strict=True)
    assert report.complete and report.layout == "Mr. DETR" and not report.dropped
    ours = ours.double().train()
    with double_by_default():
        torch.manual_seed(3)
        images, targets = ours.inputs(items)
        sets = ours.core(images.images_B3HW, images.valid_hw_B2, targets)
        losses = ours.criterion(sets, targets)

    assert len(chosen) == 2  # proposals of both heads
    compare_sets(f"{what}: sets", sets, ("main", "plain"), stages(outputs), 1e-12)
    for path, key in (("instructed", "group"), ("separate", "sep")):
        of_route = [(one["pred_logits"], one["pred_boxes"]) for one in outputs[key]]
        compare_sets(f"{what}: sets", sets, ("main", path), of_route, 1e-12)
    keys = dict(names_of_losses(project == "dino"))
    assert set(keys) == set(losses.stats) and set(keys.values()) == set(wanted)
    for ours_key, key in keys.items():
        within(f"{what}: losses", relative(losses.stats[ours_key], wanted[key]), 1e-12)
    sum(wanted.values()).backward()
    sum(losses.values()).backward()
    compare_gradients(f"{what}: gradients", Pair(peer, peer.criterion, ours, cfg), 1e-9)


def names_of_losses(denoising):
    """Our statistics per stage and path, and what their criterion calls them."""
    for term in ("class", "bbox", "giou"):
        yield f"stage-1/loss_{term}_enc", f"loss_{term}_enc"
        yield f"stage-1/loss_{term}_enc_instructed", f"loss_{term}_enc_o2m"
        for i in range(STAGES):
            yield f"stage{i}/loss_{term}", f"loss_{term}" + ("" if i == STAGES - 1 else f"_{i}")
            yield f"stage{i}/loss_{term}_instructed", f"loss_{term}_group_{i}"
            yield f"stage{i}/loss_{term}_separate", f"loss_{term}_sep_{i}"
            routes = {"": "", "_instructed": "_o2m", "_separate": "_sep"} if denoising else {}
            for ours, theirs in routes.items():
                at = "" if i == STAGES - 1 else f"_{i}"
                yield f"stage{i}/loss_{term}_dn{ours}", f"loss_{term}_dn{theirs}{at}"
