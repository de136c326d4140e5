"""The step `environment`: card, driver, versions, the commit, and what the card can do at best."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version

import torch

import detrex_ext
from detrex_ext import runtime
from detrex_ext.benchmark import measure
from detrex_ext.checkpoint.provenance import checkout
from detrex_ext.engine.precision import Precision
from detrex_ext.runtime import machine
from detrex_ext.runtime.system_files import text_of

from .table import Case, NotHere, Options, Row, found

_PACKAGES = ("torchvision", "triton", "numpy", "scipy")


def cases(options: Options) -> list[Case]:
    """All of them."""
    return [
        Case("card", lambda: card(options)),
        Case("software", lambda: software(options)),
        Case("products and copies", lambda: rates(options)),
    ]


def card(options: Options) -> Row:
    """The GPU, whether this torch has kernels for it, and the machine around it."""
    around = {"processor": f"{machine.processor()}, {machine.cores_text()}"}
    if not options.on_gpu:
        return found(None, "the CPU stands for the GPU", **around)
    own = torch.cuda.get_device_properties(options.device)
    product = float((torch.ones(8, 8, device=options.device) @ torch.ones(8, 8, device=options.device)).sum())
    return found(
        product == 512.0, "" if product == 512.0 else f"a product of ones gives {product}", name=own.name,
        memory_gib=round(own.total_memory / 2**30, 1), capability=f"{own.major}.{own.minor}",
        multiprocessors=own.multi_processor_count, driver=driver(), **around,
    )  # fmt: skip


def driver() -> str:
    """Version of NVIDIA's driver, by its own file or program; "unknown" where neither is."""
    named = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)", text_of("proc/driver/nvidia/version"))
    if named:
        return named[1]
    program = shutil.which("nvidia-smi")
    if program is None:
        return "unknown"
    asked = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return (done.stdout.split() or ["unknown"])[0]


def software(options: Options) -> Row:
    """Versions, and the precision that a training would choose."""
    precision = Precision(torch.device(options.device).type, "auto")
    values = {
        "python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda or "none",
        "cudnn": str(torch.backends.cudnn.version()), **{name: _version(name) for name in _PACKAGES},
        "detrex_ext": detrex_ext.__version__, "commit": options.commit or checkout() or "unknown",
        "runtime": f"{runtime.name()} {runtime.version()}", "precision": f"{precision.name} ({precision.reason})",
    }  # fmt: skip
    return found(None, **values)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def rates(options: Options) -> Row:
    """Products in fp32 and bf16, and copies, as the suites of `benchmark` measure them."""
    if options.quick:
        raise NotHere("nothing is measured with --quick")
    own = measure.machine(options.device)
    tflops = {f"{name}_tflops": round(own[f"gemm_{name}"] / 1e12, 2) for name in ("fp32", "bf16")}
    return found(None, **tflops, gib_per_second=round(own["bandwidth"] / 2**30, 1))
