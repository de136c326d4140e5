"""The official MS-DETR, whole, against our shipped configs filled from its file.

``DETREX_EXT_MS_DETR`` names a checkout of Atten4Vis/MS-DETR.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from .checkout import modules_of, skip_without_checkout
from .forced import computing_in, watched_choice
from .gaps import relative, within
from .whole import STAGES, compare_gradients, compare_sets, inputs, names_of_losses, pair, run_ours, stages

VARIABLE = "DETREX_EXT_MS_DETR"
ROOT = Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None
skip_without_checkout(ROOT, VARIABLE, "MS-DETR")

QUERIES = 300
# of scripts/train_ms_detr_pp_300.sh
PLUS = (
    "--with_box_refine --two_stage --dim_feedforward 2048 --epochs 12 --lr_drop 11 --num_queries 300 --dropout 0.0 "
    "--mixed_selection --look_forward_twice --use_ms_detr --use_aux_ffn --cls_loss_coef 1 --o2m_cls_loss_coef 2 "
    "--enc_cls_loss_coef 2 --enc_bbox_loss_coef 5 --enc_giou_loss_coef 2"
).split()
# of scripts/train_ms_detr_300.sh, without its dropout
PROJECTED = [flag for flag in PLUS if flag not in ("--mixed_selection", "--look_forward_twice")]
CASES = {
    "deformable": ("ms_deformable_r50_12ep", PROJECTED, ["model.encoder.dropout=0", "model.decoder.dropout=0"]),
    "deformable++": ("ms_deformable_plus_r50_12ep", PLUS, []),
}


@pytest.mark.parametrize("objects", ["many", "one", "none"])
@pytest.mark.parametrize("case", CASES)
def test_the_shipped_config_is_the_released_model(tmp_path, case, objects):
    """Sets of both kinds, all losses and all gradients, in double."""
    config, flags, overrides = CASES[case]
    name, given = f"MS-DETR, {case}", inputs(torch.float64)
    given.keep({"many": None, "one": 1, "none": 0}[objects])
    with modules_of(ROOT) as load:
        # which of their candidates beyond a quarter of the queries is left out is drawn; these images have fewer
        both = pair(load, flags, config, overrides, tmp_path, torch.float64)
        with computing_in(torch.float64), watched_choice(QUERIES) as chosen:
            outputs = both.peer(given.images)
            wanted = both.criterion(outputs, given.theirs())
    sets, losses = run_ours(both.ours, given, chosen[0])

    compare_sets(f"{name}: sets", sets, ("main", "plain"), stages(outputs), 1e-12)
    compare_sets(f"{name}: sets", sets, ("main", "mixed"), stages(outputs["o2m_outputs"]), 1e-12)
    keys = dict(names_of_losses("mixed", "o2m"))
    weighted = {key: both.criterion.weight_dict[key] * wanted[key] for key in keys.values()}
    assert len(keys) == len(losses.stats) == 3 * (1 + 2 * STAGES)
    for ours, key in keys.items():
        within(f"{name}: losses", relative(losses.stats[ours], weighted[key]), 1e-12)
    sum(weighted.values()).backward()
    sum(losses.values()).backward()
    compare_gradients(f"{name}: gradients", both, 1e-9)
