"""Which half precision a device multiplies by instructions of its own."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

import torch

from detrex_ext.errors import UserError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = ("auto", "fp32", *DTYPES)
# Without these oneDNN converts to fp32 and back, and a product takes up to 50 times as long as in fp32.
_X86 = {"bf16": ("amx_bf16", "avx512_bf16"), "fp16": ("amx_fp16", "avx512_fp16")}
_ARM = {"bf16": ("sve_bf16", "bf16"), "fp16": ()}
# What oneDNN still uses where ONEDNN_MAX_CPU_ISA holds it to less; other values leave none of them.
_HELD = {
    "AVX512_CORE_BF16": ("avx512_bf16",),
    "AVX512_CORE_FP16": ("avx512_bf16", "avx512_fp16"),
    "AVX10_1_512": ("avx512_bf16", "avx512_fp16"),
    "AVX512_CORE_AMX": ("avx512_bf16", "avx512_fp16", "amx_bf16"),
    "AVX10_1_512_AMX": ("avx512_bf16", "avx512_fp16", "amx_bf16"),
}
LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")  # variables, the first that is set counts
_UNHELD = ("", "ALL", "DEFAULT", "AVX512_CORE_AMX_FP16", "AVX10_1_512_AMX_FP16")
# name, beginning of a flag, values of the variable that leave it
_WIDEST = (
    ("AVX-512 and AMX", "amx_", r".*AMX"),
    ("AVX-512", "avx512", r"AVX512|AVX10"),
    ("AVX2", "avx2", r"AVX2|AVX512|AVX10"),
)


def half(device: torch.device, dtype: str) -> tuple[bool, str]:
    """Whether a device multiplies "bf16" or "fp16" natively, and why or why not, for people."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        needed = (8, 0) if dtype == "bf16" else (7, 0)
        name = f"{torch.cuda.get_device_name(device)} has compute capability {major}.{minor}"
        if torch.version.hip:
            return True, f"{torch.cuda.get_device_name(device)} multiplies it"
        return (major, minor) >= needed, name if (major, minor) >= needed else f"{name}, below {needed[0]}.{needed[1]}"
    if device.type != "cpu":
        return False, f"nothing is known of {device.type}"
    flags = _cpu_flags()
    known = _X86 if "avx" in flags or "sse" in flags else _ARM if sys.platform == "linux" else {dtype: ()}
    has = [flag for flag in known[dtype] if flag in flags]
    limit = _limit()
    used = [flag for flag in has if limit in _UNHELD or flag in _HELD.get(limit, ())]
    if used:
        return True, f"this processor has {used[0]}"
    if has:
        return False, f"this processor has {has[0]}, ONEDNN_MAX_CPU_ISA={limit} forbids it"
    return False, f"this processor has no instructions for {dtype}"


def resolve(precision: str, device: torch.device) -> tuple[str, str]:
    """The precision that is meant on a device, "fp32", "bf16" or "fp16", and why, for people.

    Args:
        precision: one of these, or "auto": bf16 where the device multiplies it natively, else fp32.
        device: where the model is.

    Raises:
        UserError: another word.
    """
    if precision == "auto":
        can, reason = half(device, "bf16")
        return "bf16" if can else "fp32", reason
    if precision not in PRECISIONS:
        raise UserError(f"precision={precision}: expected one of {', '.join(PRECISIONS)}")
    reason = "as asked"
    if precision != "fp32" and not half(device, precision)[0]:
        reason += f"; slow, {half(device, precision)[1]}"
    return precision, reason


def widest() -> str:
    """The widest instructions by which oneDNN computes convolutions here, in words; "" where that is not known."""
    flags, limit = _cpu_flags(), _limit()
    for name, flag, held in _WIDEST:
        if any(f.startswith(flag) for f in flags) and (limit in _UNHELD or re.match(held, limit)):
            return name
    return "NEON" if flags & {"neon", "asimd"} else ""


def ratio(dtype: str, seconds: float = 0.2) -> float:
    """Time of a product in half precision on the CPU over that in fp32, measured for so long."""

    def rate(kind: torch.dtype) -> float:
        a, b = torch.ones(256, 256, dtype=kind), torch.ones(256, 256, dtype=kind)
        a @ b
        start, count = time.perf_counter(), 0
        while (passed := time.perf_counter() - start) < seconds / 2:
            a @ b
            count += 1
        return count / passed

    return rate(torch.float32) / rate(DTYPES[dtype])


def _limit() -> str:
    return next((value for name in LIMITS if (value := os.environ.get(name))), "").upper()


def _cpu_flags() -> set[str]:
    """Names of the processor's instructions, as torch has them; "sse" or "avx" is among them on x86."""
    if hasattr(torch.cpu, "get_capabilities"):
        return {name for name, value in torch.cpu.get_capabilities().items() if value is True}
    found = set()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.partition(":")[0].strip() in ("flags", "Features"):
                found = set(line.partition(":")[2].split())
                break
    except OSError:
        pass
    return found
