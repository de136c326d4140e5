"""Costs of benchmarks/strategies.py: time and peak memory of a step with an overlay, beside the bare host's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import torch
from compare import commit
from pairs import HOST, laid, narrow, reason

from detrex_ext.benchmark.measure import Options, medians, peak_alone
from detrex_ext.benchmark.models import step
from detrex_ext.errors import UserError
from detrex_ext.runtime.machine import processor

MODELS = {"Deformable": "deformable_detr_r50_50ep", "DINO": HOST}
TYPES = ("fp32", "bf16")
SIDE = 480
Costs = dict[str, dict]


def read(file: Path) -> Costs:
    """Costs that were measured before; none where there is no file."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def changes_model(name: str) -> bool:
    """Whether an overlay changes more than data."""
    return laid(HOST, [name]).model != narrow(HOST).model


def measure(names: Sequence[str], file: Path, repeats: int) -> Costs:
    """Costs of the overlays, those in the file as they are; each is kept as soon as it is known."""
    known = read(file)
    for name in names:
        for title, config in MODELS.items():
            for dtype in TYPES:
                key = f"{name}, {title}, {dtype}"
                if key not in known and changes_model(name):
                    known[key] = cost(name, config, dtype, repeats)
                    print(key, known[key], flush=True)
                    file.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return known


def cost(name: str, config: str, dtype: str, repeats: int) -> dict:
    """Seconds and peak memory of a step with an overlay and without; or why there are none."""
    options = Options()
    built = [partial(step, config, chosen, SIDE, options, dtype) for chosen in ((), (name,))]
    row = {"repeats": repeats, "commit": commit()}
    row["machine"] = f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__.partition('+')[0]}"
    try:
        bare, own = medians([work() for work in built], repeats)
    except (UserError, ValueError) as error:
        return {**row, "refusal": reason(error)}
    mib = {"mib": peak_alone(built[1]), "bare_mib": _bare_peak(config, dtype)}
    return {**row, "seconds": own, "bare_seconds": bare, **mib}


@cache
def _bare_peak(config: str, dtype: str) -> float:
    """Memory does not depend on what else the machine does: once is enough."""
    return peak_alone(partial(step, config, (), SIDE, Options(), dtype))
