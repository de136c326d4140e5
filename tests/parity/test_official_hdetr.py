"""The official H-DETR, whole, against our shipped config filled from its file.

``DETREX_EXT_HDETR`` names a checkout of HDETR/H-Deformable-DETR.
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

VARIABLE = "DETREX_EXT_HDETR"
ROOT = Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None
skip_without_checkout(ROOT, VARIABLE, "H-DETR")

EXTRA, TIMES = 600, 6  # published are 1,500 extra queries, of which these images have too few tokens
# of configs/two_stage/deformable-detr-hybrid-branch/12eps/r50_hybrid_branch_lambda1_group6_t1500_dp0_mqs_lft_*.sh
FLAGS = (
    "--with_box_refine --two_stage --dim_feedforward 2048 --epochs 12 --lr_drop 11 --num_queries_one2one 300 "
    f"--num_queries_one2many {EXTRA} --k_one2many {TIMES} --lambda_one2many 1.0 --dropout 0.0 --mixed_selection "
    "--look_forward_twice"
).split()


@pytest.mark.parametrize(
    ("dtype", "of_sets", "of_losses"),
    [(torch.float64, 1e-12, 1e-12), (torch.float32, 5e-5, 1e-5)],
    ids=["fp64", "fp32"],
)
def test_the_shipped_config_is_the_released_model(tmp_path, dtype, of_sets, of_losses):
    """Sets of both kinds of queries, all losses, in fp64 all gradients."""
    name, given = f"H-DETR, {str(dtype)[-7:]}", inputs(dtype)
    with modules_of(ROOT) as load:
        overrides = [f"model.queries.num_extra={EXTRA}"]
        both = pair(load, FLAGS, "hybrid_deformable_plus_r50_12ep", overrides, tmp_path, dtype)
        with computing_in(dtype), watched_choice(300 + EXTRA) as chosen:
            outputs = both.peer(given.images)
            wanted = load("engine").train_hybrid(outputs, given.theirs(), TIMES, both.criterion, 1.0)
    sets, losses = run_ours(both.ours, given, chosen[0])

    compare_sets(f"{name}: sets", sets, ("main", "plain"), stages(outputs), of_sets)
    many = stages(outputs, "_one2many", aux="_one2many")
    compare_sets(f"{name}: sets", sets, ("hybrid", "plain"), many, of_sets)
    assert outputs["pred_logits_one2many"].shape[1] == EXTRA
    assert sum(float((s.boxes_BQ4 < 1e-3).double().sum()) for s in sets) > 100  # where constants matter
    keys = dict(names_of_losses("hybrid", "one2many"))
    weighted = {key: both.criterion.weight_dict[key] * wanted[key] for key in keys.values()}
    assert len(keys) == len(losses.stats) == 3 * (1 + 2 * STAGES)
    for ours, key in keys.items():
        within(f"{name}: losses", relative(losses.stats[ours], weighted[key]), of_losses)
    if dtype == torch.float64:
        sum(weighted.values()).backward()
        sum(losses.values()).backward()
        compare_gradients(f"{name}: gradients", both, 1e-9)
