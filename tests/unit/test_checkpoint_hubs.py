"""Weights that torchvision and timm publish: from their caches without a network, else a message."""

from __future__ import annotations

import sys
import types
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import nn

from detrex_ext.checkpoint import load_weights, names_weights, read_checkpoint, resolve
from detrex_ext.errors import UserError
from detrex_ext.modeling.backbones import ResNet


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """torch's cache, empty, and no network."""

    def offline(url, *args, **kwargs):
        raise URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setattr("torch.hub.urlopen", offline)
    return tmp_path / "checkpoints"


def test_a_cached_file_of_torchvision_is_loaded_without_a_network(cache):
    cache.mkdir()
    theirs = torchvision.models.resnet18()
    torch.save(theirs.state_dict(), cache / "resnet18-f37072fd.pth")
    model = nn.Module()
    model.backbone = ResNet(18, out_features=("res5",))
    assert load_weights(model, "torchvision://resnet18").complete
    assert torch.equal(model.backbone.res5[1].conv2.weight, theirs.layer4[1].conv2.weight)


@pytest.mark.parametrize(
    ("name", "file"),
    [("resnet50", "resnet50-0676ba61.pth"), ("ResNet50_Weights.IMAGENET1K_V2", "resnet50-11ad3fa6.pth")],
)
def test_without_a_network_the_message_says_where_the_file_goes(cache, name, file):
    with pytest.raises(UserError) as raised:
        resolve(f"torchvision://{name}")
    text = str(raised.value)
    assert f"https://download.pytorch.org/models/{file} to {cache / file}" in text
    assert "pip install 'detrex_ext[pretrained]'" in text and "train.init_checkpoint=PATH" in text
    assert not list(cache.glob("*"))


@pytest.mark.parametrize("name", ["resnet51", "", "../resnet50", "ResNet50_Weights.V9", "os.system", "A.B.C", "r/"])
def test_unknown_weights_of_torchvision_are_refused(cache, name):
    with pytest.raises(UserError, match="torchvision has no such weights"):
        resolve(f"torchvision://{name}")


@pytest.mark.parametrize("name", ["ftp-of-mine://x.pth", "torchvison://resnet50", "://", "file://nowhere.pth"])
def test_other_addresses_end_in_a_message(cache, name):
    with pytest.raises(UserError, match="cannot be fetched"):
        read_checkpoint(name)


def test_detectron2s_addresses_tell_what_to_do(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"(?s)cannot be fetched.*without a network.*--overlay lite0"):
        read_checkpoint("detectron2://ImageNetPretrained/torchvision/R-0.pkl")


class Hub(types.ModuleType):
    """Stands for huggingface_hub: a cache of one folder, and no network."""

    def __init__(self, folder):
        super().__init__("huggingface_hub")
        self.folder = folder

    def try_to_load_from_cache(self, repo, file):
        path = self.folder / repo.replace("/", "--") / file
        return str(path) if path.is_file() else None

    def hf_hub_download(self, repo, file):
        raise ConnectionError("no network")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    pytest.importorskip("timm", reason="timm is not installed (pip install timm)")
    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub(tmp_path))
    return tmp_path


def test_a_cached_file_of_timm_is_loaded_without_a_network(hub):
    import timm
    from safetensors.torch import save_file

    from detrex_ext.modeling.backbones import TimmBackbone

    theirs = timm.create_model("mobilenetv3_small_050")
    folder = hub / "timm--mobilenetv3_small_050.lamb_in1k"
    folder.mkdir()
    save_file(theirs.state_dict(), folder / "model.safetensors")
    model = nn.Module()
    model.backbone = TimmBackbone("mobilenetv3_small_050")
    assert load_weights(model, "timm://mobilenetv3_small_050.lamb_in1k").complete
    assert torch.equal(model.backbone.body.conv_stem.weight, theirs.conv_stem.weight)
    (folder / "model.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(UserError, match="truncated or not a checkpoint"):
        read_checkpoint("timm://mobilenetv3_small_050")


def test_timm_without_a_network_tells_which_file(hub):
    with pytest.raises(UserError, match=r"(?s)model.safetensors of \S+/timm/resnet18\..*--overlay lite0"):
        resolve("timm://resnet18")


@pytest.mark.parametrize("name", ["", "resnet5000", "resnet18.zz", "../x", "convnext_tiny."])
def test_unknown_weights_of_timm_are_refused(hub, name):
    with pytest.raises(UserError, match="has no weights of that name"):
        resolve(f"timm://{name}")


def test_without_timm_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match="pip install timm"):
        resolve("timm://resnet18")


def test_without_safetensors_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    (tmp_path / "x.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="pip install safetensors"):
        read_checkpoint(tmp_path / "x.safetensors")


def test_what_names_weights():
    yes = ["a.pth", "b/c.pt", "d.pkl", "e.safetensors", "pypi:x", "timm://y", "torchvision://z"]
    no = ["small", "configs/small.py", "pypi", "timm", "output/run", "C:\\runs\\a", "timms://x", ""]
    assert all(map(names_weights, yes)) and not any(map(names_weights, no))
