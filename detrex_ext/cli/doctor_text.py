"""The report of `doctor` for people."""

from __future__ import annotations

import textwrap
from typing import Any

_WIDTH = 110


def text_of(found: dict[str, Any]) -> str:
    """What :func:`detrex_ext.cli.doctor.look` found, in blocks; what it did not find is left out."""
    lines = ["versions"]
    versions = ", ".join(f"{name} {version or 'not installed'}" for name, version in found["versions"].items())
    lines += [*textwrap.wrap(versions, _WIDTH, initial_indent="  ", subsequent_indent="  "), ""]
    if "machine" in found:
        lines += _block("machine", _machine(found["machine"]))
    if "chosen" in found:
        lines += _block("chosen", {"runtime": found["runtime"], **_chosen(found["chosen"])})
    for row in found.get("measured", ()):
        lines += _block(f"measured, {row['device']}", _measured(row))
    lines += _block("optional packages", {row["package"]: _optional(row) for row in found["optional"]})
    lines += [f"{problem['level']}: {problem['text']}" for problem in found["problems"]]
    lines.append("ready to train" if found["ready"] else "no training can run here")
    return "\n".join(lines)


def _block(title: str, rows: dict[str, str]) -> list[str]:
    width = max(map(len, rows))
    return [title, *(f"  {name:<{width}}  {text}" for name, text in rows.items()), ""]


def _machine(own: dict[str, Any]) -> dict[str, str]:
    caches = ", ".join(f"L{level} {size / 2**20:g} MiB" for level, size in own["caches"].items())
    return {
        "system": own["system"],
        "processor": f"{own['processor']}, {own['cores_text']}",
        "instructions": own["instructions"],
        "caches": caches or "not known",
        "memory": f"{own['memory'] / 2**30:.1f} GiB" if own["memory"] else "not known",
        "GPU": ", ".join(own["gpus"]) or "none that torch can use",
    }


def _chosen(chosen: dict[str, Any]) -> dict[str, str]:
    rows = {f"precision, {name}": f"{p['name']} ({p['reason']})" for name, p in chosen["precision"].items()}
    rows |= {"threads": chosen["threads"], "waiting threads": chosen["waiting"]}
    rows |= {"freed memory": chosen["freed_memory"], "CPU kernels": chosen["cpu_kernels"]}
    return rows | {f"sampling, {name}": f"backend {backend}" for name, backend in chosen["sampling"].items()}


def _measured(row: dict[str, Any]) -> dict[str, str]:
    step, sampling = row["step"], row["sampling"]
    plain = step.get("without_cpu_kernels")
    return {
        "matrix product": ", ".join(f"{name} {rate:g} GFLOP/s" for name, rate in row["gflops"].items()),
        "convolution": f"channels_last is {row['channels_last']:g} times as fast as contiguous memory",
        "sampling": f"backend {sampling['backend']} {sampling['ms']:g} ms, plain torch {sampling['torch_ms']:g} ms",
        "training step": f"{step['seconds']:.3g} s: {step['batch']} images of {step['side']} px, {step['precision']}"
        + (f"; without CPU kernels {plain:.3g} s" if plain else ""),
        step["recipe"]: f"about {step['minutes']:.2g} minutes for its {step['steps']} steps",
    }


def _optional(row: dict[str, str | None]) -> str:
    if row["version"]:
        return f"{row['version']}: {row['for']}"
    how = f"; pip install 'detrex_ext[{row['extra']}]'" if row["extra"] else ""
    return f"not installed: {row['for']}{how}"
