"""The shipped data configs, on a data set given by overrides alone."""

from __future__ import annotations

import pytest
from data_sets import coco, write
from omegaconf import OmegaConf

from detrex_ext import get_config
from detrex_ext.runtime import instantiate


@pytest.mark.parametrize("name", ["coco_detr", "affine"])
def test_a_data_config_loads_ones_own_data(tmp_path, name):
    path = str(write(tmp_path, coco(size=(40, 60))))
    cfg = OmegaConf.create(dict(get_config(f"common/data/{name}.py")), flags={"allow_objects": True})
    cfg.train = dict(seed=3)
    cfg.dataset.update(train_json=path, val_json=path, train_images=str(tmp_path / "images"), val_images="")
    cfg.dataloader.train.update(num_workers=0, total_batch_size=2)
    cfg.dataloader.test.num_workers = 0
    train, test = instantiate(cfg.dataloader.train), instantiate(cfg.dataloader.test)
    assert train.sampler.seed == 3
    batch = next(iter(train))
    evaluated = [s for b in test for s in b]
    assert len(batch) == 2 and len(evaluated) == 4 and "instances" not in evaluated[0]
    short = {"coco_detr": set(range(480, 801, 32)), "affine": {171}}[name]  # 40 x 60 within 192 / 256
    assert {min(s["image"].shape[1:]) for s in batch} <= short
    assert evaluated[0]["image"].shape == {"coco_detr": (3, 800, 1200), "affine": (3, 171, 256)}[name]
    assert instantiate(cfg.dataloader.evaluator) is not None
