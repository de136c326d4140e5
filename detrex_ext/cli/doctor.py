"""`python -m detrex_ext doctor`: what this machine is, what was chosen for it, how fast it is, and what is missing."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detrex_ext.errors import UserError

from . import doctor_findings as findings
from . import gpu_check
from .arguments import Parser
from .doctor_text import text_of
from .outputs import check_file, show

_MOST = 60.0


def build_parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    parser = Parser(
        prog="python -m detrex_ext doctor",
        description="Versions, processor and GPU; precision, threads and kernels chosen for them, and their measured "
        "speed; what is missing for what. Exit code 0 where a training can run, 1 where it cannot.",
    )
    parser.add_argument("--gpu", action="store_true", help="check on a GPU what needs one, in minutes; doctor --gpu "
                        "--help says more")  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help="write all of it; - for standard output")
    parser.add_argument("--seconds", type=float, default=0.3, metavar="S", help="of each of about ten measurements "
                        "(default 0.3); 0 measures nothing")  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Look, print it, and write the JSON where ``--json`` says.

    Returns:
        0 where a training can run, 1 where it cannot; with ``--gpu`` see :mod:`detrex_ext.cli.gpu_check`.

    Raises:
        UserError: a number of seconds that is none, or a file that cannot be written.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if "--gpu" in argv:
        return gpu_check.main([word for word in argv if word != "--gpu"])
    args = build_parser().parse_args(argv)
    if not 0 <= args.seconds <= _MOST:
        raise UserError(f"--seconds {args.seconds}: expected 0 to {_MOST:g}")
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
    """All that is known, as JSON has it; no state of the machine makes it fail.

    Args:
        seconds: of each measurement; 0 = none.
    """
    versions, problems = findings.required()
    found: dict[str, Any] = {"versions": {"python": platform.python_version(), **versions}}
    found["optional"] = findings.optional()
    for part in () if problems else (_machine, _together, _chosen, _measured):
        try:
            found |= part(found, seconds)
        except Exception as error:  # broken in a way that nobody foresaw: just that is asked for
            told = (str(error).splitlines() or [""])[0][:300]
            problems.append(findings.Finding("error", f"{type(error).__name__}: {told}"))
    problems += found.pop("together", ())
    found["problems"] = [problem._asdict() for problem in dict.fromkeys(problems)]
    found["ready"] = all(problem.level != "error" for problem in problems)
    return found


def _machine(found: dict[str, Any], seconds: float) -> dict[str, Any]:
    import torch

    from detrex_ext import runtime
    from detrex_ext.runtime import machine

    machine.fit_threads()
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    values = {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": machine.processor(),
        "cores": machine.cores(),
        "cores_text": machine.cores_text(),
        "instructions": machine.instructions(),
        "caches": machine.caches(),
        "memory": machine.memory(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(gpus)],
    }
    return {"machine": values, "runtime": f"{runtime.name()} {runtime.version()}"}


def _together(found: dict[str, Any], seconds: float) -> dict[str, Any]:
    return {"together": findings.combinations(found["versions"])}


def _chosen(found: dict[str, Any], seconds: float) -> dict[str, Any]:
    from detrex_ext.benchmark.quick import sampling_backend
    from detrex_ext.engine.precision import Precision
    from detrex_ext.layers import cpu
    from detrex_ext.runtime import heap, machine

    devices = ["cpu", *["cuda"] * bool(found.get("machine", {}).get("gpus"))]
    precisions = {name: Precision(name, "auto") for name in devices}
    values = {
        "precision": {name: {"name": p.name, "reason": p.reason} for name, p in precisions.items()},
        "threads": machine.threads_text(),
        "waiting": machine.waiting_text(),
        "freed_memory": heap.told(heap.keep_freed()),  # before the speed of a training is measured
        "cpu_kernels": "on" if cpu.enabled() else f"off ({cpu.SWITCH}=0)",
        "sampling": {name: sampling_backend(name) for name in devices},
    }
    return {"chosen": values}


def _measured(found: dict[str, Any], seconds: float) -> dict[str, Any]:
    from detrex_ext.benchmark.quick import quick

    precisions = found["chosen"]["precision"] if "chosen" in found and seconds else {}
    return {"measured": [quick(device, p["name"], seconds) for device, p in precisions.items()]}
