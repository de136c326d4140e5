"""Reading weight files without running what is in them; writing them whole."""

import argparse
import errno
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from detrex_ext.checkpoint import Checkpointer, load_weights, read_checkpoint, write_checkpoint
from detrex_ext.checkpoint.files import write_whole
from detrex_ext.errors import UserError


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil-was-here",)


def tiny(width=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, width), nn.Linear(width, 2))


@pytest.mark.parametrize("name", ["x.pth", "x.pkl"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    data = {"model": {"w": Evil()}}
    if name.endswith("pkl"):
        (tmp_path / name).write_bytes(pickle.dumps(data))
    else:
        torch.save(data, tmp_path / name)
    with pytest.raises(UserError, match="system"):
        read_checkpoint(tmp_path / name)
    assert not (tmp_path / "evil-was-here").exists()


def test_plain_values_of_older_files_are_read(tmp_path):
    data = {
        "model": {"w": torch.ones(2)},
        "args": argparse.Namespace(lr=1.0),
        "betas": OmegaConf.create([0.9, 0.999]),
        "cfg": OmegaConf.create({"a": {"b": 1}}),
        "np": np.float64(3.0),
        "array": np.arange(3),
        "flag": np.bool_(True),
        "ordered": OrderedDict(a=1),
    }
    torch.save(data, tmp_path / "x.pth")
    back = read_checkpoint(tmp_path / "x.pth")
    assert back["np"] == 3.0 and back["array"].tolist() == [0, 1, 2] and back["betas"][1] == 0.999
    assert back["args"].lr == 1.0 and back["cfg"] == {"a": {"b": 1}}


def test_pickled_arrays_are_read(tmp_path):
    data = {"model": {"stem.conv1.weight": np.ones((2, 3), np.float32)}, "__author__": "torchvision"}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(data))
    assert read_checkpoint(tmp_path / "x.pkl")["model"]["stem.conv1.weight"].shape == (2, 3)


def test_a_bare_state_dict_is_a_model(tmp_path):
    torch.save(tiny().state_dict(), tmp_path / "x.pth")
    assert set(read_checkpoint(tmp_path / "x.pth")) == {"model"}


@pytest.mark.parametrize("keep", [0, 10, 700])
def test_a_truncated_file_is_named_with_its_size(tmp_path, keep):
    path = tmp_path / "x.pth"
    torch.save(tiny().state_dict(), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=rf"x\.pth: cannot be read, it is truncated.*\({keep} bytes"):
        read_checkpoint(path)


@pytest.mark.parametrize("name", ["x.pth", "x.pyth"])
def test_a_file_that_was_saved_on_a_gpu_is_read_without_one(tmp_path, name):
    state = tiny().state_dict()
    torch.save(state, tmp_path / "cpu.pth")
    with zipfile.ZipFile(tmp_path / "cpu.pth") as source, zipfile.ZipFile(tmp_path / name, "w") as target:
        for member in source.infolist():
            content = source.read(member)
            if member.filename.endswith("data.pkl"):
                assert b"X\3\0\0\0cpu" in content
                content = content.replace(b"X\3\0\0\0cpu", b"X\6\0\0\0cuda:7")
            target.writestr(member.filename, content)
    back = read_checkpoint(tmp_path / name)["model"]
    assert all(torch.equal(back[key], value) and back[key].device.type == "cpu" for key, value in state.items())


def test_a_missing_file_names_what_is_beside_it(tmp_path):
    (tmp_path / "model_final.pth").write_bytes(b"")
    with pytest.raises(UserError, match="not found; beside it: model_final.pth"):
        read_checkpoint(tmp_path / "model_fnal.pth")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.pth"
    write_checkpoint({"a": torch.zeros(1)}, path)
    before = path.read_bytes()
    with pytest.raises(AttributeError):
        write_checkpoint({"a": torch.zeros(1), "b": lambda: 0}, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


def test_a_full_disk_is_told_by_the_name_of_the_file(tmp_path):
    def full(temporary):
        with open("/dev/full", "wb") as device:
            torch.save({"a": torch.zeros(3000)}, device)

    path = tmp_path / "m.pth"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="No space left on device") as raised:
        write_whole(path, full)
    assert raised.value.filename == str(path) and raised.value.errno == errno.ENOSPC
    assert [p.name for p in tmp_path.iterdir()] == ["m.pth"] and path.read_bytes() == b"old"


def test_a_killed_write_leaves_the_old_file_and_the_next_run_tidies_up(tmp_path):
    path = tmp_path / "model_final.pth"
    write_checkpoint({"model": tiny().state_dict()}, path)
    before = path.read_bytes()
    code = (
        "import os, sys; from detrex_ext.checkpoint.files import write_whole\n"
        "def part(file):\n    file.write(b'half'); file.flush(); os.kill(os.getpid(), 9)\n"
        f"write_whole({str(path)!r}, part)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 2
    Checkpointer(tiny(), str(tmp_path))
    assert len(list(tmp_path.iterdir())) == 1


def checkpoints(folder, count=3):
    """A run folder with ``count`` checkpoints whose weights are filled with their number."""
    model = tiny()
    checkpointer = Checkpointer(model, str(folder))
    for i in range(count):
        with torch.no_grad():
            model[0].bias.fill_(i)
        checkpointer.save(f"model_{i:07d}", iteration=i)
        os.utime(folder / f"model_{i:07d}.pth", (1000 + i, 1000 + i))
    return model


def test_resume_takes_the_tagged_file(tmp_path):
    checkpoints(tmp_path)
    model = tiny()
    assert Checkpointer(model, str(tmp_path)).resume()["iteration"] == 2
    assert model[0].bias[0] == 2


@pytest.mark.parametrize("damage", ["truncate", "delete", "empty tag", "no tag"])
def test_resume_falls_back_to_the_newest_readable_file(tmp_path, damage, caplog):
    checkpoints(tmp_path)
    newest = tmp_path / "model_0000002.pth"
    if damage == "truncate":
        newest.write_bytes(newest.read_bytes()[:100])
    elif damage == "delete":
        newest.unlink()
    elif damage == "empty tag":
        (tmp_path / "last_checkpoint").write_text("")
    else:
        (tmp_path / "last_checkpoint").unlink()
    expected = 1 if damage in ("truncate", "delete") else 2
    assert Checkpointer(tiny(), str(tmp_path)).resume()["iteration"] == expected
    if damage == "truncate":
        assert "model_0000002.pth: cannot be read" in caplog.text


def test_resume_without_a_readable_file_lists_what_was_tried(tmp_path):
    checkpoints(tmp_path, 2)
    for path in tmp_path.glob("*.pth"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"(?s)no readable checkpoint.*0000001\.pth.*0000000\.pth"):
        Checkpointer(tiny(), str(tmp_path)).resume()
    (tmp_path / "fresh").mkdir()
    assert Checkpointer(tiny(), str(tmp_path / "fresh")).resume() == {}


def test_an_untagged_copy_is_not_resumed_from(tmp_path):
    model = checkpoints(tmp_path, 1)
    Checkpointer(model, str(tmp_path)).save("model_best", tag=False, iteration=99)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000000.pth"


def test_files_are_written_by_the_main_process_only(tmp_path):
    Checkpointer(tiny(), str(tmp_path), save_to_disk=False).save("model_0000000")
    assert list(tmp_path.iterdir()) == []


def test_every_process_takes_part_in_a_save(tmp_path):
    """A state may be gathered from all of them."""
    asked = []

    class Gathered:
        def state_dict(self):
            asked.append(True)
            return {}

    Checkpointer(tiny(), str(tmp_path), save_to_disk=False, part=Gathered()).save("model_0000000")
    assert asked == [True] and not list(tmp_path.iterdir())


def test_extra_values_travel_in_every_file(tmp_path):
    Checkpointer(tiny(), str(tmp_path), extra={"class_names": ["bolt"]}).save("a")
    assert read_checkpoint(tmp_path / "a.pth")["class_names"] == ["bolt"]


def test_a_failed_load_does_not_spoil_the_next(tmp_path):
    checkpointer = Checkpointer(tiny(), str(tmp_path))
    checkpointer.save("good")
    torch.save(tiny(7).state_dict(), tmp_path / "other.pth")
    with pytest.raises(UserError, match="another shape"):
        checkpointer.load(str(tmp_path / "other.pth"))
    checkpointer.load(str(tmp_path / "good.pth"))
    assert load_weights(tiny(), tmp_path / "good.pth").complete
