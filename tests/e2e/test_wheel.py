"""The wheel holds everything, and works in an empty folder without a checkout."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "train.device=cpu", "train.max_iter=2", "train.eval_period=0", "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0", "dataloader.train.total_batch_size=4",
)  # fmt: skip


def installable() -> bool:
    """Whether a wheel can be built with what is installed: setuptools makes wheels on its own since 70.1."""
    if not all(importlib.util.find_spec(name) for name in ("setuptools", "pip")):
        return False
    has = tuple(int(x) for x in importlib.metadata.version("setuptools").split(".")[:2])
    return has >= (70, 1) or importlib.util.find_spec("wheel") is not None


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from a copy: building leaves folders behind."""
    if not installable():
        pytest.skip("building a wheel without a download needs pip and setuptools 70.1 (or wheel) here")
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("detrex_ext", "configs", "projects"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    options = ["-q", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    done = subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory) -> Path:
    """The folder a wheel is unpacked into, as an installer does for pure Python."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def detrex_ext(installed: Path, cwd: Path, *arguments: str) -> str:
    """Output of `python -m detrex_ext ...` of the installed package."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSTARTUP")}
    command = [sys.executable, "-m", "detrex_ext", *arguments]
    done = subprocess.run(
        command, cwd=cwd, env={**env, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_the_wheel_holds_every_source_and_config(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        licenses = [name for name in archive.namelist() if name.endswith("LICENSE")]
    sources = {p.relative_to(ROOT).as_posix() for p in (ROOT / "detrex_ext").rglob("*.py")}
    configs = [*ROOT.glob("configs/**/*.py"), *ROOT.glob("projects/*/configs/**/*.py")]
    travelling = {f"detrex_ext/_{p.relative_to(ROOT).as_posix()}" for p in configs}
    assert len(configs) > 5
    assert held == sources | travelling | {"detrex_ext/zoo.json"}
    assert licenses


@pytest.mark.slow
def test_an_sdist_holds_what_a_wheel_is_built_from_and_nothing_else(tmp_path: Path) -> None:
    if not installable():
        pytest.skip("building an sdist without a download needs pip and setuptools 70.1 (or wheel) here")
    source = tmp_path / "source"
    for name in ("detrex_ext", "configs", "projects", "tests/unit"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    for scratch in ("output/run/model_final.pth", "dist/zoo/x.pth", "detrex_ext/x.pth", "configs/notes.txt", "x.pth"):
        (source / scratch).parent.mkdir(parents=True, exist_ok=True)
        (source / scratch).write_bytes(b"x")
    code = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        held = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    held = {name for name in held if not name.startswith("detrex_ext.egg-info/")}
    python = {p.relative_to(ROOT).as_posix() for p in (ROOT / "detrex_ext").rglob("*.py")}
    python |= {p.relative_to(ROOT).as_posix() for p in ROOT.glob("configs/**/*.py")}
    python |= {p.relative_to(ROOT).as_posix() for p in ROOT.glob("projects/*/configs/**/*.py")}
    others = {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "MANIFEST.in", "pyproject.toml", "setup.py"}
    assert held == python | others | {"detrex_ext/zoo.json", "PKG-INFO", "setup.cfg"}


def test_configs_are_found_without_a_checkout(installed: Path, tmp_path: Path) -> None:
    code = (
        "import json, detrex_ext; from detrex_ext.config import load_config, shipped_configs;"
        "names = sorted(shipped_configs()); loaded = [bool(load_config(n).model) for n in names];"
        "train = detrex_ext.get_config('common/train.py').train;"
        "load_config('configs/photos.py', ['configs/overlays/dac.py']);"
        "load_config('projects/dino/configs/dino_r50_4scale_12ep.py');"
        "print(json.dumps([detrex_ext.__file__, names, all(loaded), train.max_iter]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    file, names, loaded, max_iter = json.loads(done.stdout)
    assert Path(file).is_relative_to(installed)
    assert {"small", "quickstart", "deformable_detr_r50_50ep"} <= set(names)
    assert loaded and max_iter > 0


def test_check_train_and_predict_in_an_empty_folder(installed: Path, shapes_data: Path, tmp_path: Path) -> None:
    images = str(shapes_data / "images")
    report = json.loads(detrex_ext(installed, tmp_path, "check", str(shapes_data / "train.json"), "--json", "-"))
    assert report["ok"] and report["num_images"] == 12
    data = [f"dataset.{split}_{what}={path}" for split in ("train", "val")
            for what, path in (("json", shapes_data / f"{split}.json"), ("images", images))]  # fmt: skip
    detrex_ext(installed, tmp_path, "train", "--config-file", "small", "train.output_dir=run", *data, *SMALL)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    assert any("bbox/AP" in row for row in rows)
    image = str(next((shapes_data / "images").glob("val_*.png")))
    options = ("--output", "drawn", "--threshold", "0", "--device", "cpu")
    detrex_ext(installed, tmp_path, "predict", "run", image, *options)
    (found,) = json.loads((tmp_path / "drawn" / "predictions.json").read_text())
    assert found["boxes"] and set(found["classes"]) <= {"circle", "rectangle", "triangle", "star"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["drawn", "run"]
