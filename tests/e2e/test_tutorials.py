"""The tutorials, typed as they stand: each bash block of a page in one empty folder, trainings cut short."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documents import CUT, ROOT

from detrex_ext.data import shapes
from detrex_ext.data.folders import prepare

PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
# stands for python and torchrun: what is typed, and behind it what cuts it short
SHIM = f"""#!/bin/bash
more=()
case " $* " in
  *" -m detrex_ext train "*) more=({' '.join(CUT)}) ;;
  *" -m detrex_ext.data.shapes "*) more=(--num-train 6 --num-val 2 --size 64) ;;
  *" -m detrex_ext export "*) more=(--size 64 --count 2 --tolerance 100) ;;
  *" -m detrex_ext predict "*) more=(--device cpu) ;;
esac
exec {sys.executable} HOW "$@" "${{more[@]}}"
"""


def blocks(page: Path) -> list[str]:
    """The bash blocks of a page."""
    return re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def my_pictures(folder: Path) -> None:
    """``my`` in COCO form without a validation set, and ``photos``."""
    shapes.write(folder / "drawn_shapes", 10, 1, 64, 0)
    source = folder / "drawn_shapes"
    (folder / "photos").mkdir()
    (source / "images" / "val_00000.png").rename(folder / "photos" / "one.jpg")
    (source / "val.json").unlink()
    source.rename(folder / "my")
    assert set(prepare(folder / "my", folder / "probe", 0).json) == {"train", "val"}


def exports() -> bool:
    """Whether this environment can export."""
    version = [int(part) for part in importlib.metadata.version("torch").split(".")[:2]]
    return version >= [2, 7] and all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime")))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_runs_as_it_is_typed(page, tmp_path):
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, before in (("python", ""), ("torchrun", "-m torch.distributed.run")):
        (commands / name).write_text(SHIM.replace("HOW", before))
        (commands / name).chmod(0o755)
    folder = tmp_path / "here"
    folder.mkdir()
    my_pictures(folder)
    env = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    assert blocks(page)
    for block in blocks(page):
        if not exports():
            block = re.sub(r"^python -m detrex_ext export .*$", "", block, flags=re.MULTILINE)
        block = block.replace("PYTHONPATH=.", f"PYTHONPATH=.:{ROOT}")
        how = {"cwd": folder, "env": env, "stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", block], **how, timeout=500)
        assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    text = page.read_text(encoding="utf-8")
    runs = set(re.findall(r"train\.output_dir=(output/\w+)", text))
    assert runs and all((folder / run / "metrics.json").is_file() for run in runs)
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
