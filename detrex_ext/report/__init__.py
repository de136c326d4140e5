"""One HTML page about a run: what it is, what it learned, what it gets wrong and, where it learned nothing, why."""

from .causes import Cause, find_causes
from .detections import matched
from .folder import read_run
from .writing import Material, add_looks, write_report

__all__ = ["Cause", "Material", "add_looks", "find_causes", "matched", "read_run", "write_report"]
