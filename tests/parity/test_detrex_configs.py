"""Config files of detrex as they lie: each trains, evaluates and predicts under the overlay ``from_detrex``.

    DETREX_CONFIGS=/path/to/detrex python -m pytest tests/parity/test_detrex_configs.py

detrex and detectron2 must be importable.
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest

from detrex_ext.cli import dispatch
from detrex_ext.data import shapes

CHECKOUT = os.environ.get("DETREX_CONFIGS", "")
if not (CHECKOUT and all(importlib.util.find_spec(name) for name in ("detrex", "detectron2"))):
    reason = "detrex's config files need DETREX_CONFIGS to name a checkout, and detrex and detectron2 importable"
    pytest.skip(reason, allow_module_level=True)
PROJECTS = Path(CHECKOUT, "projects")

FILES = [
    "detr/configs/detr_r50_300ep.py",
    "detr/configs/detr_r50_dc5_300ep.py",
    "dab_detr/configs/dab_detr_r50_50ep.py",
    "dab_detr/configs/dab_detr_r50_3patterns_50ep.py",
    "dab_detr/configs/dab_detr_swin_t_in1k_50ep.py",
    "deformable_detr/configs/deformable_detr_r50_50ep.py",
    "deformable_detr/configs/deformable_detr_r50_with_box_refinement_50ep.py",
    "deformable_detr/configs/deformable_detr_r50_two_stage_50ep.py",
    "dino/configs/dino-resnet/dino_r50_4scale_12ep.py",
    "dino/configs/dino-resnet/dino_r50_4scale_12ep_better_hyper.py",
    "dino/configs/dino-swin/dino_swin_tiny_224_4scale_12ep.py",
    "dino/configs/dino-convnext/dino_convnext_tiny_384_4scale_12ep.py",
    "dino/configs/dino-focal/dino_focal_tiny_lrf_fl3_4scale_12ep.py",
]
# of a machine without a GPU or a network, and no more than a step
SMALL = [
    "train.device=cpu", "train.init_checkpoint=", "train.max_iter=1", "train.seed=0", "train.report=false",
    "dataloader.train.total_batch_size=1", "dataloader.train.num_workers=0", "dataloader.test.num_workers=0",
    "dataloader.train.mapper.augmentation_with_crop=null",
    "dataloader.train.mapper.augmentation.1.short_edge_length=96",
    "dataloader.test.mapper.augmentation.0.short_edge_length=96",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    shapes.write(folder, 2, 1, 96, 0)
    return str(folder)


@pytest.mark.parametrize("file", FILES)
def test_a_config_file_trains_as_it_lies(file, data, tmp_path, capfd):
    run = tmp_path / "run"
    which = ["--config-file", str(PROJECTS / file), "--overlay", "from_detrex", "--data", data]
    assert dispatch(["train", *which, f"train.output_dir={run}", *SMALL]) == 0
    rows = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    assert any("bbox/AP" in row for row in rows) and any("total_loss" in row for row in rows)
    photo = str(Path(data, "images", "val_00000.png"))
    command = ["predict", str(run), photo, "--device", "cpu", "--threshold", "0", "--trust"]
    if "focal" in file:  # its backbone is a class of a config file, which no file of a run can name
        assert dispatch(command) == 2 and "FocalNet was defined in focalnet.py" in capfd.readouterr().err
        return
    assert dispatch(command) == 0
    (found,) = json.loads((run / "predictions" / "predictions.json").read_text())
    assert set(found["classes"]) <= {"circle", "rectangle", "triangle", "star"} and found["boxes"]


def test_a_strategy_is_laid_over_it(data, tmp_path):
    which = ["--config-file", str(PROJECTS / FILES[7]), "--overlay", "from_detrex,sqr", "--data", data]
    assert dispatch(["train", *which, f"train.output_dir={tmp_path / 'run'}", *SMALL]) == 0
    lines = (tmp_path / "run" / "metrics.json").read_text()
    assert "loss_class_recollect" in lines
