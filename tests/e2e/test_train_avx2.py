"""A training on a processor with AVX2 only, which the libraries' own variables make of any with more."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from training import metrics

from detrex_ext.runtime import native

ROOT = Path(__file__).parents[2]
HELD = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


@pytest.mark.skipif(native.widest() not in ("AVX2", "AVX-512", "AVX-512 and AMX"), reason="processors with AVX2")
def test_the_quickstart_in_fp32(shapes_data, tmp_path):
    places = [f"dataset.{part}_json={shapes_data}/{part}.json" for part in ("train", "val")]
    places += [f"dataset.{part}_images={shapes_data}/images" for part in ("train", "val")]
    short = ["dataset.short_edge=64", "dataset.long_edge=64", "train.max_iter=4", "train.eval_period=4",
             "dataloader.train.num_workers=0", "dataloader.test.num_workers=0"]  # fmt: skip
    command = [sys.executable, "-m", "detrex_ext", "train", "--config-file", "quickstart"]
    command += [*places, *short, f"train.output_dir={tmp_path}/run"]
    environment = {**os.environ, **HELD, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("DNNL_MAX_CPU_ISA", None)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    log = (tmp_path / "run" / "log.txt").read_text()
    (why,) = re.findall(r"precision: fp32 \((.+)\)$", log, re.M)
    assert "this processor has" in why
    (cpu,) = re.findall(r"^CPU {3,}(.+)$", log, re.M)
    assert re.search(r", AVX2 \(ATEN_CPU_CAPABILITY=avx2, ONEDNN_MAX_CPU_ISA=AVX2\)$", cpu)
    losses = [line["total_loss"] for line in metrics(tmp_path / "run") if "total_loss" in line]
    assert losses and all(0 < loss < 1000 for loss in losses)
    assert 0 <= metrics(tmp_path / "run")[-1]["bbox/AP"] <= 100
