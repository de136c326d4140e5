"""The rules of the house that a reader would otherwise have to check by eye: who may import whom, sizes, debris."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "detrex_ext"

# Rank of each part; a part imports only parts of its own rank or a lower one. Rank 0 is importable by everything.
ORDER = [
    {"errors", "config", "runtime"},
    {"structures", "trust"},
    {"layers"},
    {"matching", "criterion", "modeling", "data"},
    {"strategies", "checkpoint", "visualization", "integrations"},
    {"analysis"},
    {"engine", "evaluation", "inference", "testing", "benchmark", "report"},
    {"gpu_check"},
    {"api", "predictor", "predicting"},
    {"export"},
    {"cli", "__main__"},
]
RANK = {part: rank for rank, parts in enumerate(ORDER) for part in parts}
MAX_LINES, MAX_FUNCTION = 200, 50


def sources(*folders: str) -> list[Path]:
    """Python files under the given folders; all of them, committed or not, but nothing that git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *folders],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if listed.returncode == 0:
        files = [ROOT / line for line in listed.stdout.splitlines()]
    else:
        files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*"))]
    return [path for path in files if path.suffix == ".py" and path.exists()]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def run_time_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING:`, which is no dependency when the program runs."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        yield from run_time_nodes(node)


def imports(path: Path) -> list[tuple[int, str]]:
    """(line, absolute dotted name) of each import of a file; of `from a import b`, both `a` and `a.b`."""
    base = module_name(path).split(".")
    package = base if path.name == "__init__.py" else base[:-1]
    found = []
    for node in run_time_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            prefix = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*prefix, *([node.module] if node.module else [])])
            found.append((node.lineno, name))
            found += [(node.lineno, f"{name}.{alias.name}") for alias in node.names]
    return found


def part_of(name: str) -> str | None:
    """`detrex_ext.layers.mlp` -> `layers`; None for what is not ours or is the lazy top level itself."""
    top, _, rest = name.partition(".")
    return rest.split(".")[0] if top == "detrex_ext" and rest else None


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def test_every_part_has_a_rank() -> None:
    parts = {part_of(module_name(path)) for path in sources("detrex_ext")} - {None}
    assert parts, "no sources found"
    assert parts <= set(RANK), f"give these a place in ORDER: {sorted(parts - set(RANK))}"


def test_dependencies_never_point_back() -> None:
    lazy = {"load": "api", "Predictor": "predictor", "get_config": "config", "UserError": "errors"}
    wrong = []
    for path in sources("detrex_ext"):
        part = part_of(module_name(path))
        if part is None:
            continue
        for line, name in imports(path):
            other = lazy.get(part_of(name) or "", part_of(name))
            if other in RANK and RANK[other] > RANK[part]:
                wrong.append(f"{where(path, line)}: {part} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_the_runtime_knows_nothing_of_the_rest() -> None:
    allowed = {"runtime", "errors", "config", "__version__", None}
    wrong = [
        f"{where(path, line)}: {name}"
        for path in sources("detrex_ext/runtime")
        for line, name in imports(path)
        if part_of(name) not in allowed
    ]
    assert not wrong, "\n".join(wrong)


def test_only_the_seam_imports_detectron2_and_detrex() -> None:
    seam = ("detrex_ext/runtime/", "detrex_ext/integrations/")
    wrong = [
        f"{where(path, line)}: {name}"
        for path in sources("detrex_ext", "configs", "projects", "tools")
        if not path.relative_to(ROOT).as_posix().startswith(seam)
        for line, name in imports(path)
        if name.split(".")[0] in ("detectron2", "detrex")
    ]
    assert not wrong, "\n".join(wrong)


def test_the_core_never_imports_projects_tools_or_tests() -> None:
    wrong = [
        f"{where(path, line)}: {name}"
        for path in sources("detrex_ext")
        for line, name in imports(path)
        if name.split(".")[0] in ("projects", "tools", "tests", "configs")
    ]
    assert not wrong, "\n".join(wrong)


def test_configs_and_projects_define_no_module() -> None:
    wrong = [
        where(path, node.lineno)
        for path in sources("configs", "projects")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    ]
    assert not wrong, f"modules belong to detrex_ext: {wrong}"


def test_files_and_functions_stay_short() -> None:
    wrong = []
    for path in sources("detrex_ext", "configs", "projects", "tools"):
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > MAX_LINES:
            wrong.append(f"{where(path, 1)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION:
                    wrong.append(f"{where(path, node.lineno)}: {node.name} has {length} lines")
    assert not wrong, "\n".join(wrong)


def test_tools_only_wrap_the_command_line() -> None:
    """A person who installed the wheel has no tools/ folder: whatever is in there must be reachable without it."""
    for path in sources("tools"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        statements = [node for node in tree.body if not (isinstance(node, ast.Expr) and node is tree.body[0])]
        assert len(statements) <= 5, f"{where(path, 1)}: {len(statements)} statements; the work belongs to the cli"
        assert any(part_of(name) == "cli" for _, name in imports(path)), f"{where(path, 1)} does not call the cli"


def test_every_folder_of_the_package_is_a_package() -> None:
    """`find_packages` leaves out a folder without `__init__.py`: it would be missing from the wheel."""
    folders = {path.parent for path in sources("detrex_ext")}
    assert not [str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").exists()]


@pytest.mark.parametrize(
    "name, pattern",
    [
        ("a call that assumes a GPU", r"\." + r"cuda\(\)"),
        ("a debugger", r"\bpdb\b|\bbreakpoint" + r"\("),
        ("a bare except", r"except\s*" + r":"),
        ("an unfinished place", r"\b(TO" + r"DO|FIX" + r"ME|HA" + r"CK|XX" + r"X)\b"),
    ],
)
def test_no_debris(name: str, pattern: str) -> None:
    found = [
        where(path, number)
        for path in sources("detrex_ext", "configs", "projects", "tools", "tests", "docs")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert not found, f"{name}: {found}"


def test_the_checks_above_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative imports, nested imports and type-only imports are resolved as Python resolves them."""
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "detrex_ext" / "layers" / "mlp.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "from ..engine import trainer\n"
        "from . import box_ops\n"
        "if TYPE_CHECKING:\n    import detrex_ext.api\n"
        "def f():\n    import detectron2.layers\n"
    )
    names = {name for _, name in imports(path)}
    assert {"detrex_ext.engine.trainer", "detrex_ext.layers.box_ops", "detectron2.layers"} <= names
    assert "detrex_ext.api" not in names
    assert [part_of(name) for name in ("detrex_ext", "detrex_ext.engine.trainer", "torch.nn")] == [None, "engine", None]
