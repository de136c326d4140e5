"""`python -m detrex_ext.benchmark.alone SPEC`: peak memory of one cell, as the only work of this process."""

from __future__ import annotations

import json
import sys

import torch

from .measure import peak_mib, wait
from .suites import find

CALLS = 3  # the later ones find the caches of the first


def main(argv: list[str]) -> int:
    """Run the cell of a JSON spec and print its peak."""
    spec = json.loads(argv[0])
    torch.set_num_threads(spec["threads"])
    work = find(spec).build()
    for _ in range(CALLS):
        work()
    device = spec["options"]["device"]
    wait(device)
    print(json.dumps({"peak_mib": peak_mib(device)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
