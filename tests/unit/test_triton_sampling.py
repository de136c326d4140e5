"""The Triton kernels of deformable sampling: in the interpreter, compiled for a GPU that need not be there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest

CHECKS = Path(__file__).with_name("interpreted_sampling.py")
NAMES = re.findall(r"^def (check\w*)", CHECKS.read_text(encoding="utf-8"), re.MULTILINE)


def triton_before(*version):
    """Whether there is no Triton, or an older one."""
    return find_spec("triton") is None or tuple(map(int, metadata.version("triton").split(".")[:2])) < version


@pytest.fixture(scope="module")
def interpreted():
    path = os.pathsep.join(p for p in sys.path if p)
    run = subprocess.run(
        [sys.executable, str(CHECKS)],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.skipif(triton_before(3, 2), reason="needs triton 3.2, whose interpreter takes numpy 2")
@pytest.mark.parametrize("name", NAMES)
def test_interpreted(interpreted, name):
    assert interpreted[name] == ""


def compiled(kernel, channels, values, points="fp32", **more):
    """PTX for a Hopper GPU."""
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from detrex_ext.layers.ms_deform_backends import triton_backend

    width = {"bf16": 2, "fp16": 2, "fp32": 4, "fp64": 8}[values]
    rows, warps = triton_backend.tile(kernel.__name__, channels, width)
    fixed = {"H": 8, "D": channels, "L": 4, "K": 4, "UNROLL": 4, "WANT_VALUE": True, "WANT_POINTS": True, **more}
    fixed |= {"R": rows, "C": triton.next_power_of_2(channels), "WIDE": False}
    total = "fp64" if points == "fp64" else "fp32"
    fixed["SUM"] = getattr(tl, total.replace("fp", "float"))
    types = {"value": values, "out": values, "grad": values, "of_value": total, "levels": "i32"}
    signature, constants, hints = {}, {}, {}
    for p in kernel.params:
        if p.is_constexpr:
            signature[p.name], constants[(p.num,)] = "constexpr", fixed[p.name]
        elif p.name in "ST":
            signature[p.name] = "i32"
        else:
            signature[p.name], hints[(p.num,)] = f"*{types.get(p.name, points)}", [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, hints)
    options = {"num_warps": warps, "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]


def sums(ptx):
    """Its atomic sums; older versions of Triton leave it to the assembler that nobody wants what was there before."""
    return re.findall(r"\b(?:atom|red)\.global\S*", ptx)


needs_compiler = pytest.mark.skipif(triton_before(3, 3), reason="needs triton 3.3 for the form of these constants")


@needs_compiler
@pytest.mark.parametrize(
    "values, points, channels",
    [("bf16", "fp32", 32), *(pytest.param(*x, marks=pytest.mark.slow) for x in (
        ("fp64", "fp64", 32), ("fp32", "fp32", 32), ("fp16", "fp32", 24), ("bf16", "bf16", 96), ("fp32", "fp32", 5)))],
)  # fmt: skip
def test_compiles_for_a_gpu(values, points, channels):
    """No GPU is needed to find out whether the kernels are ones of its language, and what memory they ask for."""
    from detrex_ext.layers.ms_deform_backends import triton_kernels

    kernels = triton_kernels.forward, triton_kernels.backward
    forward, backward = (compiled(kernel, channels, values, points) for kernel in kernels)
    assert not sums(forward) and sums(backward)
    if channels % 8 == 0 and values != "fp64":
        assert "ld.global.v4.b32" in forward  # 16 bytes at once
        assert "bar.sync" not in backward
        if not triton_before(3, 6):
            assert all("relaxed" in how and how.endswith(".v4.f32") for how in sums(backward))


@needs_compiler
def test_no_atomics_where_values_have_no_gradient():
    from detrex_ext.layers.ms_deform_backends import triton_kernels

    assert not sums(compiled(triton_kernels.backward, 32, "fp32", WANT_VALUE=False))
