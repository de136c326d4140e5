"""Checkpoints, archives and addresses made to run code, to fill memory or to write elsewhere."""

from __future__ import annotations

import builtins
import copyreg
import io
import os
import pickle
import resource
import struct
import tarfile
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from detrex_ext.checkpoint import read_checkpoint
from detrex_ext.cli import dispatch
from detrex_ext.errors import UserError

COMMAND = "touch mark"


class Evil:
    def __reduce__(self):
        return os.system, (COMMAND,)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder of its own, in which no mark may be, and no memory beyond what reading a small file takes."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not (tmp_path / "mark").exists()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def named(module: str, name: str) -> bytes:
    """A name by STACK_GLOBAL."""
    return text(module) + text(name) + b"\x93"


def whole(value: bytes) -> bytes:
    """A pickle of ``{"model": {"w": value}}``."""
    return b"\x80\x04}" + text("model") + b"}" + text("w") + value + b"ss."


CALL = text(COMMAND) + b"\x85R"
DTYPE = b"cnumpy\ndtype\n" + text("f4") + b"\x85R"
EVAL = text(f"__import__('os').system({COMMAND!r})") + b"\x85R"
PICKLES = {
    "by GLOBAL": b"cos\nsystem\n" + CALL,
    "by STACK_GLOBAL": named("os", "system") + CALL,
    "dotted": named("numpy", "dtype.__class__") + CALL,
    "of numpy.dtypes": named("numpy.dtypes", "__builtins__.__getitem__") + text("eval") + b"\x85R" + EVAL,
    "a module of numpy.dtypes": named("numpy.dtypes", "Float32DType"),
    "a dotted name of torch": named("torch._utils", "os.system") + CALL,
    "by INST": b"(" + text(COMMAND) + b"ios\nsystem\n",
    "by OBJ": b"(" + named("os", "system") + text(COMMAND) + b"o",
    "by NEWOBJ": named("os", "system") + text(COMMAND) + b"\x85\x81",
    "by the registry of extensions": b"\x82\xf0" + CALL,
    "a name with a space": named("os ", "system") + CALL,
    "getattr": named("builtins", "getattr") + named("collections", "OrderedDict") + text("__class__") + b"\x86R",
    "eval of Python 2": named("__builtin__", "eval") + EVAL,
    "a storage inside": named("torch.storage", "_load_from_bytes") + b"B\0\0\0\0\x85R",
    "a state for a class": named("argparse", "Namespace") + b"N}" + text("__init__") + named("builtins", "set")
    + b"s\x86b",
    "a state for a function": named("numpy", "dtype") + b"}" + text("__doc__") + text("x") + b"sb",
    "a state for a dict": b"}}" + text("items") + b"K\x01sb",
    "an identity": text("x") + b"Q",
    "an identity as text": b"Px\n",
    "an array of objects": b"cnumpy\ndtype\n" + text("O8") + b"\x85R",
    "a dtype of parts": b"cnumpy\ndtype\n](" + text("a") + text("O8") + b"\x86e\x85R",
    "flags of a dtype": DTYPE + b"(K\x03" + text("|") + b"N" + text("a") + b"\x85}" + 2 * b"J\xff\xff\xff\xff"
    + b"K\x3ftb",
    "a text through an encoder": named("_codecs", "encode") + text("x") + text("zip") + b"\x86R",
    "a class as a value": named("collections", "OrderedDict"),
    "a function as a value": named("torch._utils", "_rebuild_tensor_v2"),
    "items of what is no dict": named("collections", "OrderedDict") + text("x") + text("y") + b"s",
    "appended to what is no list": DTYPE + text("y") + b"a",
    "in itself": b"]q\x00h\x00a",
    "very deep": b"]" * 20_000 + b"a" * 19_999,
    # ---- that would fill memory
    "an array of a shape alone": named("numpy", "ndarray") + b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86\x85R",
    "more numbers than there are": named("numpy.core.multiarray", "_frombuffer") + b"(B\4\0\0\0abcd" + DTYPE
    + b"J\xff\xff\xff\x7f\x85" + text("C") + b"tR",
    "a bytearray of a length": named("builtins", "bytearray") + b"J\xff\xff\xff\x7f\x85R",
    "a bytearray of 100 GB": b"\x96" + struct.pack("<Q", 10**11),
    "bytes of 100 GB": b"\x8e" + struct.pack("<Q", 10**11),
    "a memo of 100 GB": b"Nr" + struct.pack("<I", 2**32 - 2) + b"cos\nsystem\n",
    "a number of 5,000 digits": b"I1" + b"0" * 5000 + b"\n",
}  # fmt: skip


def in_pkl(content: bytes) -> str:
    with open("x.pkl", "wb") as file:
        file.write(content)
    return "x.pkl"


def in_pth(content: bytes, name: str = "x.pth", **members: bytes) -> str:
    with zipfile.ZipFile(name, "w") as archive:
        archive.writestr("x/data.pkl", content)
        for key, value in members.items():
            archive.writestr(f"x/{key.replace('__', '/')}", value)
    return name


def in_old_pth(content: bytes) -> str:
    with open("old.pth", "wb") as file:
        for head in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(head, file, protocol=2)
        file.write(content + pickle.dumps([]))
    return "old.pth"


@pytest.mark.parametrize("made", [in_pkl, in_pth, in_old_pth])
@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle(name, made, here):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    registered = {**copyreg._extension_registry}
    copyreg._inverted_registry[0xF0] = ("os", "system")
    copyreg._extension_cache[0xF0] = os.system
    try:
        with pytest.raises(UserError, match=r"^checkpoint x?(old)?\.p(kl|th): (holds|cannot be read)"):
            read_checkpoint(made(whole(PICKLES[name])))
    finally:
        del copyreg._inverted_registry[0xF0], copyreg._extension_cache[0xF0]
    assert registered == copyreg._extension_registry
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


@pytest.mark.parametrize("protocol", range(6))
def test_a_reduced_call_by_each_protocol(protocol, here):
    for file in (in_pkl, in_pth, in_old_pth):
        with pytest.raises(UserError, match="system, which is not read because reading it could run code"):
            read_checkpoint(file(pickle.dumps({"model": {"w": Evil()}}, protocol)))


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_and_plain_values_are_read_by_each_protocol(protocol, here):
    array = np.arange(6, dtype=">f4").reshape(2, 3)
    values = [1, -1.5, 10**30, True, None, "ä\n", b"\0\xff", (1, "a"), {1, 2}, 2j, bytearray(b"ab"), OrderedDict(a=[])]
    data = {"model": {"w": array, "f": np.asfortranarray(array), "n": np.float32(2.5), "t": np.array(["a", "bc"])},
            "values": values}  # fmt: skip
    back = read_checkpoint(in_pkl(pickle.dumps(data, protocol)))
    assert back["values"] == values and [type(a) for a in back["values"]] == [type(a) for a in values]
    assert all(np.array_equal(back["model"][key], data["model"][key]) for key in data["model"])
    assert torch.from_numpy(back["model"]["f"]).tolist() == array.tolist() and back["model"]["w"].flags.writeable


def test_a_state_of_an_ordered_dict_hides_no_method(here):
    ordered = named("collections", "OrderedDict") + b")R" + text("w") + b"K\x01s}" + text("items") + b"K\x01sb"
    model = read_checkpoint(in_pkl(b"\x80\x04}" + text("model") + ordered + b"s."))["model"]
    assert list(model.items()) == [("w", 1)]


def test_two_values_that_are_one_stay_one(here):
    shared = torch.arange(4.0)
    torch.save({"model": {"a": shared, "b": shared[1:3], "c": shared.view(2, 2).t()}}, "x.pth")
    state = read_checkpoint("x.pth")["model"]
    state["a"][2] = 9
    assert state["b"].tolist() == [1, 9] and state["c"].tolist() == [[0, 9], [1, 3]]


# ---- storages


def persistent(kind: str, key: str, count: int, size: tuple, stride: tuple, offset: int = 0) -> bytes:
    """A pickle with one tensor of a storage."""
    class Name:
        pass

    class Pickler(pickle._Pickler):
        def persistent_id(self, value):
            return ("storage", getattr(torch, kind), key, "cpu", count) if isinstance(value, Name) else None

    class Rebuilt:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Name(), offset, size, stride, False, OrderedDict())

    out = io.BytesIO()
    Pickler(out, 2).dump({"model": {"w": Rebuilt()}})
    return out.getvalue()


BYTES = {"data__0": bytes(16), "data__1": b"12345678"}
STORAGES = {
    "more numbers than bytes": (("FloatStorage", "0", 10**9, (10**9,), (1,)), r"1,000,000,000 numbers in 16 bytes"),
    "of another type": (("DoubleStorage", "0", 4, (4,), (1,)), "4 numbers in 16 bytes"),
    "a shape beyond it": (("FloatStorage", "0", 4, (5,), (1,)), r"shape \(5,\) in 16 bytes"),
    "a stride beyond it": (("FloatStorage", "0", 4, (2, 2), (1, 3)), r"shape \(2, 2\) in 16 bytes"),
    "an offset beyond it": (("FloatStorage", "0", 4, (4,), (1,), 1), r"shape \(4,\) in 16 bytes"),
    "a negative offset": (("FloatStorage", "0", 4, (1,), (1,), -1), "a shape of"),
    "a negative stride": (("FloatStorage", "0", 4, (2,), (-1,)), "a shape of"),
    "an offset beyond all numbers": (("FloatStorage", "0", 4, (1,), (1,), 2**63 - 1), "in 16 bytes"),
    "one number for 4 TB": (("FloatStorage", "0", 4, (10**12,), (0,)), "bytes more than are there"),
    "no such file": (("FloatStorage", "7", 4, (4,), (1,)), "KeyError"),
    "a path": (("FloatStorage", "../../data.pkl", 4, (4,), (1,)), "KeyError"),
}  # fmt: skip


@pytest.mark.parametrize("name", STORAGES)
def test_a_tensor_of_bytes_that_are_not_there(name, here):
    arguments, expected = STORAGES[name]
    with pytest.raises(UserError, match=f"x.pth: (holds|cannot be read).*{expected}"):
        read_checkpoint(in_pth(persistent(*arguments), **BYTES))


def test_old_files_whose_storages_have_no_values(here):
    with pytest.raises(UserError, match=r"old.pth: cannot be read.*EOFError"):
        read_checkpoint(in_old_pth(persistent("FloatStorage", "0", 4, (4,), (1,))))


def test_a_sound_one_is_read(here):
    good = persistent("LongStorage", "1", 1, (1,), (1,))
    assert read_checkpoint(in_pth(good, **BYTES))["model"]["w"].numpy().tobytes() == b"12345678"


# ---- archives


def saved(**values) -> bytes:
    out = io.BytesIO()
    torch.save({"model": {"w": torch.zeros(1000)}, **values}, out)
    return out.getvalue()


def test_a_zip_bomb(here):
    """Compressed zeros, a member that says it is 1 TB, and many that are the same bytes."""
    with zipfile.ZipFile("x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", persistent("FloatStorage", "0", 2**26, (2**26,), (1,)))
        archive.writestr("x/data/0", bytes(2**28))
    assert os.path.getsize("x.pth") < 10**6
    with pytest.raises(UserError, match="x.pth: holds compressed values"):
        read_checkpoint("x.pth")
    content = bytearray(in_memory(persistent("FloatStorage", "0", 4, (4,), (1,))))
    at = content.rindex(b"PK\x01\x02")
    content[at + 20 : at + 28] = struct.pack("<II", 2**32 - 2, 2**32 - 2)
    with open("y.pth", "wb") as file:
        file.write(content)
    with pytest.raises(UserError, match="y.pth: holds a storage of 4 numbers in 4,294,967,294 bytes"):
        read_checkpoint("y.pth")


def in_memory(content: bytes) -> bytes:
    with open(in_pth(content, "m.pth", data__0=bytes(16)), "rb") as file:
        return file.read()


def test_many_members_of_the_same_bytes(here):
    size = 2**20
    names = [f"x/data/{i}" for i in range(40)]
    with zipfile.ZipFile("x.pth", "w") as archive:
        archive.writestr("x/data/0", bytes(size))
        for name in names[1:]:
            twin = zipfile.ZipInfo(name)
            twin.file_size = twin.compress_size = size
            twin.CRC, twin.header_offset = archive.getinfo("x/data/0").CRC, 0
            archive.filelist.append(twin)
            archive.NameToInfo[name] = twin
        pickles = [persistent("FloatStorage", str(i), size // 4, (size // 4,), (1,)) for i in range(40)]
        archive.writestr("x/data.pkl", b"\x80\x02]" + b"".join(p[2:-1] + b"a" for p in pickles) + b".")
    with pytest.raises(UserError, match="x.pth: holds tensors of .* bytes in a file of"):
        read_checkpoint("x.pth")


def test_a_program_and_an_archive_are_no_weights(here):
    with pytest.raises(UserError, match="x.pth: holds a TorchScript program"):
        read_checkpoint(in_pth(pickle.dumps({}), **{"constants.pkl": pickle.dumps(())}))
    with tarfile.open("t.pth", "w") as archive:
        link = tarfile.TarInfo("storages")
        link.type, link.linkname = tarfile.SYMTYPE, str(here / "mark")
        archive.addfile(link)
        archive.add(in_pkl(pickle.dumps(Evil())), "storages")
    with pytest.raises(UserError, match="t.pth: cannot be read"):
        read_checkpoint("t.pth")
    assert sorted(os.listdir()) == ["t.pth", "x.pkl", "x.pth"]


# ---- names of files


@pytest.mark.parametrize("name", ["$(touch mark).pth", "x;touch mark;.pth", "`touch mark`.pth", "|touch mark.pth"])
def test_a_name_is_no_command(name, here, capsys):
    with open(name, "wb") as file:
        file.write(saved(config=3))
    assert dispatch(["convert", "./" + name, "./out;touch mark.pth"]) == 2  # holds no known model
    with pytest.raises(UserError, match="its config|no config"):
        import detrex_ext

        detrex_ext.load("./" + name, device="cpu")


@pytest.mark.parametrize(
    "url",
    [
        "https://host/../../../../tmp/x.pth", "http://host/a/%2e%2e/%2e%2e/x.pth", "https://host/a/..%2f..%2fx.pth",
        "https://host/..\\..\\x.pth", "detectron2://../../x.pkl", "file:///etc/passwd", "gopher://a/b.pth",
        "https://host/x.pth/", "https://host/a\nb.pth", "https://host/x.pth\0",
    ],
)  # fmt: skip
def test_an_address_leads_to_no_file_of_this_machine(url, here, monkeypatch):
    from iopath.common import file_io

    def download(*given, **more):
        raise AssertionError(f"would be fetched to {given}")

    monkeypatch.setattr(file_io, "download", download)
    with pytest.raises(UserError, match="cannot be fetched") as raised:
        read_checkpoint(url)
    assert "would be fetched" not in str(raised.value)


def test_what_is_no_pickle_at_all(here):
    assert builtins.open  # the names above are of strings alone
    for content in (b"", b"\x80", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"\0" * 100, os.urandom(500)):
        for made in (in_pkl, lambda c: (open("x.pth", "wb").write(c), "x.pth")[1]):
            with pytest.raises(UserError, match=r"x\.p(kl|th): (cannot be read|holds)"):
                read_checkpoint(made(content))
