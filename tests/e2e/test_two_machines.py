"""A job of two machines, and the script of `docs/cluster.md` for SLURM, on stand-ins of both."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from jobs import ROOT, job
from test_train_processes import STEADY
from training import overrides

from detrex_ext.checkpoint import RunFolder


@pytest.mark.slow
def test_two_network_namespaces(tmp_path):
    paths = os.pathsep.join(str(ROOT / name) for name in ("", "tests", "tests/e2e"))
    done = subprocess.run(
        [ROOT / "tests" / "e2e" / "two_machines.sh", tmp_path / "out"],
        env={**os.environ, "PYTHONPATH": paths, "PYTHON": sys.executable}, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "launch0 equals one machine\ntorchrun0 equals one machine\n" in done.stdout


SRUN = """\
#!/bin/bash
# a task per node, one after the other's start; the worst exit code
while [[ $1 == --* ]]; do shift; done
for node in $(seq 0 $((SLURM_NNODES - 1))); do SLURM_NODEID=$node "$@" & done
code=0
for task in $(jobs -p); do wait $task; one=$?; [ $one -gt $code ] && code=$one; done
exit $code
"""


@pytest.mark.slow
def test_the_script_for_slurm(shapes_data, tmp_path):
    text = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    script = tmp_path / "train.sbatch"
    script.write_text(re.search(r"```bash\n(#!/bin/bash\n.*?)```", text, re.S)[1])
    tools = {"python": f'#!/bin/bash\nexec {sys.executable} -W ignore "$@"\n', "srun": SRUN}
    tools |= {"scontrol": f'#!/bin/bash\necho "$@" >> {tmp_path}/scontrol.txt\necho 127.0.0.1\n'}
    for name, content in tools.items():
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    out = tmp_path / "out"
    slurm = {"SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "1", "SLURM_JOB_NODELIST": "n[0-1]"}
    slurm["SLURM_JOB_ID"] = str(os.getpid())
    argv = [str(script), "--config-file", "small", *overrides(shapes_data, out), *STEADY]
    run = f"import subprocess, sys; sys.exit(subprocess.call(['bash', *{argv!r}]))"
    with job(["-c", run], tmp_path, PATH=f"{tmp_path}:{os.environ['PATH']}", **slurm) as running:
        assert running.end(300) and running.process.returncode == 0, running.text()
    assert "2 processes x 1 accum = 4" in (out / "log.txt").read_text()
    assert (tmp_path / "scontrol.txt").read_text() == "show hostnames n[0-1]\n"
    assert RunFolder(out).final.is_file()
