"""Stage-wise figures in the metrics of a training, and again from its weights by two processes."""

from __future__ import annotations

import re

from test_train_evaluate import evaluate
from training import in_process, metrics, overrides, train


def test_stage_figures_are_in_metrics_and_do_not_depend_on_processes(shapes_data, tmp_path):
    stages = "dataloader.evaluator.stages=true"
    assert in_process(train, shapes_data, tmp_path / "run", ("train.max_iter=3", "train.eval_period=2", stages)) == 0
    lines = [line for line in metrics(tmp_path / "run") if "stages/TPF" in line]
    assert len(lines) == 2 and "stages/FPE" in lines[-1] and "bbox/AP" in lines[-1]
    names = [f"stages/{n}" for n in ("AP_stage1", "AP_stage2", "TPF", "FPE", "recoverable", "grief", "AP_top100")]
    expected = ",".join("nan" if lines[-1][n] is None else f"{lines[-1][n]:.4f}" for n in names)

    weights = f"train.init_checkpoint='{tmp_path}/run/model_final.pth'"
    argv = [*overrides(shapes_data, tmp_path / "again"), weights, "--num-gpus", "2", stages]
    assert in_process(evaluate, *argv) == 0
    log = (tmp_path / "again" / "evaluation" / "log.txt").read_text()
    assert f"copypaste: {expected}," in log and "Stage-wise errors on 4 images" in log
    assert re.search(r"^errors at IoU .*grief$", log, re.M)
