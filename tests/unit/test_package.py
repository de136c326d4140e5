"""The package from outside: importing it is cheap and quiet, and it states its version once."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import detrex_ext

ROOT = Path(__file__).resolve().parents[2]

PROBE = """
import json, sys, time
start = time.perf_counter()
import detrex_ext
seconds = time.perf_counter() - start
names = dir(detrex_ext)
heavy = [name for name in ("torch", "torchvision", "numpy", "detectron2", "detrex", "omegaconf") if name in sys.modules]
print(json.dumps({"seconds": seconds, "heavy": heavy, "names": names, "file": detrex_ext.__file__}))
"""


def probe(folder: Path) -> dict:
    """Import the package in a fresh interpreter in which any warning is an error."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROBE],
        cwd=folder, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_importing_is_lazy_and_quiet() -> None:
    found = probe(ROOT)
    assert Path(found["file"]).resolve() == ROOT / "detrex_ext" / "__init__.py"
    assert found["heavy"] == []
    assert found["seconds"] < 0.3
    assert {"load", "get_config", "__version__"} <= set(found["names"])


@pytest.mark.parametrize("name", sorted(set(detrex_ext.__all__) - {"__version__"}))
def test_every_lazy_name_resolves(name: str) -> None:
    value = getattr(detrex_ext, name)
    assert value.__name__ == name
    assert value.__module__.startswith("detrex_ext.")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing_of_this_name'"):
        detrex_ext.nothing_of_this_name  # noqa: B018


def test_setup_states_no_version_and_imports_no_torch() -> None:
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    tree = ast.parse(text)
    nodes = list(ast.walk(tree))
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert modules == {"__future__", "re", "pathlib", "setuptools"}
    assert detrex_ext.__version__ not in text


def stated(name: str) -> set[str]:
    """Distributions named in a literal of setup.py, without versions."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    value = next(n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == name)
    found = ast.literal_eval(value)
    return {re.split(r"[<>=]", item)[0] for item in (found if isinstance(found, list) else sum(found.values(), []))}


def test_everything_imported_is_a_stated_dependency() -> None:
    """What arrives only because another package happens to need it is missing on somebody's machine."""
    distribution = {"PIL": "pillow", "yaml": "pyyaml", "hydra": "hydra-core", "faster_coco_eval": "faster-coco-eval"}
    # triton comes with torch where there is something for it to run on
    peers = {"detectron2", "detrex", "detrex_ext", "triton"}
    known = stated("REQUIRES") | stated("EXTRAS")
    unstated = set()
    for path in [p for folder in ("detrex_ext", "configs", "projects", "tools") for p in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for top in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - peers:
                if distribution.get(top, top) not in known:
                    unstated.add(f"{path.relative_to(ROOT)}: {top}")
    assert "torch" in known and not unstated, sorted(unstated)


def test_the_tool_settings_file_declares_no_package() -> None:
    """Two places that describe one package drift apart: pyproject.toml holds settings of tools only."""
    tables = re.findall(r"^\[+([^\]]+)\]", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert tables
    assert all(table.startswith("tool.") for table in tables), tables
