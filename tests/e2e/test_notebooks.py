"""The notebooks: executed as they are, and committed without what they gave."""

from __future__ import annotations

import ast
import importlib
import json
import re
from pathlib import Path

import pytest

from detrex_ext.cli import VERBS

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def code_of(cell: dict) -> str:
    """The source, with commands of several lines in one."""
    return "".join(cell["source"]).replace("\\\n", "")


def test_there_is_one() -> None:
    assert NOTEBOOKS


@each
def test_nothing_of_an_execution_is_committed(path: Path) -> None:
    for cell in cells(path, "code"):
        assert (cell["outputs"], cell["execution_count"], cell["metadata"]) == ([], None, {})
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert path.stat().st_size < 20_000


@each
def test_what_it_names_exists(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Python that parses, verbs with their flags, documents beside it, and no address of a repository."""
    for cell in cells(path, "code"):
        ast.parse(re.sub(r"^[!%].*", "", code_of(cell), flags=re.MULTILINE))
    commands = re.findall(r"!\{RUN\} (\w+)(.*)", "\n".join(map(code_of, cells(path, "code"))))
    assert commands
    for verb, rest in commands:
        with pytest.raises(SystemExit):
            importlib.import_module(f"detrex_ext.cli.{VERBS[verb][0]}").main(["--help"])
        assert set(re.findall(r"--[\w-]+", rest)) <= set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    text = "\n".join("".join(cell["source"]) for cell in cells(path, "markdown"))
    missing = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not (path.parent / link).exists()]
    assert not missing and "://" not in text


@pytest.mark.slow
@each
def test_it_runs_from_the_first_cell_to_the_last(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (pip install 'detrex_ext[dev]')")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed (pip install 'detrex_ext[dev]')")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    told = "".join(str(output.get("text", "")) for output in outputs)
    assert "Traceback" not in told and "detrex_ext: error" not in told
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 2
    runs = tmp_path / "ten_minutes"
    assert all((runs / name / "model_final.pth").is_file() for name in ("plain", "sqr"))
