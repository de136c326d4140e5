"""TSP-RCNN end to end, by SGD and AdamW as its recipe has it: a run that was killed and resumed equals another.

What it draws (anchors, regions, shares) is then the same, and so are both optimizers' states.
"""

from __future__ import annotations

import math
import signal
from pathlib import Path

import pytest
import torch
from training import Flags, assert_same_run, die, in_process, metrics

from detrex_ext.config import load_config

SIZES = [
    "model.dim=32",
    "model.num_heads=2",
    "model.backbone.stem=[8,8]",
    "model.backbone.widths=[8,16,16,16]",
    "model.neck.in_channels={res2:8,res3:16,res4:16,res5:16}",
    "model.encoder.ffn_dim=32",
    "model.encoder.dropout=0.1",
    "model.encoder.pool_size=3",
    "model.encoder.rpn.num_candidates=[50,50]",
    "model.encoder.rpn.num_proposals=30",
    "model.encoder.num_samples=30",
    "dataset.short_edge=64",
    "dataset.long_edge=64",
    "dataloader.train.total_batch_size=4",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "train.amp.enabled=false",
    "train.seed=3",
    "train.max_iter=8",
    "train.eval_period=4",
    "train.checkpointer.period=2",
    "train.log_period=2",
]


def train(data: Path, out: Path, resume: bool = False, killed: bool = False) -> None:
    from detrex_ext import engine

    torch.set_num_threads(1)
    if killed:
        inner = engine.Trainer._forward_backward
        engine.Trainer._forward_backward = lambda self, batch: die() if self.iter == 5 else inner(self, batch)
    places = [f"dataset.{part}_json={data}/{part}.json" for part in ("train", "val")]
    places += [f"dataset.{part}_images={data}/images" for part in ("train", "val")]
    cfg = load_config("tsp_rcnn_r50_3x", ["tiny"], [*SIZES, *places, f"train.output_dir={out}"])
    recipe = load_config("tsp_rcnn_r50_3x", (), [])  # the overlay trains by AdamW alone
    cfg.optimizer, cfg.train.clip_grad = recipe.optimizer, recipe.train.clip_grad
    engine.train(cfg, Flags(resume))


def test_a_killed_run_ends_like_the_other(shapes_data, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert in_process(train, shapes_data, whole) == 0
    assert in_process(train, shapes_data, killed, killed=True) == -signal.SIGKILL
    assert in_process(train, shapes_data, killed, resume=True) == 0
    assert_same_run(whole, killed)
    lines = [line for line in metrics(whole) if "total_loss" in line]
    names = {"loss_class", "loss_bbox", "loss_giou", "loss_class_token", "loss_bbox_token"}
    assert all(names <= set(line) and math.isfinite(line["total_loss"]) for line in lines)
    assert any(line["loss_giou"] > 0 for line in lines)  # some regions answer for objects
    assert all(line["lr_adamw"] == pytest.approx(line["lr"] / 200) for line in lines)
    groups = torch.load(whole / "model_final.pth", weights_only=True)["trainer"]["optimizer"]["param_groups"]
    assert {group["optimizer"] for group in groups} == {"sgd", "adamw"}
