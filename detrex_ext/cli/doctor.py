"""`python -m detrex_ext doctor`: what this machine is, what was chosen for it, how fast it is, and what is missing."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detrex_ext.errors import UserError

from . import doctor_findings as findings
from .arguments import Parser
from .outputs import check_file, show

_LEAST, _MOST = 0.0, 60.0


def build_parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    parser = Parser(
        prog="python -m detrex_ext doctor",
        description="Versions, processor and GPU; precision, threads and kernels chosen for them, and their measured "
        "speed; what is missing for what. Exit code 0 where a training can run, 1 where it cannot.",
    )
    parser.add_argument("--json", metavar="FILE", help="write all of it; - for standard output")
    parser.add_argument("--seconds", type=float, default=0.3, metavar="S", help="of each of about ten measurements "
                        "(default 0.3); 0 measures nothing")  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Look, print it, and write the JSON where ``--json`` says.

    Returns:
        0 where a training can run, 1 where it cannot.

    Raises:
        UserError: a number of seconds that is none, or a file that cannot be written.
    """
    args = build_parser().parse_args(argv)
    if not _LEAST <= args.seconds <= _MOST:
        raise UserError(f"--seconds {args.seconds}: expected {_LEAST:g} to {_MOST:g}")
    check_file(args.json, "--json")
    found = look(args.seconds)
    show(text_of(found), sys.stderr if args.json == "-" else sys.stdout)
    document = json.dumps(found, indent=2)
    if args.json == "-":
        print(document)
    elif args.json:
        Path(args.json).write_text(document + "\n", encoding="utf-8")
    return 0 if found["ready"] else 1


def look(seconds: float) -> dict[str, Any]:
    """All that is known, as JSON has it; nothing of this machine makes it fail.

    Args:
        seconds: of each measurement; 0 = none.
    """
    versions, problems = findings.required()
    found: dict[str, Any] = {"versions": versions, "optional": findings.optional()}
    if not problems:
        try:
            problems += findings.combinations(versions)
            found |= _chosen(seconds)
        except Exception as error:  # a machine that is broken in an unknown way: that is what is asked for
            reason = str(error).splitlines()[0][:300] if str(error) else ""
            problems.append(findings.Finding("error", f"{type(error).__name__}: {reason}"))
    found["problems"] = [problem._asdict() for problem in problems]
    found["ready"] = all(problem.level != "error" for problem in problems)
    return found


def _chosen(seconds: float) -> dict[str, Any]:
    import torch

    from detrex_ext import __version__, runtime
    from detrex_ext.benchmark.quick import quick
    from detrex_ext.engine.precision import Precision
    from detrex_ext.layers import cpu
    from detrex_ext.runtime import machine

    machine.fit_threads()
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = {name: Precision(name, "auto") for name in ("cpu", *["cuda"] * bool(gpus))}
    return {
        "versions": {"python": platform.python_version(), "detrex_ext": __version__,
                     **{name: findings.version_of(name) for name in findings.REQUIRED}},
        "runtime": f"{runtime.name()} {runtime.version()}",
        "machine": {
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "processor": machine.processor(),
            "cores": machine.cores(),
            "cores_text": machine.cores_text(),
            "instructions": machine.instructions(),
            "caches": machine.caches(),
            "memory": machine.memory(),
            "gpus": [torch.cuda.get_device_name(index) for index in range(gpus)],
        },
        "chosen": {
            "precision": {name: {"name": p.name, "reason": p.reason} for name, p in devices.items()},
            "threads": machine.threads_text(),
            "waiting": waiting(),
            "cpu_kernels": "on" if cpu.enabled() else f"off ({cpu.SWITCH}=0)",
        },
        "measured": [quick(name, p.name, seconds) for name, p in devices.items()] if seconds else [],
    }  # fmt: skip


def waiting() -> str:
    """How threads wait for each other, as the environment says."""
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    return ", ".join(f"{name}={os.environ[name]}" for name in names if os.environ.get(name)) or "as torch has it"


def text_of(found: dict[str, Any]) -> str:
    """The report for people."""
    rows = {name: version or "not installed" for name, version in found["versions"].items()}
    lines = _block("versions", {"": ", ".join(f"{name} {version}" for name, version in rows.items())})
    if "machine" in found:
        lines += _machine(found)
    for measured in found.get("measured", ()):
        lines += _measured(measured)
    there = {row["package"]: f"{row['version'] or 'not installed'}: {row['for']}"
             + ("" if row["version"] or not row["install"] else f"  ({row['install']})") for row in found["optional"]}  # fmt: skip
    lines += _block("optional packages", there)
    lines += [f"{problem['level']}: {problem['text']}" for problem in found["problems"]]
    lines.append("ready to train" if found["ready"] else "no training can run here")
    return "\n".join(lines)


def _block(title: str, rows: dict[str, str]) -> list[str]:
    width = max(map(len, rows))
    return [title, *(f"  {name:<{width}}  {text}" if name else f"  {text}" for name, text in rows.items()), ""]


def _machine(found: dict[str, Any]) -> list[str]:
    own, chosen = found["machine"], found["chosen"]
    caches = ", ".join(f"L{level} {size / 2**20:g} MiB" for level, size in own["caches"].items())
    memory = own["memory"]
    rows = {
        "system": own["system"],
        "processor": f"{own['processor']}, {own['cores_text']}",
        "instructions": own["instructions"],
        "caches": caches or "not known",
        "memory": f"{memory / 2**30:.1f} GiB" if memory else "not known",
        "GPU": ", ".join(own["gpus"]) or "none that torch can use",
    }
    picked = {f"precision, {name}": f"{p['name']} ({p['reason']})" for name, p in chosen["precision"].items()}
    picked |= {"threads": chosen["threads"], "waiting threads": chosen["waiting"], "CPU kernels": chosen["cpu_kernels"]}
    return [*_block("machine", rows), *_block("chosen", {"runtime": found["runtime"], **picked})]


def _measured(row: dict[str, Any]) -> list[str]:
    step, sampling = row["step"], row["sampling"]
    plain = step.get("without_cpu_kernels")
    return _block(f"measured, {row['device']}", {
        "matrix product": ", ".join(f"{name} {rate:g} GFLOP/s" for name, rate in row["gflops"].items()),
        "convolution": f"channels_last is {row['channels_last']:g} times as fast as contiguous memory",
        "sampling": f"backend {sampling['backend']} {sampling['ms']:g} ms, plain torch {sampling['torch_ms']:g} ms",
        "training step": f"{step['seconds']:.3g} s ({step['recipe']}: {step['batch']} images of {step['side']} px, "
        f"{step['precision']})" + (f"; without CPU kernels {plain:.3g} s" if plain else ""),
        f"{step['recipe']}": f"about {step['minutes']:g} minutes for its {step['steps']} steps",
    })  # fmt: skip
