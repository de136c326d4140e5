"""Reading what ``torch.save`` and ``pickle`` wrote, without running what is in it, and with its checksums verified.

``torch.load`` looks at no checksum, believes the sizes that a file states (before torch 2.10 also where they lead out
of memory), and reads more than weights: programs, and archives that it unpacks.

Format: a zip archive of ``NAME/data.pkl``, whose persistent ids name the members ``NAME/data/KEY``, not compressed;
``torch.save`` gives each its CRC-32. Before torch 1.6: the pickles of a magic number, a version, the machine, the value
and the keys; then for each key the number of its elements, 8 bytes, and the elements.
"""

from __future__ import annotations

import io
import os
import struct
import sys
import zipfile
import zlib
from typing import IO, Any

import torch

from .plain_values import plain
from .restricted import Unpickler
from .stand_ins import Damaged, Refused, whole_numbers
from .torch_tensors import KNOWN_TORCH, Expanded, Storage, StorageType

_ZIP, _LOCAL_HEADER = b"PK\x03\x04", struct.Struct("<4s22xHH")
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001


def read_torch(path: str | os.PathLike, tensors: bool = True) -> Any:
    """Contents of a file of ``torch.save``, on the CPU; tensors that shared memory share it.

    Args:
        path: of a local file.
        tensors: False: tensors are left in the file, and come without values.

    Raises:
        Refused: it holds more than plain values and tensors.
        Damaged: its checksums are not those of its bytes.
    """
    with open(path, "rb") as file:
        zipped = file.read(len(_ZIP)) == _ZIP
        file.seek(0)
        return (_Zip if zipped else _Pickles)(file, tensors).read()


def read_pickle(path: str | os.PathLike) -> Any:
    """Contents of a ``.pkl`` file of arrays; ``Refused`` where it holds more than arrays and plain values."""
    with open(path, "rb") as file:
        return plain(Unpickler(file, os.fstat(file.fileno()).st_size).load(), lambda tensor, path: None)


class _Reader:
    """One file: its storages by key."""

    def __init__(self, file: IO[bytes], tensors: bool) -> None:
        self.file, self.tensors = file, tensors
        self.size, self.held = os.fstat(file.fileno()).st_size, 0
        self.storages: dict[str | int, Storage] = {}
        self.expanded = Expanded()
        self.damaged: set[int] = set()

    def unpickle(self, file: IO[bytes]) -> Any:
        return Unpickler(file, self.size, KNOWN_TORCH, self._stored).load()

    def finish(self, value: Any) -> Any:
        bad: list[str] = []

        def look(tensor: torch.Tensor, path: str) -> None:
            if not tensor.is_meta and tensor.untyped_storage().data_ptr() in self.damaged:
                bad.append(path)

        value = plain(value, look)
        if self.damaged:
            more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
            raise Damaged(f"the values of {', '.join(bad[:3]) or 'a tensor'}{more}")
        return value

    def fetch(self, key: str | int, count: int, dtype: torch.dtype) -> torch.Tensor | None:
        """The bytes of a storage, None where they are not wanted."""
        raise NotImplementedError

    def room(self, size: int) -> torch.Tensor | None:
        """Memory for bytes of the file: in all no more than it has."""
        self.held += size
        if self.held > self.size:
            raise Refused(f"tensors of {self.held:,} bytes in a file of {self.size:,}")
        return torch.empty(size, dtype=torch.uint8) if self.tensors else None

    def _stored(self, pid: Any) -> Storage:
        """The storage of ``("storage", type, key, device, elements)``; of old files maybe a view."""
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise Refused("a reference to what is no storage")
        _, kind, key, _, count, view = (*pid, None)[:6]
        if not isinstance(kind, StorageType) or not isinstance(key, str | int):
            raise Refused("a storage of an unknown kind")
        (count,) = whole_numbers((count,))
        if key not in self.storages:
            data = self.fetch(key, count, kind.dtype)
            self.storages[key] = Storage(kind.dtype, count * kind.dtype.itemsize, data, self.expanded)
        whole, offset, length = self.storages[key], 0, self.storages[key].size
        if view is not None:
            offset, length = (n * kind.dtype.itemsize for n in whole_numbers(tuple(view)[1:]))
        if offset + length > whole.size:
            raise Refused("a view of more bytes than there are")
        data = None if whole.data is None else whole.data[offset : offset + length]
        return Storage(kind.dtype, length, data, self.expanded)


class _Zip(_Reader):
    def read(self) -> Any:
        with zipfile.ZipFile(self.file) as archive:
            self.members = {member.filename: member for member in archive.infolist()}
        self.summed = any(member.CRC for member in self.members.values())  # torch can leave all of them out
        found = [name for name in self.members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(found) != 1:
            raise zipfile.BadZipFile("no data.pkl")
        self.folder = found[0].removesuffix("data.pkl")
        if f"{self.folder}constants.pkl" in self.members:
            raise Refused("a TorchScript program")
        order = f"{self.folder}byteorder"
        if order in self.members and self._bytes(order) != sys.byteorder.encode():
            raise zipfile.BadZipFile("numbers in the byte order of another machine")
        return self.finish(self.unpickle(io.BytesIO(self._bytes(found[0]))))

    def fetch(self, key: str | int, count: int, dtype: torch.dtype) -> torch.Tensor | None:
        name = f"{self.folder}data/{key}"
        member = self.members[name]
        if member.file_size != count * dtype.itemsize:
            raise Refused(f"a storage of {count:,} numbers in {member.file_size:,} bytes")
        data = self.room(member.file_size)
        if data is not None and member.file_size and not self._read_into(member, memoryview(data.numpy())):
            self.damaged.add(data.data_ptr())
        return data

    def _bytes(self, name: str) -> bytes:
        member = self.members[name]
        if member.file_size > self.size:
            raise Refused(f"{name} of {member.file_size:,} bytes in a file of {self.size:,}")
        data = bytearray(member.file_size)
        if not self._read_into(member, memoryview(data)):
            raise Damaged("the values beside its tensors")
        return bytes(data)

    def _read_into(self, member: zipfile.ZipInfo, to: memoryview) -> bool:
        """Whether the bytes of a member, which are read, have its checksum."""
        if member.compress_type != zipfile.ZIP_STORED:
            raise Refused(f"compressed values ({member.filename})")
        self.file.seek(member.header_offset)
        magic, name, extra = _LOCAL_HEADER.unpack(self.file.read(_LOCAL_HEADER.size))
        self.file.seek(member.header_offset + _LOCAL_HEADER.size + name + extra)
        if magic != _ZIP or self.file.readinto(to) != len(to):
            raise zipfile.BadZipFile("truncated")
        return not self.summed or zlib.crc32(to) == member.CRC


class _Pickles(_Reader):
    def read(self) -> Any:
        if self.unpickle(self.file) != _MAGIC or self.unpickle(self.file) != _VERSION:
            raise ValueError("no file of torch")
        machine = self.unpickle(self.file)
        if not isinstance(machine, dict) or machine.get("little_endian", True) != (sys.byteorder == "little"):
            raise ValueError("numbers in the byte order of another machine")
        value = self.unpickle(self.file)
        keys = plain(self.unpickle(self.file), lambda tensor, path: None)
        if not isinstance(keys, list) or {*keys} != self.storages.keys():  # else memory would be as it was found
            raise EOFError("storages without values")
        for key in keys if self.tensors else ():
            storage = self.storages[key]
            (count,) = struct.unpack("<q", self.file.read(8))
            there = self.file.readinto(memoryview(storage.data.numpy())) if storage.size else 0
            if count * storage.dtype.itemsize != storage.size or there != storage.size:
                raise EOFError("truncated")
        return self.finish(value)

    def fetch(self, key: str | int, count: int, dtype: torch.dtype) -> torch.Tensor | None:
        return self.room(count * dtype.itemsize)
