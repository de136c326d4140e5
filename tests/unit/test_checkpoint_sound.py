"""Checkpoints that are not as they were saved, or hold what no training leaves: named, and the one before is taken."""

from __future__ import annotations

import json
import logging
import struct

import pytest
import torch
from torch import nn

from detrex_ext.checkpoint import (
    Checkpointer,
    RunFolder,
    convert,
    load_state,
    provenance,
    read_checkpoint,
    write_checkpoint,
)
from detrex_ext.errors import UserError


@pytest.fixture(autouse=True)
def messages(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("detrex_ext"), "propagate", True)
    return caplog


def tiny():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 200), nn.BatchNorm1d(200))


def two_checkpoints(folder):
    checkpointer = Checkpointer(tiny(), str(folder))
    for i in (3, 5):
        checkpointer.save(f"model_{i:07d}", iteration=i)
    return folder / "model_0000005.pth"


def offset_of(path, tensor):
    """Where the values of a tensor begin in a file."""
    return path.read_bytes().index(tensor.detach().numpy().tobytes())


DAMAGE = {
    "a bit": lambda content, at: content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :],
    "4 KiB of zeros": lambda content, at: content[:at] + bytes(4096) + content[at + 4096 :],
    "4 KiB of ones": lambda content, at: content[:at] + b"\xff" * 4096 + content[at + 4096 :],
    "two rows exchanged": lambda content, at: content[:at] + content[at + 160 : at + 320] + content[at : at + 160]
    + content[at + 320 :],
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_and_the_one_before_is_gone_on_with(tmp_path, name, messages):
    path = two_checkpoints(tmp_path)
    path.write_bytes(DAMAGE[name](path.read_bytes(), offset_of(path, tiny()[0].weight)))
    expected = r"5\.pth: is damaged: the values of model\.0\.weight are not those that were saved, by their checksum"
    with pytest.raises(UserError, match=expected):
        read_checkpoint(path)
    assert Checkpointer(tiny(), str(tmp_path)).resume()["iteration"] == 3
    assert "skipped: checkpoint" in messages.text and "is damaged" in messages.text


def test_damage_beside_the_tensors(tmp_path):
    path = tmp_path / "x.pth"
    write_checkpoint({"model": tiny().state_dict(), "class_names": ["bolt", "nut"]}, path)
    path.write_bytes(path.read_bytes().replace(b"bolt", b"bold", 1))
    with pytest.raises(UserError, match="is damaged: the values beside its tensors"):
        read_checkpoint(path)


def test_files_of_others_and_without_checksums_are_read(tmp_path):
    state = tiny().state_dict()
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    files = ["old.pth"]
    if hasattr(torch.serialization, "set_crc32_options"):
        torch.serialization.set_crc32_options(False)
        try:
            torch.save(state, tmp_path / "none.pth")
            write_checkpoint({"model": state}, tmp_path / "ours.pth")
            assert torch.serialization.get_crc32_options() is False
        finally:
            torch.serialization.set_crc32_options(True)
        files += ["none.pth", "ours.pth"]
        content = (tmp_path / "ours.pth").read_bytes()
        (tmp_path / "bad.pth").write_bytes(DAMAGE["a bit"](content, offset_of(tmp_path / "ours.pth", tiny()[0].weight)))
        with pytest.raises(UserError, match="is damaged"):
            read_checkpoint(tmp_path / "bad.pth")
    for name in files:
        back = read_checkpoint(tmp_path / name)["model"]
        assert all(torch.equal(back[key], value) for key, value in state.items())


# ---- what no training leaves


def cast(dtype):
    return lambda state: {key: value.to(dtype) for key, value in state.items()}


def one(key, value):
    def change(state):
        state = {k: v.clone() for k, v in state.items()}
        state[key].view(-1)[-1] = value
        return state

    return change


STATES = {
    "whole numbers": (cast(torch.int64), r"0\.weight, 0\.bias, 1\.weight and 3 more .* hold torch.int64: "),
    "truth values": (cast(torch.bool), ".* hold torch.bool"),
    "complex": (cast(torch.complex64), ".* hold torch.complex64"),
    "NaN": (one("1.running_var", float("nan")), r"NaN or infinite numbers in 1\.running_var"),
    "infinite": (one("0.bias", float("-inf")), r"NaN or infinite numbers in 0\.bias"),
    "too large": (lambda state: {**state, "0.bias": state["0.bias"].double() * 1e300}, "NaN or infinite"),
}


@pytest.mark.parametrize("name", STATES)
def test_weights_that_are_none(tmp_path, name):
    change, expected = STATES[name]
    state, model = change(tiny().state_dict()), tiny()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError, match=f"^checkpoint x: {expected}"):
        load_state(model, state, name="x")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    write_checkpoint({"model": tiny().state_dict(), "ema_state": state}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=f"a.pth: its 'ema_state': {expected}"):
        Checkpointer(tiny(), str(tmp_path)).load(str(tmp_path / "a.pth"))


def test_nan_is_not_converted(tmp_path):
    state = {"decoder.class_embed.0.bias": torch.tensor([1.0, float("nan")])}
    write_checkpoint({"model": state}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a\.pth: NaN in decoder\.class_embed\.0\.bias"):
        convert(tmp_path / "a.pth", tmp_path / "b.pth")
    assert not (tmp_path / "b.pth").exists()


@pytest.mark.parametrize("model", [None, 3, [], "x"])
def test_a_model_that_is_none_is_skipped_by_a_resume(tmp_path, model):
    path = two_checkpoints(tmp_path)
    torch.save({"model": model, "ema_state": tiny().state_dict(), "iteration": 5}, path)
    assert Checkpointer(tiny(), str(tmp_path)).resume()["iteration"] == 3


def test_sums_beyond_a_dtype_and_masks_are_no_damage():
    model = nn.Module()
    model.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    model.register_parameter("fp16", nn.Parameter(torch.full((9,), 60_000.0, dtype=torch.float16)))
    model.register_buffer("bf", torch.full((9,), 3e38, dtype=torch.bfloat16))
    load_state(model, {key: value.clone() for key, value in model.state_dict().items()})
    load_state(model, {**model.state_dict(), "fp16": torch.full((9,), 7.0, dtype=torch.float64)})
    assert model.fp16[0] == 7


# ---- what is followed


def test_nothing_outside_of_a_folder_is_followed(tmp_path, messages):
    run, other = tmp_path / "run", tmp_path / "other"
    run.mkdir(), other.mkdir()
    two_checkpoints(run)
    write_checkpoint({"model": tiny().state_dict(), "iteration": 99}, other / "model_final.pth")
    (other / "model_0000099.pth").write_bytes((other / "model_final.pth").read_bytes())
    (run / "model_final.pth").symlink_to("../other/model_final.pth")
    (run / "model_0000099.pth").symlink_to(other / "model_0000099.pth")
    absolute = str(other / "model_final.pth").encode()
    tags = [b"model_final.pth", b"model_0000099.pth", b"../other/model_final.pth", absolute,
            b"\xff\xfe\0\x80" * 9, b"..", b".", b"/", b"\0", b"x" * 10**7]  # fmt: skip
    for tag in tags:
        (run / "last_checkpoint").write_bytes(tag)
        assert RunFolder(run).newest().data["iteration"] == 5, tag
    assert "model_final.pth leads out of the folder" in messages.text
    (run / "last_checkpoint").unlink()
    (run / "last_checkpoint").symlink_to("/dev/zero")
    assert RunFolder(run).newest().data["iteration"] == 5
    link = tmp_path / "link"
    link.symlink_to(run)
    (run / "model_0000007.pth").symlink_to("model_0000005.pth")
    assert RunFolder(link).newest().data["iteration"] == 5 and "0000007.pth leads" not in messages.text


# ---- what is told


def test_each_file_tells_what_made_it(tmp_path):
    path = two_checkpoints(tmp_path)
    told = read_checkpoint(path)[provenance.KEY]
    assert told == provenance.made_by() and told["torch"] == torch.__version__ and told["detrex_ext"]
    assert all(type(value) is str for value in told.values())


def test_an_installed_package_names_no_commit_of_whatever_is_around_it(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    provenance.checkout.cache_clear()
    try:
        assert "commit" not in provenance.made_by()
    finally:
        provenance.checkout.cache_clear()


# ---- safetensors


def detector():
    state = {f"decoder.class_embed.{i}.bias": torch.arange(3.0) + i for i in range(2)}
    shared = torch.ones(2, 3)
    return {**state, "backbone.a.weight": shared, "backbone.b.weight": shared, "backbone.c.weight": shared.t(),
            "backbone.h.weight": torch.ones(3, dtype=torch.bfloat16), "backbone.s.weight": torch.tensor(2.0),
            "backbone.e.weight": torch.zeros(0, 3)}  # fmt: skip


def test_safetensors_are_written_and_read(tmp_path):
    pytest.importorskip("safetensors")
    known = {"class_names": ["a", "b", "c"], "category_ids": [1, 2, 3], "config": "model: ä", "iteration": 5}
    write_checkpoint({"model": detector(), **known}, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "a.safetensors")
    back = read_checkpoint(tmp_path / "a.safetensors")
    assert all(torch.equal(back["model"][key], value) for key, value in detector().items())
    assert {key: back[key] for key in known} == known and back["holds"] == "model" and back[provenance.KEY]["torch"]
    convert(tmp_path / "a.safetensors", tmp_path / "b.pth")
    again = read_checkpoint(tmp_path / "b.pth")
    assert again["config"] == known["config"] and again["model"].keys() == detector().keys()
    from safetensors.torch import load_file

    assert load_file(tmp_path / "a.safetensors").keys() == detector().keys()


@pytest.mark.parametrize("damage", ["a bit", "text", "other text", "cut", "length"])
def test_safetensors_that_are_damaged(tmp_path, damage):
    pytest.importorskip("safetensors")
    path = tmp_path / "a.safetensors"
    write_checkpoint({"model": detector()}, path)
    content = bytearray(path.read_bytes())
    if damage == "a bit":
        content[-3] ^= 1
    elif damage == "cut":
        content = content[:-8]
    elif damage == "length":
        content[:8] = struct.pack("<Q", 2**62)
    else:
        from safetensors.torch import save

        told = {"text": "{", "other text": json.dumps({"known": 3, "crc32": [1]})}[damage]
        content = save(detector() | {"backbone.b.weight": torch.ones(1), "backbone.c.weight": torch.ones(1)},
                       {"detrex_ext": told})  # fmt: skip
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.safetensors: (is damaged: the values of|cannot be read, it is truncated)"):
        read_checkpoint(path)
