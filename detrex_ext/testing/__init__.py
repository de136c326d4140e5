"""The contract of hosts, strategies and backbones as functions: run them on your own (``docs/extending.md``).

Each check has a name; a broken one is reported by it. All run on a CPU in seconds on a narrow model.
"""

from .backbone import check_backbone
from .batch import example_batch
from .host import check_host
from .invariants import BrokenInvariant
from .strategy import check_strategy

__all__ = ["BrokenInvariant", "check_backbone", "check_host", "check_strategy", "example_batch"]
