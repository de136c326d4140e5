"""The folder for a machine without a package index: what is in it, that it starts, and what makes it refuse."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from detrex_ext.errors import UserError
from detrex_ext.gpu_check import bundle, wheels

ROOT = Path(__file__).resolve().parents[2]
OWN = "{}.{}".format(*sys.version_info)


def installed() -> bool:
    try:
        return bool(metadata.requires("detrex_ext"))
    except metadata.PackageNotFoundError:
        return False


def wheel_of(folder: Path, name: str, **files: str) -> Path:
    with zipfile.ZipFile(folder / name, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return folder / name


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    (tmp_path / "wheels").mkdir()

    def fake(name, number, python, machine, folder):
        tag = "py3-none-any" if name == "pure" else f"cp{python.replace('.', '')}-manylinux_2_28_{machine}"
        return wheel_of(tmp_path / "wheels", f"{name}-{number}-{tag}.whl", **{f"{name}/__init__.py": f"# {python}"})

    monkeypatch.setattr(bundle, "needed", lambda have, python: {"pure": "1", "compiled": "2"})
    monkeypatch.setattr(bundle, "wheel", fake)


def start(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess:
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(["sh", str(folder / "run.sh"), *arguments], env={**clean, "PYTHON": sys.executable, **env},
                          capture_output=True, text=True, cwd=folder.parent, stdin=subprocess.DEVNULL)  # fmt: skip


@pytest.mark.skipif(os.name != "posix", reason="a shell script starts it")
@pytest.mark.slow
def test_the_folder_starts_where_nothing_is_installed(no_network, tmp_path, capsys):
    out = tmp_path / "my bundle"
    assert bundle.main([str(out), "--python", f"3.99,{OWN}"]) == 0
    assert "MiB, for Python 3.99" in capsys.readouterr().out
    assert (out / "site" / "pure" / "__init__.py").is_file()
    assert (out / "site-3.99" / "compiled" / "__init__.py").read_text() == "# 3.99"
    assert (out / "commit.txt").read_text().strip()
    code = "from detrex_ext.config.files import find_config, find_overlay; "
    code += "print(find_config('dino_r50_4scale_12ep'), find_overlay('tiny'), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(out / "site")})  # fmt: skip
    assert all(Path(line).is_relative_to(out) for line in done.stdout.split("\n")[:2]), done.stdout + done.stderr
    assert start(out, "--help").returncode == 0
    done = start(out, "--only", "nothing")
    assert done.returncode == 2 and "there is no such step" in done.stderr, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["my bundle", "wheels"]
    (out / f"site-{OWN}").rename(out / "site-3.98")
    done = start(out, "--help")
    assert done.returncode == 2
    assert done.stderr.startswith(f"Python {OWN}: this folder was made for site-3.98 site-3.99")
    assert bundle.main([str(out), "--python", "3.12"]) == 0 and not (out / "site-3.99").exists()  # an older one goes


def test_a_stranger_s_folder_is_left_alone(no_network, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("x")
    for out in (tmp_path / "letters", tmp_path / "letters" / "dear.txt"):
        with pytest.raises(UserError, match="something else is there"):
            bundle.make(out, ["3.12"], "x86_64", [])
    assert (tmp_path / "letters" / "dear.txt").read_text() == "x"


def test_one_that_is_too_large_is_not_left_there(no_network, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "MOST", 1000)
    with pytest.raises(UserError, match="expected at most"):
        bundle.make(tmp_path / "out", ["3.12"], "x86_64", [])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("argv", [["--python", "3.9"], ["--python", "3.12, 3.11"], ["--python", "../x"],
                                  ["--machine", "x86 64"], ["--machine", "../x"]])  # fmt: skip
def test_words_that_are_none(argv, tmp_path, no_network):
    with pytest.raises(UserError, match="expected"):
        bundle.main([str(tmp_path / "out"), *argv])


def test_a_wheel_is_unpacked_as_installed(tmp_path):
    path = wheel_of(tmp_path, "a-1-py3-none-any.whl", **{
        "a/b.py": "1", "a-1.data/purelib/c.py": "2", "a-1.data/scripts/tool": "3", "../evil.py": "4"})  # fmt: skip
    wheels.unpack(path, tmp_path / "site")
    found = {p.relative_to(tmp_path / "site").as_posix() for p in (tmp_path / "site").rglob("*") if p.is_file()}
    assert {"a/b.py", "c.py"} <= found and "a-1.data/scripts/tool" not in found
    assert not (tmp_path / "evil.py").exists()


@pytest.mark.skipif(not installed(), reason="detrex_ext is not installed here")
def test_what_is_needed_is_what_is_asked_for_and_not_there():
    found = wheels.needed(["torch", "torchvision", "NumPy", "scipy", "pillow", "pyyaml"], "3.12")
    assert {"omegaconf", "antlr4-python3-runtime", "fvcore", "pycocotools"} <= set(found)
    assert not {"torch", "numpy", "sympy", "typing-extensions", "pytest", "matplotlib"} & set(found)
    assert found["omegaconf"] == metadata.version("omegaconf")


def test_no_index_is_named():
    texts = [(ROOT / name).read_text() for name in ("Makefile", "detrex_ext/gpu_check/bundle.py",
                                                    "detrex_ext/gpu_check/wheels.py")]  # fmt: skip
    assert not any(re.search(r"https?://|--index|--extra-index|\.org", text) for text in texts)
